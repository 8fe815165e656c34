"""What the interval and the verdict promise, by simulation: rounds with known noise and a known true ratio."""

from __future__ import annotations

import numpy as np
import pytest

from hasten.measure.stats import Verdict, median_ratio, verdict

RUNS = 1500


def lognormal(rng, n):
    """Baseline and candidate seconds (2, n), 5 % noise each."""
    return np.exp(0.05 * rng.standard_normal((2, n)))


def bursts(rng, n):
    """1 % noise, and in one sample of five something else takes the machine for a while."""
    burst = (rng.random((2, n)) < 0.2) * rng.exponential(0.8, (2, n))
    return np.exp(0.01 * rng.standard_normal((2, n))) * (1.0 + burst)


def drifting(rng, n):
    """A load that comes and goes over several samples; which of the two comes first in a round is shuffled."""
    load, now = np.empty(2 * n), 0.0
    for i in range(2 * n):
        now = 0.8 * now + 0.06 * rng.standard_normal()
        load[i] = now
    pairs = np.exp(load + 0.01 * rng.standard_normal(2 * n)).reshape(n, 2)
    return rng.permuted(pairs, axis=1).T


@pytest.mark.parametrize("n", [9, 12, 15, 25])
@pytest.mark.parametrize("noise", [lognormal, bursts, drifting])
def test_the_interval_holds_the_true_ratio_in_95_of_100_runs(noise, n):
    rng = np.random.default_rng(n)
    held = 0
    for _ in range(RUNS):
        baseline, candidate = noise(rng, n)
        found = median_ratio(baseline, 0.5 * candidate)
        held += found.low <= 0.5 <= found.high
    assert held / RUNS >= 0.94  # nominal 0.95 or more, less two standard errors (0.0056) of the simulation


def test_resampling_would_cover_less():
    """Why there is no bootstrap here: at nine rounds it promises 95 % and keeps about 93 %."""
    rng = np.random.default_rng(0)
    ours = theirs = 0
    for _ in range(RUNS):
        baseline, candidate = lognormal(rng, 9)
        ratios = candidate / baseline
        found = median_ratio(baseline, candidate)
        ours += found.low <= 1.0 <= found.high
        low, high = np.quantile(np.median(ratios[rng.integers(0, 9, (400, 9))], axis=1), [0.025, 0.975])
        theirs += low <= 1.0 <= high
    assert ours > theirs + 0.01 * RUNS


@pytest.mark.parametrize("noise", [lognormal, bursts, drifting])
def test_a_baseline_against_itself_is_flagged_in_at_most_19_of_200_runs(noise):
    rng = np.random.default_rng(1)
    verdicts = [verdict(median_ratio(*noise(rng, 15))) for _ in range(200)]
    assert sum(v is not Verdict.UNDECIDED for v in verdicts) <= 19


@pytest.mark.parametrize("n", [9, 15])
def test_a_planted_slowdown_of_5_percent_is_found_through_1_percent_of_noise(n):
    rng = np.random.default_rng(2)
    found = 0
    for _ in range(400):
        baseline, candidate = np.exp(0.01 * rng.standard_normal((2, n)))
        found += verdict(median_ratio(baseline, 1.05 * candidate)) is Verdict.SLOWER
    assert found >= 0.95 * 400


def test_the_median_is_not_moved_by_bursts_that_move_the_mean():
    rng = np.random.default_rng(3)
    baseline, candidate = bursts(rng, 25)
    baseline[:6] *= 5.0
    assert median_ratio(baseline, candidate).ratio == pytest.approx(1.0, abs=0.1)
    assert abs(candidate.mean() / baseline.mean() - 1.0) > 0.3
