"""What to measure next: ``ask(space, history, budget)`` is pure, so to resume is to read the history again.

At each number of evaluations samplers are ranked by a cheap proxy, how far a few images are from the converged ones,
and successive halving (Jamieson and Talwalkar 2016, arXiv:1502.07943) leaves two, which are judged on all search cases
with the engine that is asked about.  Costs are known beforehand and errors fall with evaluations, so of each engine
only the fewest evaluations within the budget matter: a bisection, and no cell that costs more than the best one so far.
What time is left goes to the rest of the front, more evaluations for less loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hasten.search.space import ALL, Point, Space, key, point

RUNGS = ((8, 4), (16, 2))  # images that samplers are ranked by, and how many of them go on
NEIGHBOURS = 6  # so many samplers of the nearest number of evaluations are ranked again, once one was ranked in full
FIRST_STEPS = 10  # likely to hold, so that there soon is something to do better than
CLEARLY = 2.0  # a loss of so many budgets rules a number of evaluations out with its best sampler alone


@dataclass(frozen=True)
class Trial:
    """A point and what was measured there: ``drift_db`` of ranking; ``worst``, the loss, of judging; or ``failure``."""

    point: Point
    measured: dict[str, Any]

    @property
    def judged(self) -> bool:
        """Whether it was on all search cases, and did not fail."""
        return self.point["images"] == ALL and self.measured.get("worst") is not None

    def within(self, budget: float) -> bool:
        """Whether the loss was within ``budget``."""
        return self.judged and self.measured["worst"] <= budget


Cell = tuple[str, int]  # an engine and a number of evaluations


def ask(space: Space, history: Sequence[Trial], budget: float) -> Point | None:
    """The point to measure next; None when nothing undecided is left."""
    known = {key(trial.point): trial for trial in history if space.holds(trial.point)}
    for cell in _wanted(space, known, budget):
        found = _next(space, known, cell, budget)
        if found is not None:
            return found
    return None


def best(space: Space, history: Sequence[Trial], budget: float) -> list[Trial]:
    """Trials within the budget, the cheapest first; of equal costs the one of least drift."""
    held = [trial for trial in history if space.holds(trial.point) and trial.within(budget)]
    return sorted(held, key=lambda t: (*space.cost(t.point["engine"], t.point["steps"]), -t.measured["drift_db"]))


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
    """Spearman's between the proxy and the loss, over samplers that were both ranked and judged, and how many; None
    for fewer than four."""
    proxies: dict[tuple[str, str, int], float] = {}
    for trial in history:
        if trial.point["images"] != ALL and trial.measured.get("drift_db") is not None:
            proxies.setdefault(_sampler(trial.point), trial.measured["drift_db"])
    both = [(proxies[s], t.measured["worst"]) for t in history if t.judged and (s := _sampler(t.point)) in proxies]
    if len(both) < 4:
        return None
    drifts, losses = (_ranks(values) for values in zip(*both, strict=True))
    return -_pearson(drifts, losses), len(both)


def _wanted(space: Space, known: dict[str, Trial], budget: float) -> Iterator[Cell]:
    """Cells in the order in which they are worth measuring: what decides the winner, then the rest of the front."""
    decided = {
        (cost.engine, steps): _decided(space, known, (cost.engine, steps), budget)
        for cost in space.costs
        for steps in space.steps
    }
    held = [space.cost(*cell) for cell, within in decided.items() if within]
    open_cells = []
    for cost in space.costs:
        failed = max((n for n in space.steps if decided[cost.engine, n] is False), default=0)
        enough = min((n for n in space.steps if decided[cost.engine, n]), default=None)
        between = [n for n in space.steps if failed < n and (enough is None or n < enough)]
        between = [n for n in between if not held or space.cost(cost.engine, n) < min(held)]
        if between:
            open_cells.append((cost.engine, _middle(between, failed, enough)))
    yield from sorted(open_cells, key=lambda cell: space.cost(*cell))
    if held:  # the rest of the front: the winner's evaluations on the other engines, and more of them
        winner = min((cell for cell, within in decided.items() if within), key=lambda cell: space.cost(*cell))
        yield from ((cost.engine, winner[1]) for cost in space.costs)
        yield from ((winner[0], n) for n in space.steps if n > winner[1])


def _middle(between: list[int], failed: int, enough: int | None) -> int:
    """Where to cut: a likely start, one more than what failed, or half-way."""
    if enough is None:
        return next((n for n in between if n >= FIRST_STEPS), between[-1]) if not failed else between[0]
    return between[len(between) // 2]


def _decided(space: Space, known: dict[str, Trial], cell: Cell, budget: float) -> bool | None:
    """Whether some sampler of the cell holds the budget; None while that is not known."""
    judged = [t for t in known.values() if t.point["images"] == ALL and _cell(t.point) == cell]
    if any(trial.within(budget) for trial in judged):
        return True
    clearly = any(t.judged and t.measured["worst"] > CLEARLY * budget for t in judged)
    return False if clearly or len(judged) >= min(RUNGS[-1][1], len(space.tables)) else None


def _next(space: Space, known: dict[str, Trial], cell: Cell, budget: float) -> Point | None:
    """The next point of a cell: ranking where that is not done, then judging; None when it is decided."""
    if _decided(space, known, cell, budget) is not None:
        return None
    engine, steps = cell
    going = _starters(space, known, steps)
    for images, kept in RUNGS:
        scores = {}
        for table in going:
            trial = known.get(key(point(space.ranked_on, table, steps, images)))
            if trial is None:
                return point(space.ranked_on, table, steps, images)
            drift = trial.measured.get("drift_db")
            scores[table] = -float("inf") if drift is None else drift
        going = sorted(going, key=lambda table: -scores[table])[:kept]
    for table in going:
        if key(point(engine, table, steps, ALL)) not in known:
            return point(engine, table, steps, ALL)
    return None


def _starters(space: Space, known: dict[str, Trial], steps: int) -> list[tuple[str, str]]:
    """The samplers to rank: all at first, then the best ones of the nearest number of evaluations ranked in full."""
    images = RUNGS[0][0]
    ranked: dict[int, dict[tuple[str, str], float]] = {}
    for trial in known.values():
        if trial.point["images"] == images:
            table = (trial.point["solver"], trial.point["grid"])
            ranked.setdefault(trial.point["steps"], {})[table] = trial.measured.get("drift_db") or -float("inf")
    full = [n for n, scores in ranked.items() if len(scores) == len(space.tables) and n != steps]
    if not full or len(ranked.get(steps, {})) > NEIGHBOURS:
        return list(space.tables)
    nearest = ranked[min(full, key=lambda n: (abs(n - steps), n))]
    return sorted(space.tables, key=lambda table: -nearest[table])[:NEIGHBOURS]


def _cell(point: Point) -> Cell:
    return point["engine"], point["steps"]


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
