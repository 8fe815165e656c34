"""Threads and memory layout chosen by measurement when a run begins: what is fastest here, in under a minute.

All choices are timed in turn, round by round, so that what else the machine does meets them alike.  One is taken from
the first, which is what runs without measurement, only when the whole interval of their paired ratio says it is faster.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np
import torch

from hasten.measure.stats import median_ratio

SECONDS = 40.0
MOST_ROUNDS = 15
LEAST_ROUNDS = 5
WORTH = 0.99  # what is less than 1 % faster is noise to whoever trains


@dataclass(frozen=True)
class Setting:
    """What is chosen: torch's ``threads``, and whether pictures lie ``channels_last`` in memory."""

    threads: int
    channels_last: bool

    @property
    def layout(self) -> torch.memory_format:
        """The memory format of the weights and of pictures."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def apply_(self, module: torch.nn.Module) -> None:
        """Set torch's threads, and bring the module's weights into the layout."""
        torch.set_num_threads(self.threads)
        if any(parameter.dim() == 4 for parameter in module.parameters()):
            module.to(memory_format=self.layout)  # type: ignore[call-overload]


@dataclass(frozen=True)
class Trial:
    """One setting's seconds a step (median), and the interval of its ratio to the first one's; below 1 is faster."""

    threads: int
    channels_last: bool
    seconds: float
    ratio: float
    low: float
    high: float


@contextmanager
def threads_kept() -> Iterator[None]:
    """Leaves torch's number of threads as it was."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def settings(module: torch.nn.Module, threads: int | None, channels_last: bool) -> list[Setting]:
    """What there is to choose from, the plain one first; ``threads`` given leaves no choice of them."""
    plain = torch.get_num_threads() if threads is None else threads
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    counts = dict.fromkeys([plain] if threads is not None else [plain, cores, max(cores // 2, 1)])
    convolutional = any(parameter.dim() == 4 for parameter in module.parameters())
    layouts = [channels_last, not channels_last] if convolutional else [channels_last]
    return [Setting(count, layout) for count, layout in product(counts, layouts)]


def choose(
    module: torch.nn.Module,
    choices: list[Setting],
    step: Callable[[Setting], Any],
    seconds: float = SECONDS,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Setting, list[Trial]]:
    """The setting to train with, applied to ``module``, and what was measured.

    ``step(setting)`` runs a forward and backward pass under an applied setting, and waits for the device.  At most
    ``seconds`` are spent, but for the step that runs.
    """
    taken: list[list[float]] = [[] for _ in choices]
    began = clock()
    for number in range(MOST_ROUNDS + 1):
        for place in np.random.default_rng(number).permutation(len(choices)):
            choices[place].apply_(module)
            step(choices[place]) if number == 0 else None  # the first time in a layout is slower
            start = clock()
            step(choices[place])
            taken[place].append(clock() - start)
        spent = clock() - began
        if number + 1 >= LEAST_ROUNDS and spent + spent / (number + 1) > seconds:
            break
    trials = [_trial(setting, each, taken[0]) for setting, each in zip(choices, taken, strict=True)]
    faster = [trial for trial in trials if trial.high < WORTH]
    best = min(faster, key=lambda trial: trial.ratio, default=trials[0])
    chosen = Setting(best.threads, best.channels_last)
    chosen.apply_(module)
    return chosen, trials


def _trial(setting: Setting, taken: list[float], plain: list[float]) -> Trial:
    found = median_ratio(plain, taken)
    return Trial(**asdict(setting), seconds=float(np.median(taken)), ratio=found.ratio, low=found.low, high=found.high)
