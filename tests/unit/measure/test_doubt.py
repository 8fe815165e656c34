"""What is doubted and what is not, one cause at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hasten.measure import doubt
from hasten.measure.stats import median_ratio

STEADY = [1.0, 1.01, 0.99, 1.0, 1.02, 0.98, 1.0, 1.01, 0.99]


def reason(baseline, candidate, rounds=9):
    return doubt.reason(median_ratio(baseline, candidate), {"baseline": baseline, "candidate": candidate}, rounds)


def test_a_clear_difference_on_a_steady_machine_is_believed():
    assert reason(STEADY, [0.5 * s for s in STEADY]) == ""


def test_too_few_rounds_are_counted():
    assert reason(STEADY[:5], STEADY[:5], 5) == "too few rounds: 5, at least 9 are needed"
    assert doubt.reason(None, {"baseline": [], "candidate": []}, 9).startswith("too few rounds: 0")


def test_either_side_that_varies_more_than_it_is_ahead_is_noise():
    wild = [0.4, 0.6, 0.5, 0.8, 0.9, 0.5, 0.6, 0.5, 0.7]
    assert reason(STEADY, wild) == "noisy machine: candidate varied by 57 % over rounds"
    assert reason(wild, STEADY) == "noisy machine: baseline varied by 57 % over rounds"
    assert reason(STEADY, [0.2 * s for s in wild]) == ""  # a difference larger than the noise


def test_a_difference_within_one_round_of_the_drift_is_doubted():
    baseline = [1.02**i for i in range(9)]
    assert reason(baseline, [1.01 * s for s in baseline]) == (
        "drift could explain it: baseline became 17 % slower over the rounds, 2.0 % a round"
    )
    assert reason(baseline, [1.05 * s for s in baseline]) == ""


@pytest.mark.parametrize(("rate", "total"), [(0.02, 0.16), (-0.01, -0.08)])
def test_drift_is_the_slope_whatever_single_rounds_do(rate, total):
    logs = rate * np.arange(9.0)
    logs[4] += 0.5  # one burst
    found = doubt.drift(np.exp(logs))
    assert found is not None
    assert (found.per_round, found.total) == pytest.approx((rate, total), rel=1e-9)


def test_a_trend_too_small_too_short_or_by_chance_is_none():
    assert doubt.drift([math.exp(0.005 * i) for i in range(9)]) is None  # 4 %
    assert doubt.drift([1.1**i for i in range(8)]) is None
    assert doubt.drift([1.0] * 9) is None
    rng = np.random.default_rng(0)
    by_chance = sum(doubt.drift(np.exp(0.5 * rng.standard_normal(12))) is not None for _ in range(500))
    assert by_chance <= 12  # 1 % would be 5; the size alone stops none of them


def test_manns_test_has_the_power_it_should():
    """A trend of 1 % a round through 1 % of noise, in fifteen rounds."""
    rng = np.random.default_rng(0)
    seen = sum(doubt.drift(np.exp(0.01 * (np.arange(15) + rng.standard_normal(15)))) is not None for _ in range(200))
    assert seen >= 195


def test_warnings_name_drift_and_frequency():
    assert doubt.warnings("baseline", STEADY, (2000.0, 2050.0), "cpu") == ()
    assert doubt.warnings("baseline", STEADY, None, "cpu") == ()
    assert doubt.warnings("baseline", STEADY, (2000.0, 1700.0), "cuda") == (
        "frequency drift: cuda from 2000 to 1700 MHz over the rounds",
    )
    drift, frequency = doubt.warnings("baseline", [1.02**i for i in range(9)], (1000.0, 1100.0), "cpu")
    assert drift.startswith("drift: baseline became 17 % slower over the rounds; ")
    assert frequency == "frequency drift: cpu from 1000 to 1100 MHz over the rounds"
