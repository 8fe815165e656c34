"""The moving average of the weights."""

import math

import pytest
import torch

from hasten.train.weights.average import (
    LONGEST,
    PowerAverage,
    decay_at,
    exponent,
    power_decay,
    storage,
    update_,
    update_all_,
)


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


def test_bfloat16_keeps_small_changes_by_chance_where_rounding_to_the_nearest_loses_them() -> None:
    start = {"a": torch.full((4000,), 1.0)}
    kept = storage(start, torch.bfloat16)
    rng = torch.Generator().manual_seed(0)
    nearest = torch.ones(4000, dtype=torch.bfloat16)
    for _ in range(500):  # each of at most a five hundredth of 0.1
        update_(kept.values(), [torch.full((4000,), 1.1)], 0.998, rng)
        nearest.lerp_(torch.full((4000,), 1.1, dtype=torch.bfloat16), 0.002)
    wanted = 1.1 - 0.1 * 0.998**500
    assert kept["a"].float().mean().item() == pytest.approx(wanted, abs=2e-3)
    assert nearest.float().mean().item() == pytest.approx(1.0)
    with pytest.raises(ValueError, match="rng"):
        update_(kept.values(), [start["a"]], 0.9)


def test_integers_are_copied_and_decays_may_differ() -> None:
    average = [torch.zeros(2), torch.zeros(2), torch.zeros((), dtype=torch.int64)]
    update_(average, [torch.ones(2), torch.ones(2), torch.tensor(7)], [0.9, 0.5, 0.9])
    assert [each.max().item() for each in average] == pytest.approx([0.1, 0.5, 7])


@pytest.mark.parametrize("sigma_rel", [0.05, 0.1, 0.2, LONGEST])
def test_the_profile_is_as_wide_as_asked(sigma_rel: float) -> None:
    """The weights that the updates give to each step have the standard deviation sigma_rel * t, and sum to 1."""
    t, gamma = 2000, exponent(sigma_rel)
    shares = [0.0] * t
    for step in range(1, t + 1):
        beta = power_decay(step, gamma)
        shares = [share * beta for share in shares]
        shares[step - 1] += 1.0 - beta
    mean = sum(k * share for k, share in enumerate(shares))
    deviation = math.sqrt(sum((k - mean) ** 2 * share for k, share in enumerate(shares)))
    assert sum(shares) == pytest.approx(1.0)
    assert deviation / t == pytest.approx(sigma_rel, rel=2e-3)


def test_the_papers_exponents() -> None:
    assert exponent(0.05) == pytest.approx(16.97, abs=0.01)
    assert exponent(0.10) == pytest.approx(6.94, abs=0.01)
    for bad in (0.0, 0.3, math.nan):
        with pytest.raises(ValueError, match="relative width"):
            exponent(bad)


def test_several_profiles_in_one_pass_are_each_their_own() -> None:
    weights = {"a": torch.randn(5), "b": torch.randn(2, 3)}
    together = [PowerAverage(weights, 0.05), PowerAverage(weights, 0.2)]
    alone = [PowerAverage(weights, 0.05), PowerAverage(weights, 0.2)]
    for step in range(1, 20):
        weights = {name: value + torch.randn(value.shape) for name, value in weights.items()}
        update_all_(together, weights, step)
        for average in alone:
            update_all_([average], weights, step)
    for one, other in zip(together, alone, strict=True):
        assert all(torch.equal(value, other.tensors[name]) for name, value in one.tensors.items())
    assert not torch.equal(together[0].tensors["a"], together[1].tensors["a"])
