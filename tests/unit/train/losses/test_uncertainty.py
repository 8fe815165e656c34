"""The learned uncertainty finds the mean loss of each level."""

from __future__ import annotations

import torch

from hasten.train.losses.uncertainty import Uncertainty


def test_it_is_nothing_at_the_start() -> None:
    errors, s = torch.rand(9), torch.linspace(0.01, 80.0, 9)
    torch.testing.assert_close(Uncertainty().loss(errors, s), errors)


def test_it_learns_the_logarithm_of_the_mean_loss() -> None:
    learned = Uncertainty()
    optimizer = torch.optim.Adam(learned.parameters(), lr=1e-2)
    rng = torch.Generator().manual_seed(0)
    for step in range(1500):
        optimizer.param_groups[0]["lr"] = 2e-2 * (1.0 - step / 1500)
        s = torch.exp(4.0 * torch.rand(256, generator=rng) - 2.0)
        errors = (0.02 + 0.5 / (1.0 + s)) * (0.5 + torch.rand(256, generator=rng))
        optimizer.zero_grad()
        learned.loss(errors, s).mean().backward()
        optimizer.step()
    s = torch.exp(torch.linspace(-1.8, 1.8, 50))
    assert (learned(s) - (0.02 + 0.5 / (1.0 + s)).log()).abs().max() < 0.1


def test_it_is_the_same_for_the_same_seed() -> None:
    one, other = Uncertainty(seed=3).state_dict(), Uncertainty(seed=3).state_dict()
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert not torch.equal(one["phases"], Uncertainty(seed=4).state_dict()["phases"])
