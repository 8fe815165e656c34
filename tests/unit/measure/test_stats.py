from __future__ import annotations

from math import comb

import numpy as np
import pytest

from hasten.measure.stats import Interval, Verdict, median_ratio, verdict


def test_the_figure_is_the_median_of_the_paired_ratios():
    baseline, candidate = [2.0, 4.0, 8.0], [1.0, 4.0, 16.0]  # ratios 0.5, 1, 2: unpaired medians agree, means don't
    found = median_ratio(baseline, candidate)
    assert (found.ratio, found.low, found.high, found.n) == pytest.approx((1.0, 0.5, 2.0, 3))


@pytest.mark.parametrize(("n", "k"), [(1, 1), (5, 1), (6, 1), (8, 1), (9, 2), (12, 3), (15, 4), (20, 6), (25, 8)])
def test_the_interval_ends_at_the_order_statistics_of_the_published_tables(n, k):
    ratios = np.arange(1.0, n + 1.0)
    found = median_ratio(np.ones(n), np.random.default_rng(n).permutation(ratios))
    assert (found.low, found.high) == pytest.approx((k, n + 1 - k))
    if n >= 6:  # the oracle: what the binomial says of this k and of the next
        inside = lambda k: 1 - 2 * sum(comb(n, i) for i in range(k)) / 2**n  # noqa: E731
        assert inside(k) >= 0.95 > inside(k + 1)


def test_an_even_number_of_rounds_has_the_same_figure_both_ways_round():
    a, b = [1.0, 1.0, 1.0, 1.0], [1.0, 2.0, 8.0, 9.0]
    forward, backward = median_ratio(a, b), median_ratio(b, a).inverse()
    assert forward.ratio == pytest.approx(4.0)
    assert (forward.low, forward.ratio, forward.high) == pytest.approx((backward.low, backward.ratio, backward.high))


def test_inverse_is_the_speed_up():
    assert Interval(0.05, 0.04, 0.1, 15).inverse() == Interval(20.0, 10.0, 25.0, 15)


@pytest.mark.parametrize(
    ("low", "high", "n", "expected"),
    [
        (0.4, 0.6, 15, Verdict.FASTER),
        (1.4, 1.6, 15, Verdict.SLOWER),
        (0.9, 1.1, 15, Verdict.UNDECIDED),
        (0.9, 1.0, 15, Verdict.UNDECIDED),
        (1.0, 1.1, 15, Verdict.UNDECIDED),
        (0.4, 0.6, 9, Verdict.FASTER),
        (0.4, 0.6, 8, Verdict.UNDECIDED),
    ],
)
def test_verdict(low, high, n, expected):
    assert verdict(Interval((low * high) ** 0.5, low, high, n)) is expected
    assert str(expected) == expected.name


@pytest.mark.parametrize(
    ("baseline", "candidate"),
    [([], []), ([1.0], [1.0, 2.0]), ([1.0], [0.0]), ([1.0], [-1.0]), ([float("nan")], [1.0]), ([[1.0]], [[1.0]])],
)
def test_what_is_no_paired_time_is_refused(baseline, candidate):
    with pytest.raises(ValueError):
        median_ratio(baseline, candidate)
