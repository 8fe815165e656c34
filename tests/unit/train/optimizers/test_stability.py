"""Clipping, naming what is not finite, and telling leaps from noise."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from hasten.model import bundled
from hasten.train.optimizers.stability import Clip, Running, Spike, nonfinite


def parameters(scale: float = 1.0, seed: int = 0) -> list[torch.nn.Parameter]:
    rng = torch.Generator().manual_seed(seed)
    made = [torch.nn.Parameter(torch.zeros(shape)) for shape in ((4, 3), (5,))]
    for parameter in made:
        parameter.grad = torch.randn(parameter.shape, generator=rng) * scale
    return made


def test_by_norm_to_the_bit_as_torch() -> None:
    ours, theirs = parameters(), parameters()
    clipped = Clip(norm=1.0).clip_(ours)
    norm = torch.nn.utils.clip_grad_norm_(theirs, 1.0)
    assert clipped.norm == norm.item()
    assert clipped.scale == pytest.approx(1.0 / clipped.norm, rel=1e-5)
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(ours, theirs, strict=True))  # type: ignore[arg-type]


def test_off_and_within_the_limit_change_nothing() -> None:
    for clip in (Clip(), Clip(norm=100.0)):
        ours = parameters()
        assert clip.clip_(ours).scale == 1.0
        assert torch.equal(ours[0].grad, parameters()[0].grad)  # type: ignore[arg-type]


def test_by_value() -> None:
    ours = parameters(10.0)
    Clip(value=0.5).clip_(ours)
    assert max(p.grad.abs().max().item() for p in ours if p.grad is not None) == 0.5


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_touches_neither_gradients_nor_statistics(bad: float) -> None:
    clip = Clip(norm=1.0, value=0.1, zscore=2.5)
    for seed in range(40):
        clip.clip_(parameters(seed=seed))
    before = clip.state()
    ours = parameters()
    ours[1].grad[2] = bad  # type: ignore[index]
    clipped = clip.clip_(ours)
    assert not math.isfinite(clipped.norm)
    assert clip.state() == before
    assert torch.equal(ours[0].grad, parameters()[0].grad)  # type: ignore[arg-type]


def test_the_adaptive_limit_is_zclips() -> None:
    clip = Clip(zscore=2.5)
    for seed in range(60):
        clip.clip_(parameters(seed=seed))
    mean, deviation = clip.running.mean, clip.running.deviation
    ours = parameters(10.0)
    norm = torch.nn.utils.get_total_norm([p.grad for p in ours if p.grad is not None]).item()
    clipped = clip.clip_(ours)
    z = (norm - mean) / deviation
    assert clipped.scale * norm == pytest.approx(mean + deviation * 2.5**2 / z, rel=1e-4)
    assert clip.running.mean < mean + 0.1 * deviation  # the burst itself hardly counts


def test_no_adaptive_limit_before_the_warm_up() -> None:
    clip = Clip(zscore=2.5)
    for seed in range(24):
        clip.clip_(parameters(seed=seed))
    assert clip.clip_(parameters(1e3)).scale == 1.0


def test_state_goes_round() -> None:
    clip, other = Clip(zscore=2.5), Clip(zscore=2.5)
    for seed in range(40):
        clip.clip_(parameters(seed=seed))
    other.restore_(clip.state())
    assert clip.clip_(parameters(5.0)) == other.clip_(parameters(5.0))
    assert clip.state() == other.state()


def test_running_is_the_plain_mean_and_variance_of_few() -> None:
    running, values = Running(keep=0.99), np.random.default_rng(0).normal(3.0, 2.0, 50)
    for value in values:
        running.update_(float(value))
    assert running.mean == pytest.approx(values.mean())
    assert running.variance == pytest.approx(values.var())


def test_the_first_offender_is_named() -> None:
    fine, bad = torch.ones(3), torch.tensor([1.0, math.nan, math.inf])
    assert nonfinite([("a", fine), ("b", None), ("c", bad), ("d", bad)], torch.tensor(1.0)) == (
        "the gradient of c (2 of 3 not finite)"
    )
    assert nonfinite([("c", bad)], torch.tensor(math.inf)) == "the loss (1 of 1 not finite)"
    assert nonfinite([("a", fine)], torch.tensor(1.0)) is None


def test_no_alarm_on_the_bundled_models_own_curve_but_one_on_each_planted_leap() -> None:
    with (Path(bundled.__file__).parent / "emoji32" / "loss.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    spike = Spike()
    assert sum(spike.seen_(loss) for loss in losses) == 0
    spike = Spike()
    planted = {place: losses[place] * 3.0 for place in range(150, len(losses), 97)}
    assert {i for i, loss in enumerate(losses) if spike.seen_(planted.get(i, loss))} == set(planted)


def test_no_alarm_on_heavy_noise() -> None:
    """Log-normal noise of a fifth, on a falling curve: no alarm in 20,000 steps."""
    rng = np.random.default_rng(0)
    spike = Spike()
    losses = (0.05 + 0.5 / np.sqrt(1 + np.arange(20_000))) * np.exp(0.2 * rng.standard_normal(20_000))
    assert sum(spike.seen_(float(loss)) for loss in losses) == 0


def test_leaps_are_seen_and_do_not_hide_the_next() -> None:
    rng = np.random.default_rng(0)
    spike = Spike()
    losses = 0.05 * np.exp(0.05 * rng.standard_normal(400))
    losses[[200, 230, 231, 350]] *= 3.0
    assert [i for i, loss in enumerate(losses) if spike.seen_(float(loss))] == [200, 230, 231, 350]


def test_a_rise_too_small_for_one_step_to_show_is_seen_where_it_stays() -> None:
    """Noise of a tenth; a quarter more is 2.2 deviations."""
    rng = np.random.default_rng(0)
    losses = 0.05 * np.exp(0.1 * rng.standard_normal(400))
    losses[300:] *= 1.3
    spike = Spike()
    seen = [i for i, loss in enumerate(losses) if spike.seen_(float(loss))]
    assert 301 <= seen[0] <= 312


def test_a_lasting_level_is_accepted_and_nan_enters_nothing() -> None:
    spike = Spike()
    for _ in range(150):
        assert not spike.seen_(1.0)
    before = spike.state()
    assert spike.seen_(math.nan)
    assert spike.state() == before
    fired = [spike.seen_(2.0) for _ in range(400)]
    assert fired[0]
    assert not fired[-1]
