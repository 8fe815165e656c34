"""What each technique adds: orders that a plan allows, and shares that multiply to the whole."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from hasten.measure import quality
from hasten.story.stages import finals
from hasten.story.stages.finals import Confirmed, _named, _orders, _share
from hasten.technique.plan import Plan
from hasten.technique.quantize import Quantize
from hasten.technique.runtime import Runtime
from hasten.technique.sampler import Sampler
from hasten.technique.upsampling import Upsampling


def rounds(plan: str, seconds: float) -> list[SimpleNamespace]:
    return [SimpleNamespace(plan=plan, round=number, seconds=seconds * (1 + 0.1 * number)) for number in range(9)]


def test_only_orders_whose_every_beginning_is_a_plan() -> None:
    orders = _orders([Upsampling(), Runtime(), Quantize()])
    assert len(orders) == 3
    assert all(order.index("runtime") < order.index("quantize") for order in orders)  # INT8 needs the engine's graph
    assert set(_orders([Runtime(), Quantize()])) == {("runtime", "quantize")}


def test_shares_multiply_to_the_whole_and_an_unmeasured_one_is_none() -> None:
    orders = [("a", "b"), ("b", "a")]
    seconds = {"candidate": 1.0, _named(frozenset()): 6.0, _named(frozenset("a")): 2.0, _named(frozenset("b")): 4.0}
    comparisons = {
        name: SimpleNamespace(observations=[*rounds("candidate", 1.0), *rounds(name, value)])
        for name, value in seconds.items()
        if name != "candidate"
    }
    shares = [_share(name, orders, comparisons) for name in ("a", "b")]
    assert shares[0] is not None
    assert shares[1] is not None
    assert shares[0]["ratio"] == pytest.approx((6 / 2 * 4 / 1) ** 0.5)  # alone first, and after b
    assert shares[0]["ratio"] * shares[1]["ratio"] == pytest.approx(6.0)
    del comparisons[_named(frozenset("a"))]
    assert _share("a", orders, comparisons) is None
    assert _share("a", [], comparisons) is None


@pytest.mark.parametrize(("verdicts", "wins", "passed"), [
    ({10: quality.WITHIN, 20: quality.NO_LOSS}, 20, True),
    ({10: quality.LOSS, 20: quality.WITHIN}, 20, True),
    ({10: quality.LOSS, 20: quality.TOO_FEW, 50: quality.NO_LOSS}, 50, True),
    ({10: quality.LOSS, 20: quality.LOSS, 50: quality.LOSS}, 20, False),
])  # fmt: skip
def test_where_no_finalist_holds_the_engine_alone_is_confirmed(
    verdicts: dict[int, str], wins: int, passed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finalists of 10 and 20 steps; the engine alone, with the baseline's own steps, stands as 50."""
    worst = {10: 0.3, 20: 0.1, 50: 0.2}
    safe = Plan((Runtime(),))

    def steps(plan: Plan) -> int:
        return plan.find("sampler").steps if plan.find("sampler") else 50  # type: ignore[union-attr]

    def measured(_run, plans, *_):
        return [
            Confirmed(plan, None, SimpleNamespace(verdict=verdicts[steps(plan)], worst=worst[steps(plan)]), True)
            for plan in plans
        ]

    monkeypatch.setattr(finals, "_measure", measured)
    run = SimpleNamespace(warnings=[], stopped=lambda: False)
    found = finals.confirm(run, [safe.plus(Sampler("ddim", n, "uniform")) for n in (10, 20)], safe, None, [])
    assert (steps(found.plan), found.passed) == (wins, passed)
