"""What to measure next: ``ask(space, history, budget)`` is pure, so to resume is to read the history again.

Samplers are ranked by successive halving (Jamieson and Talwalkar 2016, arXiv:1502.07943): all of them at one number of
evaluations by drift from converged samples on a few images, which hardly varies with the images; the best, there and at
other numbers, by drift and loss on more of them.  Two are judged on all search cases with the way that is asked
about.  Costs are known beforehand and errors fall with evaluations, so of each way only the fewest evaluations
within the budget matter: a bisection, and no cell that costs more than the best one so far.  Where that ends, twice as
many samplers get their chance.  What time is left goes to the rest of the front, more evaluations for less loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hasten.search.space import ALL, Point, Space, key, point

RUNGS = ((8, 3), (16, 2))  # images that samplers are ranked by, and how many of them go on
WIDTHS = (1, 2)  # times as many go on, once nothing is undecided
FIRST_STEPS = 10  # likely to hold, so that there soon is something to do better than


@dataclass(frozen=True)
class Trial:
    """A point and what was measured there: ``drift_db``, from the baseline where it was judged, from converged
    samples where it was ranked, ``worst``, the loss, or ``failure``."""

    point: Point
    measured: dict[str, Any]

    @property
    def judged(self) -> bool:
        """Whether it was on all search cases, and did not fail."""
        return self.point["images"] == ALL and self.measured.get("worst") is not None

    def within(self, budget: float) -> bool:
        """Whether the loss was within ``budget``."""
        return self.judged and self.measured["worst"] <= budget


Cell = tuple[str, int]  # a way and a number of evaluations
Table = tuple[str, str]  # a solver and a time grid


def ask(space: Space, history: Sequence[Trial], budget: float) -> Point | None:
    """The point to measure next; None when nothing undecided is left."""
    known = {key(trial.point): trial for trial in history if space.holds(trial.point)}
    for width, cells in _wanted(space, known, budget):
        for cell in cells:
            found = _next(space, known, cell, budget, width)
            if found is not None:
                return found
    return None


def best(space: Space, history: Sequence[Trial], budget: float) -> list[Trial]:
    """Trials within the budget, the cheapest first; of equal costs the one of least drift."""
    held = [trial for trial in history if space.holds(trial.point) and trial.within(budget)]
    return sorted(held, key=lambda t: (*space.cost(t.point["way"], t.point["steps"]), -t.measured["drift_db"]))


def front(trials: Sequence[Trial], costs: Callable[[Trial], tuple[float, ...]]) -> list[Trial]:
    """The trials that no other one equals or beats in all of their ``costs``, the least first; of equal ones the
    first."""
    ordered = sorted(trials, key=costs)
    kept: list[Trial] = []
    for trial in ordered:
        mine = costs(trial)
        if not any(all(a <= b for a, b in zip(costs(other), mine, strict=True)) for other in kept):
            kept.append(trial)
    return kept


def rank_correlation(history: Sequence[Trial]) -> tuple[float, int] | None:
    """Spearman's between the loss on the last rung's images and that on all, over samplers that have both, and how
    many; None for fewer than four."""
    few = {
        _sampler(t.point): t.measured["worst"]
        for t in history
        if t.point["images"] == RUNGS[-1][0] and t.measured.get("worst") is not None
    }
    both = [(few[s], t.measured["worst"]) for t in history if t.judged and (s := _sampler(t.point)) in few]
    if len(both) < 4:
        return None
    return _pearson(*(_ranks(values) for values in zip(*both, strict=True))), len(both)


def _wanted(space: Space, known: dict[str, Trial], budget: float) -> Iterator[tuple[int, list[Cell]]]:
    """Widths, and cells in the order in which they are worth measuring: what decides the winner, then the rest of the
    front."""
    for width in WIDTHS:
        decided = _all_decided(space, known, budget, width)
        held = [space.cost(*cell) for cell, within in decided.items() if within]
        open_cells = []
        for cost in space.costs:
            failed = max((n for n in space.steps if decided[cost.way, n] is False), default=0)
            enough = min((n for n in space.steps if decided[cost.way, n]), default=None)
            between = [n for n in space.steps if failed < n and (enough is None or n < enough)]
            between = [n for n in between if not held or space.cost(cost.way, n) < min(held)]
            if between:
                open_cells.append((cost.way, _middle(between, failed, enough)))
        yield width, sorted(open_cells, key=lambda cell: space.cost(*cell))
    if held:  # the rest of the front: the winner's evaluations on the other ways, and more of them
        winner = min((cell for cell, within in decided.items() if within), key=lambda cell: space.cost(*cell))
        others = [(cost.way, winner[1]) for cost in space.costs]
        yield WIDTHS[0], others + [(winner[0], n) for n in space.steps if n > winner[1]]


def _middle(between: list[int], failed: int, enough: int | None) -> int:
    """Where to cut: a likely start, one more than what failed, or half-way."""
    if enough is None:
        return next((n for n in between if n >= FIRST_STEPS), between[-1]) if not failed else between[0]
    return between[len(between) // 2]


def _all_decided(space: Space, known: dict[str, Trial], budget: float, width: int) -> dict[Cell, bool | None]:
    """Whether some sampler of each cell holds the budget; None while that is not known."""
    cells = [(cost.way, steps) for cost in space.costs for steps in space.steps]
    return {cell: _decided(space, known, cell, budget, width) for cell in cells}


def _decided(space: Space, known: dict[str, Trial], cell: Cell, budget: float, width: int) -> bool | None:
    judged = [t for t in known.values() if t.point["images"] == ALL and (t.point["way"], t.point["steps"]) == cell]
    if any(trial.within(budget) for trial in judged):
        return True
    return False if len(judged) >= min(RUNGS[-1][1] * width, len(space.tables)) else None


def _next(space: Space, known: dict[str, Trial], cell: Cell, budget: float, width: int) -> Point | None:
    """The next point of a cell: ranking where that is not done, then judging; None when it is decided."""
    if _decided(space, known, cell, budget, width) is not None:
        return None
    way, steps = cell
    going = list(space.tables)
    for at, (images, kept) in zip((_ranked_in_full(known, steps), steps), RUNGS, strict=True):
        trials = {table: known.get(key(point(space.ranked_on, table, at, images))) for table in going}
        for table, trial in trials.items():
            if trial is None:
                return point(space.ranked_on, table, at, images)
        going = _ordered([trial for trial in trials.values() if trial is not None])[: kept * width]
    for table in going:
        if key(point(way, table, steps, ALL)) not in known:
            return point(way, table, steps, ALL)
    return None


def _ranked_in_full(known: dict[str, Trial], steps: int) -> int:
    """The number of evaluations that all samplers were ranked at, ``steps`` where there is none yet."""
    images = RUNGS[0][0]
    ranked = [t.point["steps"] for t in known.values() if t.point["images"] == images]
    return ranked[0] if ranked else steps


def _ordered(trials: Sequence[Trial]) -> list[Table]:
    """The samplers by the ranks of their drift and loss together, the best first; what was not measured is last."""
    drifts = [math.inf if (db := t.measured.get("drift_db")) is None else -db for t in trials]
    losses = [math.inf if (loss := t.measured.get("worst")) is None else loss for t in trials]
    sums = [a + b for a, b in zip(_ranks(drifts), _ranks(losses), strict=True)]
    order = sorted(range(len(trials)), key=lambda i: sums[i])
    return [(trials[i].point["solver"], trials[i].point["grid"]) for i in order]


def _sampler(point: Point) -> tuple[str, str, int]:
    return point["solver"], point["grid"], point["steps"]


def _ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 0, equal values sharing the mean of theirs."""
    ordered = sorted(values)
    return [(2 * ordered.index(v) + ordered.count(v) - 1) / 2 for v in values]


def _pearson(a: Sequence[float], b: Sequence[float]) -> float:
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    products = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    spread = (sum((x - mean_a) ** 2 for x in a) * sum((y - mean_b) ** 2 for y in b)) ** 0.5
    return products / spread if spread else 0.0
