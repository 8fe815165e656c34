"""What the charts plot: plans by speed and quality with their Pareto front, and the pairs of runs of each round."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hasten.report import words
from hasten.report.result import Candidate, Observation, Result


@dataclass(frozen=True)
class Point:
    """A plan in the chart of speed against quality; ``number`` is its row in the table, 0 the baseline's."""

    number: int
    name: str
    seconds: float
    quality: float
    on_front: bool = False
    chosen: bool = False


@dataclass(frozen=True)
class Pair:
    """Baseline and another run of the same case in the same round; ``ratio`` is the speed-up."""

    plan: str
    case: int
    round: int
    ratio: float


def front(costs: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the Pareto front of (cost, cost), both better low, by rising first cost.

    A point is on it when no other is at least as good in both and better in one; of equal points the first is.
    """
    order = sorted(range(len(costs)), key=lambda i: (*costs[i], i))
    chosen: list[int] = []
    for index in order:
        if not chosen or costs[index][1] < costs[chosen[-1]][1]:
            chosen.append(index)
    return chosen


def ranked(result: Result) -> list[Candidate]:
    """The candidates as the table numbers them: the fastest first, those that failed last."""
    return sorted(result.candidates or [], key=lambda c: (not c.ok, c.seconds_per_image or math.inf))


def by_loss(result: Result) -> bool:
    """Whether quality is the loss against the reference; without one it is the drift."""
    return any(c.loss is not None for c in result.candidates or [])


def points(result: Result) -> list[Point]:
    """The baseline (where quality is a loss) and every candidate that has a time and a quality, the front marked."""
    loss = by_loss(result)
    found: list[Point] = []
    base = result.baseline
    if loss and base.seconds_per_image:
        found.append(Point(0, f"baseline: {words.label(base.label)}", base.seconds_per_image, 0.0))
    for number, tried in enumerate(ranked(result), start=1):
        quality = tried.loss if loss else tried.drift_db
        time = tried.seconds_per_image
        if not tried.ok or quality is None or time is None or time <= 0:
            continue
        chosen = result.candidate is not None and tried.plan == result.candidate.plan
        found.append(Point(number, words.label(tried.label), time, quality, chosen=chosen))
    best = set(front([(p.seconds, p.quality if loss else -p.quality) for p in found]))
    return [Point(p.number, p.name, p.seconds, p.quality, index in best, p.chosen) for index, p in enumerate(found)]


def pairs(observations: Sequence[Observation]) -> list[Pair]:
    """Each candidate's and each second baseline's run with the baseline's of the same case and round.

    Where that was timed more than once, the one nearest in the file is meant: it ran nearest in time.
    """
    runs = [(i, o) for i, o in enumerate(observations) if o.failure is None and o.seconds and o.images > 0]
    baselines: dict[tuple[int, int], list[tuple[int, Observation]]] = {}
    for index, run in runs:
        if run.plan == "baseline":
            baselines.setdefault((run.case, run.round), []).append((index, run))
    found = []
    for index, run in runs:
        near = baselines.get((run.case, run.round))
        if run.plan == "baseline" or not near:
            continue
        _, base = min(near, key=lambda item, index=index: abs(item[0] - index))  # type: ignore[misc]
        found.append(Pair(run.plan, run.case, run.round, _cost(base) / _cost(run)))
    return found


def _cost(run: Observation) -> float:
    return (run.seconds or 0.0) / run.images
