"""The search against trying everything, on spaces whose answers are known."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from hasten.errors import BadInput
from hasten.search import factorised
from hasten.search.factorised import Trial
from hasten.search.loop import search
from hasten.search.space import ALL, Cost, Point, Space, point

SOLVERS, GRIDS, STEPS = ("a", "b", "c", "d", "e"), ("x", "y", "z"), (6, 7, 8, 9, 10, 12, 15, 20)
SPACE = Space(
    (Cost("int8", 0.0, 1.0), Cost("fused", 0.0, 1.25), Cost("float", 0.0, 1.4)),
    "float",
    tuple((solver, grid) for solver in SOLVERS for grid in GRIDS),
    STEPS,
)
BUDGET = 0.02


class World:
    """Errors by table and count, a little from the way, and noise where few images tell."""

    def __init__(self, seed: int, noise: float = 0.3, int8: float = 0.004) -> None:
        rng = random.Random(seed)
        self.rng, self.noise = random.Random(seed + 1000), noise
        self.scales = {table: rng.uniform(0.05, 0.25) for table in SPACE.tables}
        self.ways = {"int8": int8, "fused": 0.0, "float": 0.0}
        self.cost = 0.0
        self.asked: list[Point] = []

    def loss(self, where: Point) -> float:
        table = (where["solver"], where["grid"])
        return self.scales[table] * (6 / where["steps"]) ** 2.5 + self.ways[where["way"]]

    def __call__(self, where: Point) -> dict[str, Any]:
        self.asked.append(where)
        images = where["images"] or 64
        before = [w["images"] for w in self.asked[:-1] if {**w, "images": 0} == {**where, "images": 0}]
        self.cost += (images - max((n for n in before if n < images), default=0)) * where["steps"]
        loss = self.loss(where)
        if where["images"] == ALL:
            return {"worst": loss, "drift_db": 40 - 100 * loss, "failure": None}
        ranked = {"drift_db": -100 * loss + self.rng.gauss(0, self.noise), "failure": None}
        return ranked if images < 16 else {**ranked, "worst": loss + self.rng.gauss(0, 0.01 * self.noise)}

    def exhaustive(self) -> tuple[float, float]:
        """The least seconds within the budget, and what trying everything costs."""
        cells = [point(c.way, t, n, ALL) for c in SPACE.costs for t in SPACE.tables for n in STEPS]
        held = [SPACE.cost(p["way"], p["steps"])[1] for p in cells if self.loss(p) <= BUDGET]
        return min(held), sum(64 * p["steps"] for p in cells)


@pytest.mark.parametrize("seed", range(20))
def test_within_five_percent_of_exhaustive_at_a_tenth_of_its_cost(seed: int, tmp_path: Path) -> None:
    world = World(seed, int8=0.004 if seed % 2 else 0.018)  # every second time INT8 hardly ever holds
    least, whole = world.exhaustive()
    search(SPACE, world, tmp_path / "h", lambda _: world.cost > 0.1 * whole, BUDGET)
    trials = factorised.best(SPACE, read(tmp_path / "h"), BUDGET)
    assert trials
    found = SPACE.cost(trials[0].point["way"], trials[0].point["steps"])[1]
    assert found <= 1.05 * least


def read(path: Path) -> list[Trial]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [Trial(row["point"], row["measured"]) for row in rows]


def test_a_killed_search_ends_with_the_same_answer(tmp_path: Path) -> None:
    whole = search(SPACE, World(3, noise=0.0), tmp_path / "whole", lambda _: False, BUDGET)
    for kill in (1, 7, 20, len(whole) - 1):
        path = tmp_path / f"killed {kill}"
        search(SPACE, World(3, noise=0.0), path, lambda done, kill=kill: len(done) >= kill, BUDGET)
        with path.open("a") as file:
            file.write('{"point": {"engi')  # cut off in the middle of a line
        again = search(SPACE, World(3, noise=0.0), path, lambda _: False, BUDGET)
        assert [t.point for t in again] == [t.point for t in whole]


@pytest.mark.parametrize(
    "broken",
    [
        *("[]", "1", "{}", "[" * 100_000, '{"point": {}, "measured": {}}', "\udc80", "a" * (1 << 20)),
        '{"point": {"way": [], "solver": "a", "grid": "b", "steps": 1, "images": 0}, "measured": {}}',
        '{"point": {"way": "e", "solver": "a", "grid": "b", "steps": true, "images": 0}, "measured": {}}',
        *(
            f'{{"point": {json.dumps(point("e", ("a", "b"), 1, 0))}, "measured": {measured}}}'
            for measured in ("null", '{"worst": 1}', '{"worst": "x", "drift_db": 1}', '{"worst": NaN, "drift_db": 1}')
        ),
    ],
    ids=range(13),
)
def test_a_history_that_holds_no_trials_is_refused(broken: str, tmp_path: Path) -> None:
    path = tmp_path / "h"
    search(SPACE, World(0), path, lambda done: len(done) >= 2, BUDGET)
    path.write_bytes(path.read_bytes() + broken.encode("utf-8", "surrogateescape") + b"\n{}\n")
    with pytest.raises(BadInput, match=r"h, line 3|h can't be read|h: a line is over"):
        search(SPACE, World(0), path, lambda _: False, BUDGET)


def test_what_fails_or_never_holds_ends_the_search(tmp_path: Path) -> None:
    trials = search(SPACE, lambda _: {"failure": "no"}, tmp_path / "h", lambda _: False, BUDGET)
    assert factorised.best(SPACE, trials, BUDGET) == []
    world = World(0)
    world.scales = dict.fromkeys(world.scales, 9.0)
    trials = search(SPACE, world, tmp_path / "i", lambda _: False, BUDGET)
    assert factorised.best(SPACE, trials, BUDGET) == []
    assert {(t.point["way"], t.point["steps"]) for t in trials if t.judged} >= {(c.way, 20) for c in SPACE.costs}


def test_the_front_holds_no_plan_that_another_beats() -> None:
    def trial(steps: int, worst: float) -> Trial:
        return Trial(point("int8", ("a", "x"), steps, ALL), {"worst": worst, "drift_db": 30.0})

    trials = [trial(8, 0.03), trial(6, 0.05), trial(10, 0.01), trial(9, 0.04), trial(12, 0.01)]
    found = factorised.front(trials, lambda t: (t.point["steps"], t.measured["worst"]))
    assert [t.point["steps"] for t in found] == [6, 8, 10]


def test_rank_correlation_is_spearmans(tmp_path: Path) -> None:
    assert factorised.rank_correlation([]) is None
    trials = []
    for n, (drift, worst) in enumerate([(30, 0.01), (28, 0.02), (20, 0.03), (22, 0.04), (10, 0.09)]):
        table = SPACE.tables[n]
        trials.append(Trial(point("float", table, 8, 16), {"drift_db": drift, "worst": -drift}))
        trials.append(Trial(point("int8", table, 8, ALL), {"worst": worst, "drift_db": 1.0}))
    found = factorised.rank_correlation(trials)
    assert found is not None
    assert found == (pytest.approx(0.9), 5)  # 1 - 6 * 2 / (5 * 24)


def test_a_goal_of_bytes_is_minimised_before_seconds(tmp_path: Path) -> None:
    space = Space((Cost("small", 1.0, 3.0), Cost("fast", 2.0, 1.0)), "fast", SPACE.tables, STEPS)
    world = World(1)
    world.ways = {"small": 0.001, "fast": 0.0}
    trials = search(space, world, tmp_path / "h", lambda _: False, BUDGET)
    assert factorised.best(space, trials, BUDGET)[0].point["way"] == "small"


def test_a_way_that_is_not_searched_ranks_no_sampler() -> None:
    """Its trials would not count, and the same one would be asked for without end."""
    with pytest.raises(ValueError, match="ranked on slow, which is none of the ways searched"):
        Space((Cost("fast", 0.0, 1.0),), "slow", SPACE.tables, SPACE.steps)
