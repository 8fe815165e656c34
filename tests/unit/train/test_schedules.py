"""The learning rate over a run."""

import math

import pytest

from hasten.train.schedules import warmup_cosine


def test_warm_up_is_linear_and_reaches_one() -> None:
    assert [warmup_cosine(step, 100, 4) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_then_half_a_cosine_to_zero() -> None:
    assert warmup_cosine(54, 104, 4) == pytest.approx(0.5)
    assert warmup_cosine(29, 104, 4) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    assert warmup_cosine(104, 104, 4) == 0.0
    factors = [warmup_cosine(step, 104, 4) for step in range(4, 105)]
    assert factors == sorted(factors, reverse=True)


def test_no_warm_up_and_past_the_end() -> None:
    assert warmup_cosine(0, 10, 0) == 1.0
    assert warmup_cosine(99, 10, 0) == 0.0
    assert warmup_cosine(0, 1, 0) == 1.0


def test_against_torch_s_own() -> None:
    import torch

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
    for step in range(20):
        assert warmup_cosine(step + 7, 27, 7) == pytest.approx(cosine.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        cosine.step()
