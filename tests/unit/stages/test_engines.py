"""What the search chooses from."""

from __future__ import annotations

from pathlib import Path

import pytest

from hasten.errors import HastenError
from hasten.stages.engines import Engine, closest, keep, refuse_slower
from hasten.stages.run import Run
from hasten.technique.contract import Technique
from hasten.technique.layout import Layout
from hasten.technique.plan import Plan
from hasten.technique.quantize import Quantize
from hasten.technique.runtime import Runtime
from hasten.technique.swap import Swap
from hasten.technique.upsampling import Upsampling


def engine(
    seconds: float, drift_db: float | None, *techniques: Technique, size: int = 10, noise: float = 0.0
) -> Engine:
    """Nine rounds of about ``seconds``, every second one ``noise`` longer."""
    rounds = tuple(seconds * (1 + noise * (n % 2)) for n in range(9))
    return Engine(Plan(techniques), "", rounds, drift_db, weight_bytes=size)


def run(goal: str = "throughput", size_bytes: float | None = None) -> Run:
    nothing = (None, None, Path("out"), 0.02, 60.0, 16, 0, lambda *_: None, lambda: False)
    return Run(*nothing, goal=goal, size_bytes=size_bytes)  # type: ignore[arg-type]


def test_the_fastest_engines_of_each_network_and_the_closest_are_kept() -> None:
    student = Swap("student", weights="0123")
    tried = [
        engine(1.0, None),
        engine(0.9, 150.0, Layout()),
        engine(0.5, 30.0, Runtime()),
        engine(0.4, 30.0, Runtime(streams=2)),
        engine(0.45, 10.0, student),
        engine(0.35, 10.0, student, Layout()),
        engine(0.2, 10.0, student, Runtime()),
        Engine(Plan((student, Runtime(streams=2))), "", (), None, failure="no"),
    ]
    assert keep(tried, run()) == [tried[6], tried[5], tried[3], tried[2], tried[1]]
    assert closest(tried[:4]) == tried[1]


def test_what_adds_nothing_certain_is_dropped_and_said_so() -> None:
    eager, plain = engine(1.0, None), engine(0.5, 150.0, Runtime())
    fused = engine(0.49, 140.0, Upsampling(), Runtime(), noise=0.1)  # 2 % faster, 8 % slower, in turn
    quantised = engine(0.3, 40.0, Runtime(), Quantize())
    assert keep([eager, plain, fused, quantised], run()) == [quantised, plain]
    (said,) = refuse_slower(plain.plan, [eager, plain, fused], [])
    assert said.technique == "upsampling"
    assert "dropped: no faster for certain" in said.reason
    certain = engine(0.45, 140.0, Upsampling(), Runtime())
    assert certain in keep([eager, plain, certain], run())


def test_a_goal_of_bytes_ranks_by_them_and_a_budget_of_them_holds() -> None:
    small = engine(0.6, 40.0, Runtime(), Quantize(), size=3)
    tried = [engine(1.0, None), engine(0.5, 150.0, Runtime()), small]
    assert keep(tried, run("size"))[0] == small
    assert keep(tried, run(size_bytes=5)) == [small]
    with pytest.raises(
        HastenError, match=r"no plan is within --budget size=2B: the smallest \(OpenVINO float32 \+ int8\)"
    ):
        keep(tried, run(size_bytes=2))
