"""What the search makes of what it measured."""

from __future__ import annotations

import pytest

from hasten.errors import HastenError
from hasten.search.factorised import Trial
from hasten.search.space import ALL, Cost, Space, point
from hasten.story.stages.trials import Searched
from hasten.story.stages.ways import Way
from hasten.technique.plan import Plan
from hasten.technique.quantize import Quantize
from hasten.technique.runtime import Runtime

TABLE = ("deis", "karras")
FLOAT = Way(Plan((Runtime(streams=1),)), "", (0.003,) * 9, 120.0)
INT8 = Way(Plan((Runtime(streams=1), Quantize())), "", (0.002,) * 9, 36.0)
WAYS = {way.hash: way for way in (INT8, FLOAT)}
SPACE = Space(
    tuple(Cost(way.hash, 0.0, way.median_seconds) for way in WAYS.values()), FLOAT.hash, (TABLE,), (6, 8, 10, 12, 15)
)


def searched(*judged: tuple[Way, int, float]) -> Searched:
    trials = [
        Trial(point(way.hash, TABLE, steps, ALL), {"loss": worst, "worst": worst, "drift_db": 25.0})
        for way, steps, worst in judged
    ]
    return Searched(SPACE, trials, WAYS, 0.02)


def finalists(found: Searched) -> list[tuple[bool, int]]:
    """Whether in INT8, and evaluations."""
    return [(plan.find("quantize") is not None, plan.find("sampler").steps) for plan in found.finalists()]  # type: ignore[union-attr]


def test_after_the_best_come_more_evaluations_and_a_way_that_changes_less() -> None:
    assert finalists(searched((INT8, 8, 0.0199), (INT8, 6, 0.05))) == [(True, 8), (True, 10), (False, 15)]


def test_there_are_no_more_evaluations_than_the_space_has() -> None:
    assert finalists(searched((INT8, 12, 0.01))) == [(True, 12), (True, 15)]


def test_where_none_holds_the_two_that_lose_least_are_confirmed() -> None:
    assert finalists(searched((INT8, 8, 0.05), (FLOAT, 8, 0.03), (INT8, 10, 0.04))) == [(False, 8), (True, 10)]
    with pytest.raises(HastenError, match="no plan could be judged"):
        searched().finalists()


def test_what_the_time_cut_off_is_said_where_it_might_be_cheaper() -> None:
    assert searched((INT8, 6, 0.01), (FLOAT, 6, 0.01)).cut_off() == []
    (said,) = searched((INT8, 8, 0.01)).cut_off()
    assert said.startswith("the time ended the search before plans of 6 steps were judged")
