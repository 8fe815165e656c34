"""What the clock costs, and what else it does to a short sample: against a plain loop around ``time.perf_counter``.

    python benchmarks/clock.py [--rounds 200]

In each round every way times the same work once, in an order drawn anew; the work is a loop in Python or a chain of
matrix products, of known lengths.  The figure is the median over rounds of (what the clock read) / (what the plain
reading read), with its 95 % interval.  Prints Markdown tables and writes benchmarks/results/clock.json.  Run nothing
else meanwhile.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hasten.environment import environment
from hasten.files import write_text
from hasten.measure.clock import SHORTEST, Clock, settled
from hasten.measure.stats import median_ratio
from hasten.model import bundled, source

RESULTS = Path(__file__).parent / "results" / "clock.json"
TARGETS_US = (0, 20, 200, 2_000, 20_000)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", default=200, type=int)
    rounds = arguments.parse_args().rounds
    torch.set_num_threads(1)  # the length of the work must not depend on who else runs
    model = source.load(bundled.folder()).build()  # as many live objects as a real run has
    clock = Clock()
    print(f"overhead {clock.overhead_seconds * 1e6:.2f} us, tick {clock.tick_seconds * 1e6:.2f} us, ", end="")
    print(f"shortest sample {clock.shortest_seconds * 1e6:.0f} us ({SHORTEST} overheads)\n")
    rows = [row(clock, kind, target, rounds) for kind in WORK for target in TARGETS_US if target or kind == "python"]
    print("\n| settled() | enter and leave, ms | one collection inside, us |\n| --- | --- | --- |")
    collections = [settling(name, context) for name, context in (("yes", settled), ("no", nullcontext))]
    del model
    found = {
        "overhead_seconds": clock.overhead_seconds,
        "tick_seconds": clock.tick_seconds,
        "shortest_seconds": clock.shortest_seconds,
        "samples": rows,
        "settled": collections,
        "environment": environment(),
    }
    write_text(RESULTS, json.dumps(found, indent=1) + "\n")


def python(count: int) -> Callable[[], object]:
    """A loop that allocates nothing that the collector follows."""

    def call() -> int:
        total = 0
        for i in range(count):
            total += i
        return total

    return call


def products(count: int) -> Callable[[], object]:
    """Matrix products whose operands fill most of a second-level cache."""
    a, out = torch.full((160, 160), 1e-3), torch.empty(160, 160)

    def call() -> torch.Tensor:
        for _ in range(count):
            torch.mm(a, a, out=out)
        return out

    return call


WORK = {"python": python, "products": products}


def sized(make: Callable[[int], Callable[[], object]], target_us: int) -> Callable[[], object]:
    """Work of about that length."""
    if target_us == 0:
        return make(0)
    count = 1
    while True:
        call = make(count)
        took = min(plainly(call) for _ in range(5))
        if took * 1e6 >= target_us / 2:
            return make(max(round(count * target_us * 1e-6 / took), 1))
        count *= 2


def plainly(call: Callable[[], object]) -> float:
    """The loop that a person would write."""
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def row(clock: Clock, kind: str, target_us: int, rounds: int) -> dict[str, Any]:
    """One line of the first table: each way of timing ``rounds`` times, in turns."""
    call, rng = sized(WORK[kind], target_us), random.Random(0)  # noqa: S311
    clock.shortest_seconds = 0.0  # also what it would refuse is to be seen

    def collected() -> float:
        gc.collect()
        return plainly(call)

    ways: dict[str, Callable[[], float]] = {
        "plain": lambda: plainly(call),
        "plain after a collection": collected,
        "clock": lambda: clock.time(call)[0],
    }
    read: dict[str, list[float]] = {f"{name}{place}": [] for name in ways for place in ("", ", settled")}
    for place, context in (("", nullcontext), (", settled", settled)):
        with context():
            for _ in range(rounds if place else rounds // 8):  # a collection takes 0.1 s outside of settled()
                for name in rng.sample(list(ways), len(ways)):
                    read[name + place].append(ways[name]())
    found: dict[str, Any] = {"work": kind, "target_us": target_us}
    for place in ("", ", settled"):
        plain = read[f"plain{place}"]
        found[f"plain_us{place}"] = float(np.median(plain)) * 1e6
        found |= {f"{name}{place}": asdict(median_ratio(plain, read[f"{name}{place}"])) for name in list(ways)[1:]}
    if kind == "python" and target_us == 0:
        titles = [
            "plain, us",
            "clock",
            "plain after a collection",
            "clock, settled",
            "plain after a collection, settled",
        ]
        print(f"| work | {' | '.join(titles)} |\n|{' --- |' * 6}")
    shown = [
        f"{found[name]['ratio']:.4f} ({found[name]['low']:.4f} to {found[name]['high']:.4f})"
        for name in ("clock", "plain after a collection", "clock, settled", "plain after a collection, settled")
    ]
    print(f"| {kind} | {found['plain_us']:.2f} | {' | '.join(shown)} |", flush=True)
    return found


def settling(name: str, context: Callable[[], Any]) -> dict[str, Any]:
    """One line of the second table: medians of 10."""
    around, inside = [], []
    for _ in range(10):
        begun = time.perf_counter()
        with context():
            entered = time.perf_counter()
            gc.collect()
            collected = time.perf_counter()
        around.append(entered - begun + time.perf_counter() - collected)
        inside.append(collected - entered)
    found = {
        "settled": name == "yes",
        "around_seconds": float(np.median(around)),
        "inside_seconds": float(np.median(inside)),
    }
    print(f"| {name} | {found['around_seconds'] * 1e3:.1f} | {found['inside_seconds'] * 1e6:.0f} |")
    return found


if __name__ == "__main__":
    main()
