"""Held-out figures: zero for a perfect network, the same each time, and larger for worse samples."""

import numpy as np
import pytest
import torch

import hasten
from hasten.data import digits
from hasten.diffusion import schedule
from hasten.measure.features import bands
from hasten.model.source import Source
from hasten.train.losses.objective import Objective
from hasten.train.validate import LEVELS, Validator, spread


class Knows(torch.nn.Module):
    """Answers with the clean sample that is nearest to what it is shown, times ``share``."""

    def __init__(self, clean: torch.Tensor, share: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("clean", clean)
        self.share = share

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        near = torch.cdist(x.flatten(1), self.clean.flatten(1)).argmin(1)
        return self.clean[near] * self.share


CLEAN, _ = digits.load(8).part(held_out=True)


def source(share: float = 1.0) -> Source:
    module = Knows(torch.from_numpy(CLEAN), share)
    return hasten.load(module, schedule=schedule.flow(), prediction="sample", shape=(1, 8, 8))


def figures(share: float):
    found = source(share)
    validator = Validator(found, digits.load(8), 64, 0)
    return validator.validate(found.build(), Objective(found.schedule, "sample"))


def test_a_network_that_knows_the_data_has_no_loss() -> None:
    found = figures(1.0)
    assert set(found.losses) == set(LEVELS)
    assert found.losses[0.1] == 0.0
    assert found.losses[10.0] > 0.1  # there is no telling which one it was
    assert found.loss == pytest.approx(np.mean(list(found.losses.values())))
    assert figures(1.0) == found


def test_worse_answers_and_worse_samples_show() -> None:
    good, bad = figures(1.0), figures(0.7)
    assert bad.losses[0.1] > 0.01
    assert good.distance is not None
    assert bad.distance is not None
    assert bad.distance > 1.1 * good.distance


def test_the_distance_is_0_for_the_data_and_grows_with_noise() -> None:
    clean = torch.from_numpy(CLEAN[:64])
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    space = bands(clean)
    found = [spread(bands(clean + size * noise), space) for size in (0.0, 0.1, 0.3, 1.0)]
    assert found[0] == pytest.approx(0.0, abs=1e-3)
    assert found == sorted(found)
    assert found[-1] > 0.5
