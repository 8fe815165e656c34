"""Twenty runs with planted faults: how many finish, and how far their held-out loss is from the clean run's.

    python benchmarks/train_faults.py           # a few minutes; the result goes to benchmarks/results/train_faults.json

A small U-Net on digits, 500 steps.  Faults strike at batches drawn by the run's number: bursts of ten times the
learning rate (twice, five batches long), corrupt batches (samples fifty times too large), overflow in fp16 (infinite
gradients, with the loss scale doubled again and again), NaN in one number of one gradient.  The clean run has the same
precision and no faults.  The loss is the mean of hasten's own held-out figures.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from hasten.environment import environment
from hasten.errors import HastenError
from hasten.files import write_text
from hasten.train import log, loop, recipe
from hasten.train.training import Training
from hasten.train.weights import precision

RESULT = Path(__file__).parent / "results" / "train_faults.json"
STEPS, EACH = 500, 5
Fault = Callable[[np.random.Generator], Iterator[None]]


def made(**options: Any) -> recipe.Recipe:
    """The recipe of every run."""
    train = {
        "steps": STEPS, "batch_size": 32, "learning_rate": 2e-3, "warmup_steps": 50, "ema_decay": 0.98,
        "checkpoint_every": 25, "sample_every": STEPS, "validate_every": STEPS, "rewind_spikes": True, **options,
    }  # fmt: skip
    model = {"block_out_channels": [16, 32], "attention_levels": [1], "attention_head_dim": 16}
    return recipe.check({"data": {"name": "digits", "size": 8}, "model": model, "train": train}, "", "benchmark")


class Now:
    """Which batch the loop is at."""

    number = 0


@contextmanager
def following() -> Iterator[None]:
    """Keep Now up to date."""
    examples = Training.examples

    def seen(run: Training, batch: Any) -> Any:
        Now.number = batch.number
        return examples(run, batch)

    with mock.patch.object(Training, "examples", seen):
        yield


def places(rng: np.random.Generator, count: int) -> set[int]:
    """Batches at which something happens."""
    return set(rng.choice(np.arange(60, STEPS - 60), count, replace=False).tolist())


@contextmanager
def bursts(rng: np.random.Generator) -> Iterator[None]:
    """Ten times the learning rate for five batches, twice."""
    struck = {start + n for start in places(rng, 2) for n in range(5)}
    set_rate = loop._set_rate

    def burst(run: Training) -> float:
        rate = set_rate(run)
        if run.state.batch in struck:
            rate *= 10
            for optimizer in run.state.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = rate
        return rate

    with mock.patch.object(loop, "_set_rate", burst):
        yield


@contextmanager
def corrupt(rng: np.random.Generator) -> Iterator[None]:
    """Samples fifty times too large, in six batches."""
    struck = places(rng, 6)
    examples = Training.examples

    def spoiled(run: Training, batch: Any) -> Any:
        if batch.number in struck:
            batch = type(batch)(batch.number, batch.ids, batch.samples * 50, batch.labels, batch.waited_seconds)
        return examples(run, batch)

    with mock.patch.object(Training, "examples", spoiled):
        yield


def spoil_gradient(struck: set[int], value: float, rng: np.random.Generator) -> Any:
    """One number of one gradient becomes ``value`` in these batches."""
    gather_ = precision.Weights.gather_
    choice = int(rng.integers(1 << 30))

    def gather(weights: precision.Weights) -> None:
        gather_(weights)
        if Now.number in struck:
            named = list(weights.own.values())
            gradient = named[(choice + Now.number) % len(named)].grad
            if gradient is not None:
                gradient[(0,) * gradient.dim()] = value

    return mock.patch.object(precision.Weights, "gather_", gather)


@contextmanager
def overflow(rng: np.random.Generator) -> Iterator[None]:
    """fp16 whose scale begins far too large and grows every ten steps, with infinite gradients in six batches."""
    large = torch.amp.GradScaler("cpu", init_scale=2.0**30, growth_interval=10)
    scaler = mock.patch.object(precision, "scaler", return_value=large)
    with scaler, spoil_gradient(places(rng, 6), torch.inf, rng):
        yield


@contextmanager
def nans(rng: np.random.Generator) -> Iterator[None]:
    """NaN in one gradient, in six batches."""
    with spoil_gradient(places(rng, 6), torch.nan, rng):
        yield


FAULTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "learning rate x10": (bursts, {}),
    "corrupt batches": (corrupt, {}),
    "fp16 overflow": (overflow, {"precision": "float16"}),
    "NaN in a gradient": (nans, {}),
}


def run(options: dict[str, Any], fault: Any, number: int) -> dict[str, Any]:
    """One run: whether it finished, its held-out loss, and what was left out."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        stack.enter_context(following())
        if fault is not None:
            stack.enter_context(fault(np.random.default_rng(number)))
        out = Path(folder, "run")
        try:
            loop.train(made(**options), out, warn=lambda _line: None)
        except HastenError as error:  # that it does not finish is the figure
            return {"finished": False, "said": repr(error)}
        lines = log.read(out / log.NAME)
    kinds = [line.get("event") for line in lines]
    loss = next(line["loss"] for line in lines if line.get("event") == "validation")
    return {"finished": True, "loss": loss, "skipped": kinds.count("skipped"), "rewinds": kinds.count("rewind")}


def main() -> None:
    """Clean runs, then all faults."""
    torch.set_num_threads(1)
    clean = {kind: run({"precision": kind}, None, 0)["loss"] for kind in ("float32", "float16")}
    print("clean", clean, flush=True)
    rows = []
    for name, (fault, options) in FAULTS.items():
        for number in range(EACH):
            found = {"fault": name, "number": number, **run(options, fault, number)}
            if found["finished"]:
                found["off"] = found["loss"] / clean[options.get("precision", "float32")] - 1.0
            rows.append(found)
            print(found, flush=True)
    finished = [row for row in rows if row["finished"]]
    worst = max(abs(row["off"]) for row in finished)
    within = sum(abs(row["off"]) <= 0.02 for row in finished)
    print(f"{len(finished)} of {len(rows)} finished, {within} within 2 %; the furthest is {worst:.1%} off")
    result = {
        "clean": clean,
        "rows": rows,
        "finished": len(finished),
        "within": within,
        "furthest": worst,
        "environment": environment(),
    }
    write_text(RESULT, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
