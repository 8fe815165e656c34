"""The Pareto front against its definition, and the pairing of runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hasten.report.points import front, pairs, points, ranked
from hasten.report.result import Observation, read

Folder = Callable[..., Path]


def test_front_is_what_nothing_dominates() -> None:
    rng = np.random.default_rng(0)
    for count in (0, 1, 2, 7, 60):
        costs = [(float(a), float(b)) for a, b in rng.integers(0, 12, (count, 2))]

        def dominated(index: int, costs: list[tuple[float, float]] = costs) -> bool:
            a, b = costs[index]
            return any(
                (c <= a and d <= b and (c, d) != (a, b)) or ((c, d) == (a, b) and other < index)
                for other, (c, d) in enumerate(costs)
            )

        found = front(costs)
        assert set(found) == {i for i in range(count) if not dominated(i)}
        assert [costs[i][0] for i in found] == sorted(costs[i][0] for i in found)


def test_points_number_the_tables_rows(folder: Folder) -> None:
    result = read(folder({}) / "result.json")
    rows = ranked(result)
    found = points(result)
    assert [p.number for p in found] == list(range(37))  # the baseline, 36 rows; row 37 failed
    assert not rows[-1].ok
    for p in found[1:]:
        assert p.name == ", ".join(rows[p.number - 1].label)
    assert [p.name for p in found if p.chosen] == ["UniPC 8 steps, OpenVINO, int8"]


def test_front_by_drift_when_there_is_no_loss(folder: Folder) -> None:
    tried = [
        {"label": [name], "seconds_per_image": seconds, "drift_db": drift, "loss": None, "ok": True}
        for name, seconds, drift in (
            ("fast", 1.0, 20.0),
            ("best", 2.0, 40.0),
            ("worse", 3.0, 30.0),
            ("slow", 4.0, 50.0),
        )
    ]
    found = points(read(folder({}, candidates=tried) / "result.json"))
    assert [p.name for p in found if p.on_front] == ["fast", "best", "slow"]
    assert 0 not in [p.number for p in found]


def run(
    plan: str, case: int, round_: int, seconds: float | None, images: int = 1, failure: str | None = None
) -> Observation:
    return Observation(plan=plan, case=case, round=round_, seconds=seconds, images=images, failure=failure)


def test_runs_pair_within_case_and_round() -> None:
    found = pairs(
        [
            run("baseline", 0, 0, 8.0, images=2),
            run("candidate", 1, 0, 1.0),
            run("baseline", 1, 0, 6.0),
            run("candidate", 0, 0, 0.5),
            run("candidate", 0, 1, 1.0),  # no baseline in this round
            run("baseline", 0, 2, 4.0, failure="out of memory"),
            run("candidate", 0, 2, 1.0),
        ]
    )
    assert [(p.plan, p.case, p.round, p.ratio) for p in found] == [("candidate", 1, 0, 6.0), ("candidate", 0, 0, 8.0)]


def test_a_run_pairs_with_the_nearest_baseline() -> None:
    first = [run("baseline", 0, 0, 2.0), run("candidate", 0, 0, 1.0)]
    again = [run("baseline again", 0, 0, 10.0), run("baseline", 0, 0, 11.0)]
    assert [p.ratio for p in pairs([*first, *again])] == [2.0, pytest.approx(1.1)]


def test_the_built_rounds_pair_fully(folder: Folder) -> None:
    place = folder({})
    found = pairs(read(place / "result.json").observations or [])
    written = json.loads((place / "result.json").read_text())["observations"]
    for plan in ("candidate", "baseline again"):
        assert sum(p.plan == plan for p in found) == sum(o["plan"] == plan for o in written)
