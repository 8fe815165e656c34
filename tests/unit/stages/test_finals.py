"""What each technique adds: orders that a plan allows, and shares that multiply to the whole."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from hasten.stages.finals import _named, _orders, _share
from hasten.technique.quantize import Quantize
from hasten.technique.runtime import Runtime
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
