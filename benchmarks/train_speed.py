"""A training step of hasten against the plain loop of diffusers: seconds, in pairs, and peak memory, each by itself.

    python benchmarks/train_speed.py            # about 15 minutes on two cores; nothing else should run

Same network, data, batch and machine.  Steps of all sides take turns in a shuffled order, round by round; the figure is
the median ratio with its interval (:mod:`hasten.measure.stats`).  hasten's side is its real loop, its log and its
averages included, held between two steps.  Peaks are of processes of their own, over what each held with its libraries
and data.  The result goes to benchmarks/results/train_speed.json.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from plain_loop import PlainLoop

from hasten.data import emoji
from hasten.environment import environment
from hasten.files import write_text
from hasten.measure.stats import median_ratio
from hasten.model import bundled
from hasten.model import source as sources
from hasten.model.folder import unet
from hasten.technique.precision import Precision
from hasten.train import log, loop, recipe, rehearsal
from hasten.train.memory.autotune import threads_kept

RESULT = Path(__file__).parent / "results" / "train_speed.json"
CHANNELS = [32, 96, 144]
NATIVE = Precision("bfloat16").refuse(sources.load(bundled.folder()).build().facts) is None
ROUNDS, BFLOAT16_ROUNDS = 15, 15 if NATIVE else 3  # 15 times as long where a CPU has no such instructions
Sides = dict[str, dict[str, Any]]
FAST: Sides = {"channels_last": {}, "compile": {"compile": True}, "muon": {"optimizer": "muon"}}
BFLOAT16: Sides = {
    "bfloat16": {"precision": "bfloat16"},
    "bfloat16, fused upsampling": {"precision": "bfloat16", "fused_upsampling": True},
    "bfloat16, muon": {"precision": "bfloat16", "optimizer": "muon"},
}
LEAN: Sides = {
    "channels_last": {},
    "accumulate 4": {"accumulate": 4},
    "accumulate 8": {"accumulate": 8},
    "all blocks": {"checkpointing": "full"},
    "all blocks, accumulate 4": {"checkpointing": "full", "accumulate": 4},
    "accumulate 8, 8-bit, bf16 average": {"accumulate": 8, "optimizer": "adamw_8bit", "ema_dtype": "bfloat16"},
}
LEAN_BFLOAT16: Sides = {
    "bfloat16": {"precision": "bfloat16"},
    "bfloat16, accumulate 4": {"precision": "bfloat16", "accumulate": 4},
}
if NATIVE:
    FAST, LEAN = FAST | BFLOAT16, LEAN | LEAN_BFLOAT16


def ours(size: int, batch: int, **options: Any) -> recipe.Recipe:
    """hasten's recipe for the same network and data."""
    model = {"block_out_channels": CHANNELS, "attention_levels": [2], "attention_head_dim": 48}
    train = {"steps": 100_000, "batch_size": batch, "checkpoint_every": 10_000, "sample_every": 10_000, **options}
    return recipe.check({"data": {"name": "emoji", "size": size}, "model": model, "train": train}, "", "benchmark")


def theirs(size: int, batch: int, bfloat16: bool = False) -> PlainLoop:
    """The plain loop."""
    data = emoji.load(size)
    pictures, labels = (torch.from_numpy(part) for part in data.part(held_out=False))
    network = unet(data.shape, len(data.label_names) + 1, CHANNELS, 1, [2], 48, 8)
    return PlainLoop(network, pictures, labels, batch, 100_000, bfloat16=bfloat16)


class Ended(Exception):
    """Ends a loop that is held."""


class Held:
    """hasten's own loop in a thread, which makes a step when it is told to."""

    def __init__(self, read: recipe.Recipe, out: Path) -> None:
        self.go, self.done, self.over = threading.Semaphore(0), threading.Semaphore(0), False
        self.thread = threading.Thread(target=self._run, args=(read, out), daemon=True)
        self.thread.start()
        self.done.acquire()

    def _run(self, read: recipe.Recipe, out: Path) -> None:
        def progress(_shown: log.Shown) -> None:
            self.done.release()
            self.go.acquire()
            if self.over:
                raise Ended

        try:
            loop.train(read, out, progress=progress, warn=lambda _line: None)
        except Ended:
            self.done.release()

    def step(self) -> None:
        """One step."""
        self.go.release()
        self.done.acquire()

    def end(self) -> None:
        """No more steps."""
        self.over = True
        self.step()
        self.thread.join()


