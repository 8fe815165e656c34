from __future__ import annotations

import numpy as np
import pytest
from diffusers import DDIMScheduler, EDMEulerScheduler

from hasten.diffusion import schedule, times
from hasten.errors import BadInput

SCHEDULES = {
    "linear": schedule.linear(),
    "scaled_linear": schedule.scaled_linear(),
    "cosine": schedule.cosine(),
    "edm": schedule.edm(),
    "flow": schedule.flow(),
}


@pytest.mark.parametrize("steps", [1, 2, 7, 50, 300])
@pytest.mark.parametrize("grid", times.GRIDS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_grid(name: str, grid: str, steps: int) -> None:
    one = SCHEDULES[name]
    t = times.GRIDS[grid](one, steps)
    assert t.shape == (steps + 1,)
    assert np.all(np.diff(t) < 0)
    assert t[-1] == 0.0
    limit = min(80.0, one.knot_s[-1])
    assert one.s(t[0]) <= limit * (1 + 1e-9)
    assert one.s(t[0]) >= limit * (0.85 if grid == "trailing" else 1 - 1e-9)
    if grid in ("karras", "logsnr"):
        assert one.s(t[-2]) >= one.knot_s[0] * (1 - 1e-9)


@pytest.mark.parametrize("steps", [1, 3, 7, 16, 30, 48, 50, 333, 1000])
def test_trailing_is_diffusers(steps: int) -> None:
    theirs = DDIMScheduler(timestep_spacing="trailing")
    theirs.set_timesteps(steps)
    ours = times.trailing(SCHEDULES["scaled_linear"], steps)
    assert ours[:-1] * 1000 - 1 == pytest.approx(theirs.timesteps.numpy(), abs=1e-9)


def test_trailing_starts_under_sigma_max_and_on_an_integer() -> None:
    cosine = SCHEDULES["cosine"]
    first = times.trailing(cosine, 5)[0]
    assert first * 1000 == pytest.approx(round(first * 1000), abs=1e-9)
    assert cosine.s(first) <= 80.0 < cosine.s(first + 0.001)


def test_trailing_has_no_room() -> None:
    with pytest.raises(BadInput, match="51 steps, but only 50 timesteps"):
        times.trailing(schedule.scaled_linear(timesteps=50), 51)


def test_karras_is_diffusers() -> None:
    theirs = EDMEulerScheduler(sigma_schedule="karras")
    theirs.set_timesteps(18)
    edm = SCHEDULES["edm"]
    assert edm.s(times.karras(edm, 18, smallest=0.002)) == pytest.approx(theirs.sigmas.numpy(), rel=1e-5)


def test_logsnr_is_even_in_log_s() -> None:
    linear = SCHEDULES["linear"]
    log_s = np.log(linear.s(times.logsnr(linear, 20)[:-1]))
    assert np.diff(log_s) == pytest.approx(np.diff(log_s).mean(), rel=1e-9)


@pytest.mark.parametrize("grid", [times.karras, times.logsnr])
def test_last_s(grid: times.Grid) -> None:
    edm, linear = SCHEDULES["edm"], SCHEDULES["linear"]
    assert edm.s(grid(edm, 10)[-2]) == pytest.approx(0.06)
    assert edm.s(grid(edm, 1000)[-2]) == pytest.approx(0.002)
    assert edm.s(grid(edm, 10, smallest=0.01)[-2]) == pytest.approx(0.01)  # type: ignore[call-arg]
    assert linear.s(grid(linear, 10, smallest=1e-4)[-2]) == pytest.approx(linear.knot_s[0])  # type: ignore[call-arg]
