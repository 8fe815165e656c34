"""A few steps of a recipe in a process of its own: what it held before, its peak, and the seconds of a step.

A process can't measure the peak of a part of itself twice, so that each recipe that is compared gets one.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

from hasten.environment import python_child
from hasten.errors import HastenError
from hasten.files import scratch
from hasten.train.recipe import Recipe

STEPS = 4  # the first one is slower


@dataclass(frozen=True)
class Measured:
    """``peak_bytes`` of the steps over ``before_bytes``, which the process held with its libraries and data; on CUDA
    the allocator's, before which there is nothing.  ``seconds`` of a step, the median without the first."""

    peak_bytes: int
    before_bytes: int
    seconds: float


def measure(recipe: Recipe, timeout: float = 600.0) -> Measured:
    """Run STEPS steps of ``recipe`` in a process of its own.  Raises HastenError when that fails."""
    with scratch() as folder:
        asked, answer = folder / "recipe.json", folder / "measured.json"
        asked.write_text(recipe.model_dump_json(), encoding="utf-8")
        try:
            done = subprocess.run(
                python_child("-m", "hasten.train.rehearsal", str(asked), str(answer)),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise HastenError(f"{STEPS} steps did not end within {timeout:g} s; lower train.batch_size") from error
        if done.returncode or not answer.exists():
            lines = done.stderr.decode(errors="replace").strip().splitlines()
            raise HastenError(f"a rehearsal failed ({done.returncode}): {lines[-1] if lines else 'no reason given'}")
        return Measured(**json.loads(answer.read_text(encoding="utf-8")))


class Enough(Exception):
    """Ends the rehearsal."""


def run(recipe: Recipe, out: Path) -> Measured:
    """The steps, in this process."""
    from hasten.environment import environment
    from hasten.train import inputs, log, loop, network

    device = recipe.train.device
    data, _ = inputs.dataset(recipe)
    network.source_of(recipe, data)
    inputs.loader(recipe, data).batch(0)
    environment()
    before = 0 if device.startswith("cuda") else log.memory(device)[0]
    ends: list[float] = []
    peak = 0

    def progress(shown: log.Shown) -> None:
        nonlocal peak
        ends.append(time.perf_counter())
        peak = log.memory(device)[1]
        if shown.step == STEPS:
            raise Enough

    try:
        loop.train(recipe, out, progress=progress, warn=lambda _line: None, data=data)
    except Enough:
        return Measured(peak - before, before, median(b - a for a, b in pairwise(ends)))
    raise HastenError(f"train.steps is under {STEPS}; raise it")


if __name__ == "__main__":
    from hasten.environment import quiet

    quiet()
    told = Recipe.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8"))
    with scratch() as place:
        Path(sys.argv[2]).write_text(json.dumps(asdict(run(told, place / "run"))), encoding="utf-8")
