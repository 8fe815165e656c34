"""A hundred ``kill -9`` at random moments of training: does any lose a checkpoint that was committed?

    python benchmarks/train_kills.py            # about five minutes; the result goes to results/train_kills.json

Small runs on digits that save after each step are killed again and again, at moments drawn evenly from what a start and
some saves take, and resumed.  After each kill every checkpoint that was there before must be there still, or a newer
one, and each one there must be readable; at the end each run's last checkpoint must equal the uninterrupted run's.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from hasten.environment import environment
from hasten.files import write_text
from hasten.train import loop, recipe, state

RESULT = Path(__file__).parent / "results" / "train_kills.json"
KILLS, STEPS, MOST_SECONDS = 100, 60, 1.5


def train(out: Path) -> None:
    """Begin, or go on."""
    torch.set_num_threads(1)
    train = {
        "steps": STEPS, "batch_size": 32, "warmup_steps": 5, "checkpoint_every": 1, "sample_every": 10 * STEPS,
    }  # fmt: skip
    model = {"block_out_channels": [16, 32], "attention_levels": [1], "attention_head_dim": 16}
    read = recipe.check({"data": {"name": "digits", "size": 8}, "model": model, "train": train}, "", "benchmark")
    loop.train(read, out, any(out.glob(state.PATTERN)), warn=lambda _line: None)


def steps_of(out: Path) -> list[int]:
    """The steps of the checkpoints that are there, oldest first."""
    return sorted(int(path.stem.rpartition("-")[2]) for path in out.glob(state.PATTERN))


def killed(out: Path, seconds: float | None) -> list[int] | None:
    """Train for so long, then kill; what was committed just before, None if it had ended by itself."""
    process = multiprocessing.get_context("fork").Process(target=train, args=(out,))
    process.start()
    process.join(seconds)
    if process.exitcode is None:
        committed = steps_of(out)
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        return committed
    if process.exitcode != 0:
        raise SystemExit(f"{out}: training ended with {process.exitcode}")
    return None


def same(a: Path, b: Path) -> bool:
    """Whether the last checkpoints of two runs hold the same bytes."""
    ours, theirs = (load_file(out / f"checkpoint-{STEPS:07d}.safetensors") for out in (a, b))
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def main() -> None:
    """Kill until it was done often enough."""
    rng = np.random.default_rng(0)
    kills = in_save = lost = unreadable = runs = different = 0
    with tempfile.TemporaryDirectory() as folder:
        straight = Path(folder, "straight")
        began = time.perf_counter()
        killed(straight, None)
        print(f"uninterrupted: {time.perf_counter() - began:.1f} s", flush=True)
        while kills < KILLS:
            out, runs = Path(folder, str(runs)), runs + 1
            while True:
                before = killed(out, float(rng.uniform(0.0, MOST_SECONDS)))
                if before is None:
                    break
                kills += 1
                in_save += bool(list(out.glob(".checkpoint*.part")))
                after = steps_of(out)
                lost += bool(before) and (not after or after[-1] < before[-1])
                for path in out.glob(state.PATTERN):
                    try:
                        state._read(path)
                    except state.UNREADABLE:
                        unreadable += 1
                print(kills, "kills; at", after, flush=True)
            different += not same(out, straight)
    result = {
        "kills": kills, "in_a_save": in_save, "runs": runs, "lost": lost, "unreadable": unreadable,
        "ends_that_differ": different, "environment": environment(),
    }  # fmt: skip
    print(result)
    write_text(RESULT, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
