"""Which linear layers become INT8, how exact they are, and by which ranges."""

from __future__ import annotations

import builtins
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from hasten.diffusion import schedule
from hasten.errors import BadInput
from hasten.model import source as sources
from hasten.model.source import Source
from hasten.model.workload import draw
from hasten.technique.int8_linear import Int8Linear, costliest, largest, quantize, seven_bits
from hasten.technique.plan import Plan, build
from hasten.technique.precision import Precision

pytest.importorskip("torchao")


class Mixer(nn.Module):
    """Linear layers over 64 positions of 16 channels, and one over time."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Linear(1, 32)
        self.inner = nn.Linear(16, 32)
        self.wide, self.odd, self.last = nn.Linear(32, 64), nn.Linear(64, 24), nn.Linear(24, 16)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        rows = self.inner(x.flatten(2).transpose(1, 2)) + self.time(t[:, None].to(x.dtype))[:, None]
        rows = self.last(torch.tanh(self.odd(torch.tanh(self.wide(torch.tanh(rows))))))
        return rows.transpose(1, 2).reshape(x.shape)


@pytest.fixture
def source() -> Source:
    torch.manual_seed(0)
    return sources.load(Mixer(), schedule=schedule.cosine(), prediction="v_prediction", shape=(16, 8, 8))


def decibel(wanted: torch.Tensor, found: torch.Tensor) -> float:
    return 10 * math.log10(float(wanted.square().mean() / (found - wanted).square().mean()))


def test_the_costliest_of_those_that_have_kernels(source: Source) -> None:
    target = source.build()
    assert costliest(target, 1.0) == ["wide", "inner"]  # 24 features fit no kernel, nor does 1
    assert costliest(target, 0.4) == ["wide"]
    assert costliest(target, 0.9) == ["wide", "inner"]


@pytest.mark.parametrize("vnni", [True, False], ids=["eight bits", "seven bits"])
@pytest.mark.parametrize("most", [None, 3.0], ids=["dynamic", "static"])
def test_a_layer_is_near_the_float_one(most: float | None, vnni: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a processor with VNNI computes and as one without: static scales are made for the bits that there are."""
    if vnni and seven_bits("cpu"):
        pytest.skip("eight bits overflow on this CPU, which has no VNNI")
    monkeypatch.setattr("torchao.utils.should_reduce_range", lambda _device: not vnni)
    torch.manual_seed(0)
    layer, x = nn.Linear(32, 48), torch.randn(4, 64, 32).clamp(-3, 3)
    with torch.inference_mode():
        wanted = layer(x)
        quantize(layer, "cpu", None if most is None else torch.full((1, 1, 1), most))
        assert 30.0 < decibel(wanted, layer(x)) < 60.0  # more would be no INT8


def test_static_ranges_are_those_of_the_states(source: Source) -> None:
    target = source.build()
    found = largest(target, ["inner", "wide"], images=2)
    assert {name: tensor.shape for name, tensor in found.items()} == {"inner": (1, 1, 1), "wide": (1, 1, 1)}
    assert 2.0 < float(found["inner"]) < 8.0  # noise on its way to a sample
    assert 0.0 < float(found["wide"]) <= 1.0  # after tanh
    assert all(torch.equal(found[name], again) for name, again in largest(target, ["inner", "wide"], images=2).items())


@pytest.mark.parametrize("ranges", ["dynamic", "static"])
@pytest.mark.parametrize("before", [(), (Precision(),)], ids=["float32", "bf16"])
def test_samples_stay_and_the_module_is_not_shared(
    ranges: str, before: tuple[Any, ...], source: Source, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("HASTEN_CACHE", str(tmp_path))
    plan = Plan((*before, Int8Linear(ranges, images=2)))
    if "this CPU" in (plan.refusal(source.build().facts) or ""):
        pytest.skip("no bf16 on this CPU")
    case = draw((16, 8, 8), 1, 4, seed=0).cases[0]
    plain, changed = source.build(), build(source, plan)
    assert type(changed.module.wide.weight).__name__ == "Int8Tensor"
    assert type(changed.module.odd.weight) is nn.Parameter
    assert type(plain.module.wide.weight) is nn.Parameter
    least = 20.0 if seven_bits("cpu") else 25.0  # a bit is 6 dB
    assert least < decibel(plain.sample(case), changed.sample(case)) < 70.0


def test_what_is_refused(source: Source, monkeypatch) -> None:
    with pytest.raises(BadInput, match=r"int8_linear.share = 0 is out of range"):
        Int8Linear(share=0)
    with pytest.raises(BadInput, match=r"int8_linear.images = 0 is out of range"):
        Int8Linear(images=0)
    with pytest.raises(BadInput, match=r"int8_linear.ranges 'fixed' is not known; known: dynamic, static"):
        Int8Linear("fixed")
    facts = source.build().facts
    assert Int8Linear().refuse(facts) is None
    assert "no linear layer" in Int8Linear().refuse(replace(facts, kinds=(("Conv2d", 3),)))
    found = builtins.__import__

    def absent(name: str, *rest: Any, **others: Any) -> Any:
        if name.startswith("torchao"):
            raise ImportError(name)
        return found(name, *rest, **others)

    monkeypatch.setattr(builtins, "__import__", absent)
    assert Int8Linear().refuse(facts) == "torchao is not installed; pip install 'hasten[torchao]'"
