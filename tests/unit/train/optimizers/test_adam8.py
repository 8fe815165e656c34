"""AdamW in 8 bits: codes, bytes, and how near it stays to AdamW."""

import pytest
import torch

from hasten.train.optimizers import adam8
from hasten.train.optimizers.adam8 import AdamW8bit, quantized, restored


@pytest.mark.parametrize("table", [adam8.SIGNED, adam8.UNSIGNED])
def test_codes_are_256_increasing_numbers_with_0_and_1(table: torch.Tensor) -> None:
    assert len(table) == 256
    assert (table.diff() > 0).all()
    assert 0.0 in table
    assert table[-1] == 1.0


@pytest.mark.parametrize("table", [adam8.SIGNED, adam8.UNSIGNED])
def test_the_relative_error_by_decade(table: torch.Tensor) -> None:
    """Half a gap between codes: few codes, so coarse steps, for what is small beside the block's largest."""
    values = torch.logspace(-4, 0, 256)
    error = (restored(*quantized(values, table), values, table) - values).abs() / values
    assert error[values > 0.1].max() < 0.06
    assert error[values > 0.01].max() < 0.1
    assert error.max() < 0.5


def test_any_shape_and_blocks_of_zeros() -> None:
    values = torch.randn(3, 7, 13, 5)
    values[0] = 0.0
    back = restored(*quantized(values, adam8.SIGNED), values, adam8.SIGNED)
    assert back.shape == values.shape
    assert (back[0] == 0).all()
    torch.testing.assert_close(back, values, rtol=0.3, atol=0.02)


def problem(make, steps: int = 300) -> tuple[torch.nn.Linear, torch.optim.Optimizer, float]:
    """A regression on 64 x 128 weights, and the error that is left."""
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(128, 64), torch.randn(512, 128)
    y = x @ torch.randn(128, 64) * 0.1 + 0.2 * torch.randn(512, 64)
    optimizer = make(list(layer.parameters()))
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (layer(x) - y).square().mean()
        loss.backward()
        optimizer.step()
    return layer, optimizer, loss.item()


def test_it_learns_as_adamw_does() -> None:
    """The error left after 300 steps is within 2 %, of a start thirty times as large."""
    _, _, whole = problem(lambda p: torch.optim.AdamW(p, lr=3e-3, betas=(0.9, 0.99), weight_decay=0.0))
    _, _, eight = problem(lambda p: AdamW8bit(p, lr=3e-3))
    _, _, start = problem(lambda p: AdamW8bit(p, lr=3e-3), steps=1)
    assert eight == pytest.approx(whole, rel=0.02)
    assert eight < start / 30


def test_state_takes_a_quarter_of_the_bytes() -> None:
    layer, optimizer, _ = problem(lambda p: AdamW8bit(p, lr=3e-3), steps=1)
    state = optimizer.state[layer.weight]
    assert state["exp_avg_codes"].dtype == torch.uint8
    assert sum(value.nbytes for value in state.values()) < 0.27 * 2 * layer.weight.nbytes
    assert optimizer.state[layer.bias]["exp_avg"].dtype == torch.float32


def test_small_parameters_are_adamw_s_own() -> None:
    torch.manual_seed(0)
    ours = torch.nn.Parameter(torch.randn(40, 40))
    theirs = torch.nn.Parameter(ours.detach().clone())
    a = AdamW8bit([ours], lr=1e-2, weight_decay=0.1)
    b = torch.optim.AdamW([theirs], lr=1e-2, betas=(0.9, 0.99), weight_decay=0.1)
    for _ in range(5):
        ours.grad = torch.randn(40, 40)
        theirs.grad = ours.grad.clone()
        a.step()
        b.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