def speed(size: int, batch: int, sides: Sides, bfloat16_rounds: int) -> dict[str, Any]:
    """Seconds of each side, and the ratio of each to the plain loop in float32."""
    with tempfile.TemporaryDirectory() as folder:
        held = {name: Held(ours(size, batch, **options), Path(folder, name)) for name, options in sides.items()}
        steps: dict[str, Callable[[], Any]] = {"plain float32": theirs(size, batch).step}
        if bfloat16_rounds:
            steps["plain bfloat16"] = theirs(size, batch, bfloat16=True).step
        steps |= {name: each.step for name, each in held.items()}
        taken: dict[str, list[float]] = {name: [] for name in steps}
        for step in steps.values():
            step()
        for number in range(ROUNDS):
            if number == bfloat16_rounds:
                steps.pop("plain bfloat16", None)
            for place in np.random.default_rng(number).permutation(len(steps)):
                name = list(steps)[place]
                began = time.perf_counter()
                steps[name]()
                taken[name].append(time.perf_counter() - began)
            print(size, number, {name: round(taken[name][-1], 2) for name in steps}, flush=True)
        for each in held.values():
            each.end()
    found: dict[str, Any] = {"size": size, "batch": batch, "rounds": ROUNDS, "sides": {}}
    for name, each in taken.items():
        ratio = median_ratio(taken["plain float32"][: len(each)], each).inverse()
        against = {}
        if "bfloat16" in name and len(taken.get("plain bfloat16", ())) == len(each):
            other = median_ratio(taken["plain bfloat16"], each).inverse()
            against = {"of_plain_bfloat16": [other.ratio, other.low, other.high]}
        found["sides"][name] = {
            "seconds": float(np.median(each)), "images_per_second": batch / float(np.median(each)),
            "speedup": ratio.ratio, "low": ratio.low, "high": ratio.high, "raw": each,
            **against,
        }  # fmt: skip
    return found


def plain_peak(size: int, batch: int) -> dict[str, int]:
    """Of the plain loop in this process."""
    data = emoji.load(size)
    environment()
    before = log.memory("cpu")[0]
    tensors = [torch.from_numpy(part) for part in data.part(held_out=False)]
    held = log.memory("cpu")[0] - before  # the example reads pictures as it goes; this loop has them all
    network = unet(data.shape, len(data.label_names) + 1, CHANNELS, 1, [2], 48, 8)
    made = PlainLoop(network, *tensors, batch, 100_000)
    for _ in range(rehearsal.STEPS):
        made.step()
    return {"peak_bytes": log.memory("cpu")[1] - before - held, "before_bytes": before}


def peaks(size: int, batch: int, sides: Sides) -> dict[str, Any]:
    """Peaks of all, each in a process of its own."""
    argv = [sys.executable, __file__, "peak", str(size), str(batch)]
    plain = json.loads(subprocess.run(argv, capture_output=True, check=True).stdout)
    found: dict[str, Any] = {"size": size, "batch": batch, "plain": plain, "sides": {}}
    print(size, "plain", plain, flush=True)
    for name, options in sides.items():
        if options.get("compile"):
            continue
        measured = rehearsal.measure(ours(size, batch, **options))
        share = measured.peak_bytes / plain["peak_bytes"]
        found["sides"][name] = {"peak_bytes": measured.peak_bytes, "share": share, "seconds": measured.seconds}
        print(size, name, found["sides"][name], flush=True)
    return found


def main() -> None:
    """All of it."""
    with threads_kept():
        result: dict[str, Any] = {"environment": environment(), "speed": [], "peaks": []}
        lean = BFLOAT16_ROUNDS if NATIVE else 0
        for size, batch, sides, bfloat16_rounds in ((32, 64, FAST, BFLOAT16_ROUNDS), (64, 32, LEAN, lean)):
            result["peaks"].append(peaks(size, batch, sides))
            result["speed"].append(speed(size, batch, sides, bfloat16_rounds))
            write_text(RESULT, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["peak"]:
        print(json.dumps(plain_peak(int(sys.argv[2]), int(sys.argv[3]))))
    else:
        main()
