"""The quality gate does what it says: unbiased distances, honest intervals, and the power that `detectable` promises.

The oracle is the energy distance of Gaussians in closed form: |N(a, 2I)| in d dimensions is a non-central chi variable,
of mean 2 Gamma((d + 1) / 2) / Gamma(d / 2) * 1F1(-1/2; d/2; -|a|^2 / 4).
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import gammaln, hyp1f1

from hasten.measure.distance import Array, Loss, compare, distances, energy

DIMENSIONS = 8
SHIFT = 1.0
CORRELATION = 0.98
RUNS = 400
PAIRS, REFERENCE = 64, 256


def gaussian_energy(shift: float, d: int = DIMENSIONS) -> float:
    """The energy distance of N(shift * e_1, I) to N(0, I)."""
    scale = 2.0 * math.exp(gammaln((d + 1) / 2) - gammaln(d / 2))
    return 2.0 * scale * (float(hyp1f1(-0.5, d / 2, -(shift**2) / 4)) - 1.0)


def matrices(samples: Array, reference: Array) -> tuple[Array, Array]:
    return distances(samples, samples), distances(samples, reference)


def simulate(shift: float, seed: int, correlation: float = CORRELATION) -> Loss:
    """A baseline SHIFT away from the reference, and a candidate from the same noise that is ``shift`` away."""
    rng = np.random.default_rng(seed)
    noise, other = rng.standard_normal((2, PAIRS, DIMENSIONS))
    reference = rng.standard_normal((REFERENCE, DIMENSIONS))
    baseline, candidate = noise.copy(), correlation * noise + math.sqrt(1.0 - correlation**2) * other
    baseline[:, 0] += SHIFT
    candidate[:, 0] += shift
    return compare(matrices(baseline, reference), matrices(candidate, reference), distances(reference, reference))


@cache
def simulations(shift: float) -> list[Loss]:
    return [simulate(shift, seed) for seed in range(RUNS)]


@cache
def planted() -> tuple[float, float]:
    """The median `detectable` of runs without a loss, and the shift whose true loss is that."""
    loss = float(np.median([run.detectable for run in simulations(SHIFT)]))
    wanted = gaussian_energy(SHIFT) * (1.0 + loss)
    return loss, brentq(lambda shift: gaussian_energy(shift) - wanted, SHIFT, 2.0 * SHIFT)


def test_the_closed_form_agrees_with_a_large_sample() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 2000, DIMENSIONS))
    x[:, 0] += SHIFT
    value, *_ = energy(*matrices(x, y), distances(y, y))
    assert value == pytest.approx(gaussian_energy(SHIFT), rel=0.1)


@pytest.mark.parametrize("count", [8, 64])
def test_the_distance_does_not_depend_on_the_number_of_samples(count: int) -> None:
    values = []
    for seed in range(RUNS):
        rng = np.random.default_rng((seed, count))
        samples, reference = rng.standard_normal((count, DIMENSIONS)), rng.standard_normal((2 * count, DIMENSIONS))
        samples[:, 0] += SHIFT
        values.append(energy(*matrices(samples, reference), distances(reference, reference))[0])
    error = np.std(values) / math.sqrt(RUNS)
    assert abs(np.mean(values) - gaussian_energy(SHIFT)) < 3.5 * error


def test_a_distance_of_nothing_is_zero_on_average() -> None:
    values = []
    for seed in range(RUNS):
        samples, reference = np.random.default_rng(seed).standard_normal((2, 16, DIMENSIONS))
        values.append(energy(*matrices(samples, reference), distances(reference, reference))[0])
    assert abs(np.mean(values)) < 3.5 * np.std(values) / math.sqrt(RUNS)
    assert min(values) < 0


def test_leaving_one_out_in_closed_form_is_leaving_one_out() -> None:
    samples, reference = np.random.default_rng(3).standard_normal((2, 7, 3))
    _, without_sample, without_reference = energy(*matrices(samples, reference), distances(reference, reference))
    for i in range(7):
        fewer = np.delete(samples, i, 0)
        assert without_sample[i] == pytest.approx(
            energy(*matrices(fewer, reference), distances(reference, reference))[0]
        )
        fewer = np.delete(reference, i, 0)
        assert without_reference[i] == pytest.approx(energy(*matrices(samples, fewer), distances(fewer, fewer))[0])


def test_the_covariance_is_that_of_the_distances() -> None:
    runs = simulations(SHIFT)
    seen = np.cov([[run.baseline, run.candidate - run.baseline] for run in runs], rowvar=False)
    claimed = np.mean([run._of_difference for run in runs], axis=0)
    assert claimed[0, 0] == pytest.approx(seen[0, 0], rel=0.25)
    assert claimed[1, 1] == pytest.approx(seen[1, 1], rel=0.25)


def test_pairing_is_what_gives_the_power() -> None:
    paired = np.median([run.detectable for run in simulations(SHIFT)])
    unpaired = np.median([simulate(SHIFT, seed, correlation=0.0).detectable for seed in range(50)])
    assert paired < unpaired / 3


def test_no_loss_is_flagged_in_about_5_percent_of_runs() -> None:
    flagged = np.mean([run.interval[0] > 0 for run in simulations(SHIFT)])
    assert 0.01 <= flagged <= 0.08


def test_a_loss_as_large_as_detectable_is_flagged_in_about_80_percent_of_runs() -> None:
    _, shift = planted()
    flagged = np.mean([run.interval[0] > 0 for run in simulations(shift)])
    assert 0.72 <= flagged <= 0.88


@pytest.mark.parametrize("lossy", [False, True])
def test_the_interval_holds_the_true_loss_in_about_90_percent_of_runs(lossy: bool) -> None:
    loss, shift = planted() if lossy else (0.0, SHIFT)
    low, high = np.asarray([run.interval for run in simulations(shift)]).T
    assert 0.86 <= np.mean((low <= loss) & (loss <= high)) <= 0.97
    assert np.mean(high < loss) <= 0.09  # each end holds with 95 %
    assert np.mean(low > loss) <= 0.09


def test_other_seeds_stay_within_the_noise_floor() -> None:
    rng = np.random.default_rng(9)
    reference = rng.standard_normal((REFERENCE, DIMENSIONS))
    among = distances(reference, reference)
    runs = []
    for _ in range(200):
        samples = rng.standard_normal((PAIRS, DIMENSIONS))
        samples[:, 0] += SHIFT
        both = matrices(samples, reference)
        runs.append(compare(both, both, among))
    first, second = runs[::2], runs[1::2]
    floor = np.median([run.noise_floor for run in runs])
    outside = np.mean([abs(a.baseline - b.baseline) > floor for a, b in zip(first, second, strict=True)])
    assert 0.0 <= outside <= 0.11
    closer = np.mean([abs(a.baseline - b.baseline) > floor / 2 for a, b in zip(first, second, strict=True)])
    assert closer > 0.15  # the floor is no gross overstatement: half of it is left by about a third of pairs
