"""More pairs, untimed, until quality can be told or the time is up.

How many are wanted follows from how much the distances vary, never from which way they point, so looking again does not
make a verdict more likely than it should be.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Protocol

import torch

from hasten.measure import quality
from hasten.measure.quality import Quality, Reference, View
from hasten.model.workload import Case, Workload


class Sampler(Protocol):
    """What makes samples (n, *shape) of a case."""

    def sample(self, case: Case) -> torch.Tensor: ...


def judge(
    reference: Reference,
    views: tuple[View, View],
    samplers: Callable[[], tuple[Sampler, Sampler]],
    cases: Callable[[int], Workload],
    *,
    budget: float,
    wanted: float = quality.DETECTABLE,
    stop: Callable[[], bool],
    say: Callable[[str], None],
) -> Quality:
    """The quality by ``views`` of baseline and candidate, and by as many more pairs as make a loss of ``wanted``
    detectable, time allowing.

    ``samplers()`` builds baseline and candidate, only where more pairs are needed; ``cases(n)`` are n fresh cases, the
    first of them always the same; ``stop()`` says when the time is up, which the fewest pairs that quality can be
    measured by don't wait for.
    """
    fresh, (baseline, candidate) = _fresh(cases), views
    pair: tuple[Sampler, Sampler] | None = None

    def more() -> None:
        nonlocal baseline, candidate, pair
        pair = pair or samplers()
        case = next(fresh)
        baseline, candidate = (
            quality.join([view, reference.view(sampler.sample(case))])
            for view, sampler in zip((baseline, candidate), pair, strict=True)
        )

    while len(baseline) < quality.MIN_PAIRS:
        say(f"{len(baseline)} pairs of {quality.MIN_PAIRS} that are needed at least")
        more()
    judged = quality.compare(reference, baseline, candidate, budget=budget)
    needed = quality.pairs_needed(judged, wanted) or 0
    while len(baseline) < needed and not stop() and judged.detectable is not None and judged.detectable > wanted:
        say(f"{len(baseline)} pairs of about {needed} that are needed")
        more()
        judged = quality.compare(reference, baseline, candidate, budget=budget)
    return judged


def _fresh(cases: Callable[[int], Workload]) -> Iterator[Case]:
    for number in itertools.count():
        yield cases(number + 1).cases[number]
