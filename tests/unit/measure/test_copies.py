"""Copies of training samples are found through noise and blur; samples of one's own are not taken for copies."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hasten.data import digits
from hasten.measure import copies

TRAIN = torch.from_numpy(digits.load(8).part(held_out=False)[0])
HELD_OUT = torch.from_numpy(digits.load(8).part(held_out=True)[0])
KNOWN = copies.training(TRAIN)
assert KNOWN is not None


def noisy(samples: torch.Tensor, scale: float) -> torch.Tensor:
    return samples + scale * torch.randn(samples.shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("scale", [0.0, 0.02, 0.1])
def test_noise_hides_no_copy(scale: float) -> None:
    assert KNOWN.copied(noisy(TRAIN[:100], scale)).mean() >= 0.9


def test_real_samples_kept_apart_are_mostly_no_copies() -> None:
    assert KNOWN.copied(HELD_OUT).mean() < 0.1


def test_other_shapes() -> None:
    for shape in ((12,), (4, 40), (1, 6, 6, 6)):
        rng = torch.Generator().manual_seed(2)
        data = torch.randn((300, *shape), generator=rng)
        known = copies.training(data)
        assert known is not None
        assert known.copied(data[:40] + 0.01).all()
        assert known.copied(torch.randn((40, *shape), generator=rng)).mean() < 0.1
    assert copies.training(torch.zeros(99, 3)) is None


@pytest.mark.parametrize(
    ("baseline", "candidate", "more"),
    [(0, 0, False), (0, 4, False), (0, 8, True), (50, 50, False), (90, 100, True), (40, 20, False)],
)
def test_more_copies_than_the_baseline(baseline: int, candidate: int, more: bool) -> None:
    marks = [np.arange(100) < count for count in (baseline, candidate)]
    found = copies.compare(*marks, None)
    assert (found.baseline, found.candidate) == (baseline / 100, candidate / 100)
    assert found.more is more


def test_chance_is_rarely_taken_for_copying() -> None:
    """Two sets that copy alike, one sample in five: flagged in at most 5 % of runs."""
    rng = np.random.default_rng(0)
    flagged = sum(copies.compare(*(rng.random((2, 150)) < 0.2), None).more for _ in range(400))
    assert flagged <= 0.05 * 400
