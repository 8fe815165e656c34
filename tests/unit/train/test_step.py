"""A training step: it learns, it is the loop's loss, and it says what it can't train."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hasten.data import digits
from hasten.errors import BadInput
from hasten.model import source
from hasten.model.workload import Case, draw
from hasten.technique import plan as plans
from hasten.technique.layout import Layout
from hasten.technique.plan import Plan
from hasten.technique.runtime import Runtime
from hasten.train.step import Epoch, TrainStep


def step_of(folder: Path, plan: Plan | None = None) -> TrainStep:
    return TrainStep(plans.build(source.load(folder), plan or Plan()), digits.load(8))


def test_a_step_learns_and_is_the_same_again(tiny_folder: Path) -> None:
    case = draw((1, 8, 8), 1, 16, seed=3).cases[0]
    losses = []
    for _ in range(2):
        step = step_of(tiny_folder)
        step.optimizer.param_groups[0]["lr"] = 1e-3
        losses.append([step.sample(case).mean().item() for _ in range(8)])
    assert losses[0] == losses[1]
    assert losses[0][-1] < 0.9 * losses[0][0]


def test_the_loss_of_a_perfect_prediction_is_zero(tiny_folder: Path) -> None:
    """The network's answer replaced by what the clean sample asks for: no error is left."""
    step = step_of(tiny_folder)
    case = draw((1, 8, 8), 1, 8, seed=4).cases[0]
    schedule = step.target.schedule

    def perfect(x: torch.Tensor, time: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        grid = np.linspace(1e-4, 1.0, 20_001)
        t = grid[np.abs(schedule.network_time(grid)[:, None] - time.numpy()[None, :]).argmin(0)]
        alpha, sigma = (torch.from_numpy(f(t)).float().reshape(-1, 1, 1, 1) for f in (schedule.alpha, schedule.sigma))
        clean = (x - sigma * case.noise) / alpha
        return alpha * case.noise - sigma * clean

    step.network = perfect  # type: ignore[assignment]
    errors = step.forward(Case(0, case.seed, case.noise))
    assert errors.shape == (8,)
    assert float(errors[:6].max()) < 1e-3  # the last ones are nearly pure noise, where dividing by alpha blows up


def test_an_epoch_sees_every_sample_once(tiny_folder: Path) -> None:
    step, seen = step_of(tiny_folder), []
    whole = step.sample
    step.sample = lambda case, chosen=None: seen.append(chosen) or whole(case, chosen)  # type: ignore[func-returns-value]
    errors = Epoch(step).sample(draw((1, 8, 8), 1, 256, seed=6).cases[0])
    assert errors.shape == (len(step.ids) // 256,)
    places = torch.cat(seen)
    assert len(places) == len(places.unique()) == len(step.ids) // 256 * 256


def test_layout_trains_and_an_engine_does_not(tiny_folder: Path) -> None:
    case = draw((1, 8, 8), 1, 4, seed=5).cases[0]
    assert torch.isfinite(step_of(tiny_folder, Plan((Layout(),))).sample(case)).all()
    with pytest.raises(BadInput, match="float32 weights"):
        step_of(tiny_folder, Plan((Runtime("float32", 1),)))
