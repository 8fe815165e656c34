"""Where training looks: distributions by their quantiles, on every kind of schedule."""

from __future__ import annotations

import numpy as np
import pytest

from hasten.diffusion import schedule
from hasten.diffusion.levels import EARLIEST, LEVELS

PLACES = (np.arange(20_000) + 0.5) / 20_000
SCHEDULES = [schedule.cosine(), schedule.linear(), schedule.edm(), schedule.flow()]


@pytest.mark.parametrize("given", SCHEDULES, ids=["cosine", "linear", "edm", "flow"])
@pytest.mark.parametrize("name", LEVELS)
def test_times_rise_with_the_places_within_the_range(given: schedule.Schedule, name: str) -> None:
    t = LEVELS[name](given, np.array([0.0, *PLACES, 1.0]), None, None)
    assert np.all(np.diff(t) >= 0)
    assert t[0] >= EARLIEST
    assert t[-1] <= 1.0
    assert t.dtype == np.float64


def test_uniform_is_the_places() -> None:
    assert np.array_equal(LEVELS["uniform"](SCHEDULES[0], PLACES[100:], None, None), PLACES[100:])


@pytest.mark.parametrize(("name", "mean", "std"), [("edm", -1.2, 1.2), ("logit_normal", 0.0, 1.0)])
def test_log_s_has_the_papers_moments(name: str, mean: float, std: float) -> None:
    for given in (schedule.cosine(), schedule.edm(), schedule.flow()):
        logs = np.log(given.s(LEVELS[name](given, PLACES, None, None)))
        assert logs.mean() == pytest.approx(mean, abs=0.01)
        assert logs.std() == pytest.approx(std, abs=0.02)
    logs = np.log(schedule.edm().s(LEVELS[name](schedule.edm(), PLACES, 0.4, 0.7)))
    assert (logs.mean(), logs.std()) == (pytest.approx(0.4, abs=0.01), pytest.approx(0.7, abs=0.01))


def test_logit_normal_is_that_of_flows_own_time() -> None:
    """The share of u under 1/4 is the normal's under logit(1/4) = -1.0986, 0.1360."""
    given = schedule.flow()
    u = given.sigma(LEVELS["logit_normal"](given, PLACES, None, None))
    assert np.mean(u < 0.25) == pytest.approx(0.1360, abs=5e-4)
