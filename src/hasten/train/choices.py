"""What a recipe leaves to measurement: settings by trial, and the blocks to recompute to fit a budget."""

from __future__ import annotations

from dataclasses import asdict, replace
from time import perf_counter
from typing import Any

import torch

from hasten.data.array import Data
from hasten.data.loader import Batch
from hasten.model.source import Source
from hasten.train import training
from hasten.train.memory import autotune, recompute
from hasten.train.recipe import Recipe
from hasten.train.training import Training

MEASURED = 8  # samples: bytes grow with them in proportion, so that few tell
SECONDS = 8.0  # of measuring for a plan, as far as more samples would only make it truer


def choose(recipe: Recipe, data: Data, source: Source, batch: Batch) -> dict[str, Any]:
    """What the recipe leaves to measurement, decided on a network of its own with ``batch``; ready for JSON.

    ``setting`` and ``trials`` of autotune, ``checkpointing`` (the blocks to recompute) and ``planned`` of a memory
    budget.  Raises BadInput when nothing fits the budget.
    """
    choices: dict[str, Any] = {}
    options = recipe.train
    if options.autotune:
        run = training.prepare(recipe, data, None, source, {})
        plain = autotune.settings(run.network, options.threads, options.channels_last)
        chosen, trials = autotune.choose(run.network, plain, lambda setting: _rehearse(run, batch, setting))
        choices |= {"setting": asdict(chosen), "trials": [asdict(trial) for trial in trials]}
    if recipe.budget_bytes is not None:
        run = training.prepare(recipe, data, None, source, choices)
        fit = recompute.choose(costs(run, batch), kept_bytes(run, batch), recipe.budget_bytes, gradients(recipe))
        planned = {"peak_bytes": fit.peak_bytes, "extra_seconds": fit.extra_seconds}
        choices |= {"checkpointing": list(fit.names), "planned": planned}
    return choices


def _rehearse(run: Training, batch: Batch, setting: autotune.Setting) -> None:
    """The forward and backward pass of one micro-batch."""
    run.setting = setting
    part = run.examples(batch).parts(run.recipe.train.accumulate)[0]
    run.losses(part)[0].backward()  # type: ignore[no-untyped-call]
    training.drop_gradients_(run)
    if run.device.type == "cuda":
        torch.cuda.synchronize(run.device)


def costs(run: Training, batch: Batch) -> recompute.Costs:
    """What the blocks of the network keep and cost in a micro-batch, measured on a few samples of ``batch``, and on as
    many more as there are time and memory for.

    The run is of no further use: its optimiser has made steps.
    """
    began = perf_counter()
    size = len(batch.samples) // run.recipe.train.accumulate

    def loss(count: int) -> torch.Tensor:
        part = run.examples(replace(batch, samples=batch.samples[:count], labels=batch.labels[:count]))
        return run.losses(part)[0]

    def steps(count: int) -> None:
        for _ in range(2):  # the second leaves other gaps than the first
            loss(count).backward()  # type: ignore[no-untyped-call]
            for optimizer in run.state.optimizers:
                optimizer.step()
            training.drop_gradients_(run)

    def grown(count: int) -> int | None:
        return recompute.grown_bytes(run.device, lambda: steps(count))

    few = min(size, MEASURED)
    first = grown(few)  # with the code that is read from disk now, and stays
    found = recompute.measure(run.network, lambda: loss(few)).scaled(size / few)
    if first is None:
        return found
    known = {few: grown(few) or 0}
    # the more samples, the truer, but the whole must not be tried where it might not fit
    more = (
        size if 4 * recompute.peak_bytes(found, (), 0) < recompute.available_bytes(run.device) else min(size, 4 * few)
    )
    affordable = int((SECONDS - (perf_counter() - began)) / (2 * found.seconds / size))
    more = min(more, affordable)
    if more > few:
        known[more] = grown(more) or 0
    return recompute.with_workspace(found, size, max(first - known[few], 0), known)


def kept_bytes(run: Training, batch: Batch) -> int:
    """What a step holds besides activations and gradients: weights, moments, averages, and four times the batch
    (clean, noise, noised, wanted)."""
    stepped = sum(each.nbytes for each in run.state.named.values())
    moments = {"muon": 1.0, "adamw_8bit": 0.5}.get(run.recipe.train.optimizer, 2.0) * stepped
    return int(sum(each.nbytes for each in run.state.tensors().values()) + moments + 4 * batch.samples.nbytes)


def gradients(recipe: Recipe) -> recompute.Gradients:
    """How gradients come and go in the recipe's steps."""
    if recipe.train.accumulate > 1:
        return "stay"
    return "used" if recipe.train.step_in_backward else "grow"
