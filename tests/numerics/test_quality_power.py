"""The quality gate does what it says: honest intervals, and the power that `detectable` promises, by simulation."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest

from hasten.measure.distance import Array, Loss, compare, distances, nearest

DIMENSIONS = 8
SHIFT = 1.0
CORRELATION = 0.98
RUNS = 400
PAIRS, REFERENCE = 64, 256


def simulate(shift: float, seed: int, correlation: float = CORRELATION) -> Loss:
    """A baseline SHIFT away from the reference, and a candidate from the same noise that is ``shift`` away."""
    rng = np.random.default_rng(seed)
    noise, other = rng.standard_normal((2, PAIRS, DIMENSIONS))
    reference = rng.standard_normal((REFERENCE, DIMENSIONS))
    baseline, candidate = noise.copy(), correlation * noise + math.sqrt(1.0 - correlation**2) * other
    baseline[:, 0] += SHIFT
    candidate[:, 0] += shift
    return compare(distances(baseline, reference), distances(candidate, reference))


@cache
def simulations(shift: float) -> list[Loss]:
    return [simulate(shift, seed) for seed in range(RUNS)]


def true_loss(runs: list[Loss]) -> float:
    """The loss of the expected distances, which is what a run estimates."""
    return float(np.mean([run.candidate for run in runs]) / np.mean([run.baseline for run in runs]) - 1.0)


@cache
def planted() -> tuple[float, float]:
    """A shift whose true loss is about the median `detectable` of runs without a loss, and that loss."""
    wanted = float(np.median([run.detectable for run in simulations(SHIFT)]))
    shifts = np.linspace(SHIFT, 1.6 * SHIFT, 7)
    losses = [true_loss([simulate(shift, seed) for seed in range(100)]) for shift in shifts]
    shift = float(np.interp(wanted, losses, shifts))
    return shift, true_loss(simulations(shift))


def brute_force(cross: Array) -> float:
    return float(np.mean([min(row) for row in cross]) + np.mean([min(column) for column in cross.T])) / 2.0


def test_the_distance_and_its_values_without_one_sample_are_those_of_brute_force() -> None:
    samples, reference = np.random.default_rng(3).standard_normal((2, 7, 3))
    cross = distances(samples, reference[:6])
    value, without_sample, without_reference = nearest(cross)
    assert value == pytest.approx(brute_force(cross))
    for i in range(7):
        assert without_sample[i] == pytest.approx(brute_force(np.delete(cross, i, 0)))
    for j in range(6):
        assert without_reference[j] == pytest.approx(brute_force(np.delete(cross, j, 1)))


def test_leaving_the_data_and_missing_a_part_of_it_both_count() -> None:
    rng = np.random.default_rng(4)
    reference = np.concatenate([rng.normal(-5, 1, (100, 2)), rng.normal(5, 1, (100, 2))])
    good = np.concatenate([rng.normal(-5, 1, (50, 2)), rng.normal(5, 1, (50, 2))])
    away, half = good + 3.0, np.concatenate([good[:50], good[:50] + 0.01])
    value = {name: nearest(distances(x, reference))[0] for name, x in (("good", good), ("away", away), ("half", half))}
    assert value["away"] > 1.5 * value["good"]
    assert value["half"] > 1.5 * value["good"]


def test_pairing_is_what_gives_the_power() -> None:
    paired = np.median([run.detectable for run in simulations(SHIFT)])
    unpaired = np.median([simulate(SHIFT, seed, correlation=0.0).detectable for seed in range(50)])
    assert paired < unpaired / 2.5


def test_no_loss_is_flagged_in_about_5_percent_of_runs() -> None:
    """Correlated noise alone changes the expected distance a little, so the null is the measured one."""
    runs = simulations(SHIFT)
    loss = true_loss(runs)
    flagged = np.mean([run.interval[0] > loss for run in runs])
    assert 0.01 <= flagged <= 0.09
    assert abs(loss) < 0.005


def test_a_loss_as_large_as_detectable_is_flagged_in_about_80_percent_of_runs() -> None:
    shift, loss = planted()
    runs = simulations(shift)
    assert loss == pytest.approx(np.median([run.detectable for run in simulations(SHIFT)]), rel=0.2)
    flagged = np.mean([run.interval[0] > 0 for run in runs])
    assert 0.68 <= flagged <= 0.92


@pytest.mark.parametrize("lossy", [False, True])
def test_the_interval_holds_the_true_loss_in_about_90_percent_of_runs(lossy: bool) -> None:
    shift, loss = planted() if lossy else (SHIFT, true_loss(simulations(SHIFT)))
    low, high = np.asarray([run.interval for run in simulations(shift)]).T
    assert 0.85 <= np.mean((low <= loss) & (loss <= high)) <= 0.98
    assert np.mean(high < loss) <= 0.10  # each end holds with 95 %
    assert np.mean(low > loss) <= 0.10


def test_other_seeds_stay_within_the_noise_floor() -> None:
    rng = np.random.default_rng(9)
    reference = rng.standard_normal((REFERENCE, DIMENSIONS))
    runs = []
    for _ in range(200):
        samples = rng.standard_normal((PAIRS, DIMENSIONS))
        samples[:, 0] += SHIFT
        both = distances(samples, reference)
        runs.append(compare(both, both))
    first, second = runs[::2], runs[1::2]
    floor = np.median([run.noise_floor for run in runs])
    apart = np.asarray([abs(a.baseline - b.baseline) for a, b in zip(first, second, strict=True)])
    assert np.mean(apart > floor) <= 0.11
    assert np.mean(apart > floor / 2) > 0.15  # the floor is no gross overstatement
