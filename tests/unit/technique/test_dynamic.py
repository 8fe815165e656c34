"""INT8 layers with dynamic ranges against the float ones, and which layers become such."""

import math

import pytest
import torch
from torch import nn

from hasten.diffusion import schedule
from hasten.errors import BadInput
from hasten.model import source as sources
from hasten.model.target import layers
from hasten.technique.dynamic import Dynamic, Int8, costliest, quantized
from hasten.technique.plan import Plan, build

RNG = torch.Generator().manual_seed(0)
LAYERS = {
    "linear": (nn.Linear(24, 16), (5, 7, 24)),
    "linear without bias": (nn.Linear(24, 16, bias=False), (5, 24)),
    "1d": (nn.Conv1d(8, 16, 3, padding=1), (2, 8, 20)),
    "2d, strided": (nn.Conv2d(8, 16, 3, stride=2, padding=1), (2, 8, 12, 12)),
    "2d, same": (nn.Conv2d(8, 16, 3, padding="same", dilation=2), (2, 8, 12, 12)),
    "2d, valid": (nn.Conv2d(8, 16, (3, 1), padding="valid", bias=False), (2, 8, 12, 12)),
    "3d, grouped": (nn.Conv3d(8, 16, 3, padding=1, groups=2), (2, 8, 6, 6, 6)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_near_the_float_one(name: str) -> None:
    layer, shape = LAYERS[name]
    x = torch.randn(shape, generator=RNG)
    with torch.no_grad():
        wanted, found = layer(x), quantized(layer)(x)
    assert found.shape == wanted.shape
    assert found.dtype == torch.float32
    db = 10 * math.log10(float(wanted.square().mean() / (found - wanted).square().mean()))
    assert 28.0 < db < 60.0  # seven bits or eight; more would be no INT8


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.wide = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 32, 3, padding=1)
        self.mirrored = nn.Conv2d(32, 32, 3, padding=1, padding_mode="reflect")
        self.even = nn.Conv2d(32, 8, 4, padding="same")
        self.time, self.last = nn.Linear(1, 8), nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.first(x)) + self.time(t[:, None])[:, :, None, None]
        return self.last(torch.tanh(self.even(torch.tanh(self.mirrored(torch.tanh(self.wide(x)))))))


def test_the_costliest_but_for_the_ends_and_what_has_no_operator() -> None:
    torch.manual_seed(0)
    loaded = sources.load(Net(), schedule=schedule.cosine(), prediction="v_prediction", shape=(1, 8, 8))
    target = loaded.build()
    assert costliest(target.network, target.facts, 1.0) == ["wide", "time"]
    assert costliest(target.network, target.facts, 0.95) == ["wide"]  # a sixth, after what stays float
    assert costliest(target.network, target.facts, 0.3) == []
    changed = build(loaded, Plan((Dynamic(),)))
    assert [name for name, part in changed.network.module.named_modules() if isinstance(part, Int8)] == ["wide"]
    assert "wide" not in layers(changed.network.module)
    assert "wide" in layers(loaded.module())


def test_what_is_refused() -> None:
    with pytest.raises(BadInput, match=r"dynamic.share = 0 is out of range"):
        Dynamic(0)
    loaded = sources.load(Net(), schedule=schedule.cosine(), prediction="v_prediction", shape=(1, 8, 8))
    facts = loaded.build().facts
    assert Dynamic().refuse(facts) is None
    from dataclasses import replace

    assert "for CPUs" in Dynamic().refuse(replace(facts, device="cuda"))
    assert "no convolution or linear layer" in Dynamic().refuse(replace(facts, kinds=(("GroupNorm", 3),)))
