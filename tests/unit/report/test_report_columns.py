"""Curves of few points keep what matters."""

import numpy as np

from hasten.report.columns import binned, running_mean


def test_curves_keep_their_spikes() -> None:
    y = np.ones(10_000)
    y[1234], y[7777] = 50.0, -3.0
    found = binned(np.arange(10_000.0), y, 300)
    assert len(found.x) == 300
    assert (found.high.max(), found.low.min()) == (50.0, -3.0)


def test_running_mean() -> None:
    values = np.asarray([1.0, 2.0, np.nan, 4.0])
    assert running_mean(values, 2).tolist() == [1.0, 1.5, 2.0, 4.0]
