"""The moving average of the weights."""

import pytest
import torch

from hasten.train.average import decay_at, update_


def test_closed_form_at_a_constant_decay() -> None:
    """After n updates towards constant weights w: a_n = w + d^n (a_0 - w)."""
    weights = {"a": torch.tensor([2.0, -1.0]), "b": torch.full((2, 3), 0.5)}
    average = {name: torch.zeros_like(value) for name, value in weights.items()}
    for _ in range(17):
        update_(average.values(), weights.values(), 0.9)
    for name, value in weights.items():
        torch.testing.assert_close(average[name], value * (1 - 0.9**17))


def test_closed_form_over_moving_weights() -> None:
    """a_n = (1 - d) sum_k d^(n-1-k) w_k, in float64."""
    path = torch.linspace(0, 1, 12, dtype=torch.float64)
    average = [torch.zeros((), dtype=torch.float64)]
    for value in path:
        update_(average, [value], 0.8)
    expected = sum(0.2 * 0.8 ** (11 - k) * value for k, value in enumerate(path))
    torch.testing.assert_close(average[0], torch.as_tensor(expected))


def test_the_layout_of_memory_does_not_matter() -> None:
    weight = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)
    average = [torch.zeros(4, 3, 2, 2)]
    update_(average, [weight], 0.25)
    torch.testing.assert_close(average[0], weight * 0.75)


def test_the_start_is_forgotten_faster() -> None:
    assert decay_at(0, 0.999) == pytest.approx(0.1)
    assert decay_at(90, 0.999) == pytest.approx(0.91)
    assert decay_at(100_000, 0.999) == 0.999
    assert decay_at(5, 0.0) == 0.0


def test_no_gradient_flows() -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    average = [torch.zeros(2)]
    update_(average, [parameter], 0.5)
    assert not average[0].requires_grad
    assert average[0].tolist() == [0.5, 0.5]
