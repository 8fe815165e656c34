"""Which ways to run a network are tried, and which are refused from the start."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from hasten import propose
from hasten.measure.profile import Row
from hasten.model.target import Facts
from hasten.technique.int8_linear import Int8Linear

FACTS = Facts((4, 32, 32), 10, 40, "cpu", None, None, (("Linear", 9),))


def rows(**shares: float) -> list[Row]:
    nothing = {field.name: 0.0 for field in fields(Row)}
    return [Row(**{**nothing, "name": name, "share": share}) for name, share in shares.items()]  # type: ignore[arg-type]


def tried(linear: float, seconds: float, facts: Facts = FACTS) -> tuple[list[str], dict[str, str]]:
    proposals, refusals = propose.ways(facts, rows(Linear=linear, GroupNorm=1 - linear), seconds)
    return [" + ".join(t.name for t in p.plan.techniques) for p in proposals], {r.technique: r.reason for r in refusals}


def test_int8_in_linear_layers_is_tried_compiled_where_they_take_the_time() -> None:
    pytest.importorskip("torchao")
    names, refusals = tried(0.6, 3600)
    assert names.count("int8_linear + compile") == len(Int8Linear.choices(FACTS))
    assert "int8_linear" not in names  # rounding that nothing fuses is slower than what it saves
    assert "int8_linear" not in refusals
    proposals, _ = propose.ways(FACTS, rows(Linear=0.6, GroupNorm=0.4), 3600)
    reason = next(p.reason for p in proposals if p.plan.find("int8_linear"))
    assert reason == "60% of the time is in linear layers, which INT8 instructions may do faster"


def test_it_is_refused_with_the_reason() -> None:
    names, refusals = tried(0.1, 3600)
    assert not any("int8_linear" in name for name in names)
    assert (
        refusals["int8_linear"] == "not tried: 10% of the time is in linear layers, and under 20% little can be saved"
    )
    names, refusals = tried(0.6, 60)
    assert not any("compile" in name for name in names)
    assert (
        refusals["int8_linear"]
        == refusals["compile"]
        == "not tried: compiling takes about a minute; give a run 10 minutes"
    )


def test_a_refusal_is_told_of_the_technique_that_refuses() -> None:
    pytest.importorskip("torchao")
    names, refusals = tried(0.6, 3600, replace(FACTS, kinds=(("Conv2d", 9),)))
    assert "compile" in names or "layout + compile" in names
    assert "compile" not in refusals
    assert refusals["int8_linear"] == "there is no linear layer to quantise; drop int8_linear"
