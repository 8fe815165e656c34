"""The learning rate over a run."""

import math

import pytest
import torch

from hasten.train.optimizers.schedules import SHAPES, LearningRate, Plateau


def warmup_cosine(step: int, steps: int, warmup_steps: int) -> float:
    return LearningRate("cosine", steps, warmup_steps).factor(step)


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
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
    for step in range(20):
        assert warmup_cosine(step + 7, 27, 7) == pytest.approx(cosine.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        cosine.step()


def rates(scheduler: torch.optim.lr_scheduler.LRScheduler, steps: int) -> list[float]:
    """torch's learning rates at steps 0 to steps - 1."""
    found = []
    for _ in range(steps):
        found.append(scheduler.get_last_lr()[0])
        scheduler.optimizer.step()
        scheduler.step()
    return found


def sgd(lr: float = 1.0) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)


def factors(rate: LearningRate) -> list[float]:
    return [rate.factor(step) for step in range(rate.steps)]


def test_linear_and_constant_are_torchs() -> None:
    expected = rates(torch.optim.lr_scheduler.LinearLR(sgd(), 1.0, 0.1, total_iters=20), 20)
    assert factors(LearningRate("linear", 20, floor=0.1)) == pytest.approx(expected)
    assert factors(LearningRate("constant", 9)) == [1.0] * 9
    assert factors(LearningRate("plateau", 9, 2))[:3] == [0.5, 1.0, 1.0]


@pytest.mark.parametrize("mult", [1, 2])
def test_restarts_are_torchs(mult: int) -> None:
    scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(sgd(), T_0=7, T_mult=mult, eta_min=0.05)
    rate = LearningRate("cosine_restarts", 50, floor=0.05, cycle_steps=7, cycle_mult=mult)
    assert factors(rate) == pytest.approx(rates(scheduler, 50))


@pytest.mark.parametrize("name", ["triangular", "triangular2", "exp_range"])
def test_cycles_are_torchs(name: str) -> None:
    scheduler = torch.optim.lr_scheduler.CyclicLR(
        sgd(), base_lr=0.2, max_lr=1.0, step_size_up=6, mode=name, gamma=0.97, cycle_momentum=False
    )
    rate = LearningRate(name, 60, floor=0.2, cycle_steps=12, gamma=0.97)
    assert factors(rate) == pytest.approx(rates(scheduler, 60))


def test_one_cycle_is_torchs() -> None:
    scheduler = torch.optim.lr_scheduler.OneCycleLR(sgd(), max_lr=1.0, total_steps=50, cycle_momentum=False)
    assert factors(LearningRate("one_cycle", 50)) == pytest.approx([*rates(scheduler, 49), 1 / 25e4])


def test_wsd_stays_then_falls_to_the_floor() -> None:
    for decay, half in (("linear", 0.5), ("sqrt", 1 - math.sqrt(0.5))):
        rate = LearningRate("wsd", 110, 10, floor=0.1, decay=decay)  # type: ignore[arg-type]
        assert [rate.factor(step) for step in (10, 50, 90)] == [1.0] * 3
        assert rate.factor(100) == pytest.approx(0.1 + 0.9 * half)
        assert rate.factor(110) == pytest.approx(0.1)


def test_inverse_sqrt_falls_from_its_reference() -> None:
    rate = LearningRate("inverse_sqrt", 1000, cycle_steps=100)
    assert [rate.factor(step) for step in (0, 100, 400)] == [1.0, 1.0, 0.5]


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_warms_up_to_its_start_and_stays_in_range(name: str) -> None:
    rate = LearningRate(name, 60, 10, floor=0.02)
    found = factors(rate)
    assert found[:11] == sorted(found[:11])
    assert found[9] == pytest.approx(found[10], abs=1e-12)
    assert all(0.0 < each <= 1.0 for each in found)
    for steps in (1, 2, 3):
        assert all(0.0 <= each <= 1.0 for each in factors(LearningRate(name, steps)))


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="known: constant"):
        LearningRate("cosin", 10)


def test_plateau_is_torchs_and_resumes() -> None:
    losses = [1.0, 0.9, 0.9, 0.91, 0.9, 0.95, 0.5, 0.5, 0.6, 0.6, 0.6, 0.6, 0.7, 0.7, 0.7]
    optimizer = sgd()
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=2, threshold=1e-3)
    ours = Plateau(patience=2)
    for loss in losses:
        theirs.step(loss)
        resumed = Plateau(patience=2)
        resumed.restore_(ours.state())
        ours = resumed
        assert ours.update_(loss) == optimizer.param_groups[0]["lr"]
    assert ours.factor < 0.5
    assert ours.update_(math.nan) <= ours.factor
