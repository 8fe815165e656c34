"""The damage map: what it should see, and that the network is as it was afterwards."""

from __future__ import annotations

import math

import pytest
import torch

from hasten.measure.damage import Layer, damage, decibel, rounded_weight, worth_keeping


class Sum(torch.nn.Module):
    """Two branches, one of which one number far out makes hard to round."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.easy, self.hard, self.unused = torch.nn.Linear(64, 64), torch.nn.Linear(64, 64), torch.nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        far = x.clone()
        far[:, 0] = 300.0
        return self.easy(x) + self.hard(far) - self.hard.weight[:, 0] * 300.0


def test_the_layer_that_is_hard_to_round_is_seen_and_nothing_is_left_changed() -> None:
    module = Sum().eval()
    x = (
        torch.randn(96, 64, generator=torch.Generator().manual_seed(1))
        * torch.tensor([1.0, 0.5, 0.1]).repeat_interleave(32)[:, None]
    )
    before = {name: value.clone() for name, value in module.state_dict().items()}
    rows = {layer.name: layer for layer in damage(module, lambda: module(x))}
    assert set(rows) == {"easy", "hard"}
    assert rows["easy"].multiplications == 64 * 64
    assert all(a > 30 * b for a, b in zip(rows["hard"].damages, rows["easy"].damages, strict=True))
    assert rows["hard"].damages[2] > rows["hard"].damages[0]  # the same error in a smaller output
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert not module.hard._forward_pre_hooks
    assert not module.hard._forward_hooks


def test_damages_of_layers_add_up() -> None:
    """All layers rounded at once do about what they do one by one."""
    torch.manual_seed(3)
    module = torch.nn.Sequential(*(layer for _ in range(4) for layer in (torch.nn.Linear(128, 128), torch.nn.SiLU())))
    x = torch.randn(96, 128)
    rows = damage(module, lambda: module(x))
    alone = sum(layer.damages[0] for layer in rows)
    with torch.no_grad():
        whole = module(x)
        for layer in list(module)[::2]:
            layer.weight.copy_(rounded_weight(layer.weight))
        weights_only = ((module(x) - whole).square().mean() / whole.square().mean()).item()
    assert 0.1 < weights_only / alone < 1.5


def test_what_does_most_for_its_work_is_kept() -> None:
    layers = [
        Layer("cheap", 1, (1e-2, 1e-5, 1e-5)),
        Layer("dear", 100, (1.1e-2, 1e-5, 1e-5)),
        Layer("good", 50, (1e-6,) * 3),
    ]
    assert worth_keeping(layers, 15.0) == []
    assert worth_keeping(layers, 19.0) == ["cheap"]
    assert worth_keeping(layers, 30.0) == ["cheap", "dear"]
    assert worth_keeping(layers, 140.0) == ["cheap", "dear", "good"]


def test_decibels() -> None:
    assert decibel(1e-3) == pytest.approx(30.0)
    assert decibel(0.0) == 150.0
    assert math.isfinite(decibel(1e-300))
