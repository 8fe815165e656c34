from __future__ import annotations

import numpy as np
import pytest
from diffusers import DDPMScheduler, EDMEulerScheduler, FlowMatchEulerDiscreteScheduler

from hasten.diffusion import schedule
from hasten.diffusion.schedule import Schedule

EVERY = {
    "linear": schedule.linear(),
    "scaled_linear": schedule.scaled_linear(),
    "cosine": schedule.cosine(),
    "few": schedule.linear(timesteps=20),
    "edm": schedule.edm(),
    "flow": schedule.flow(),
    "shifted": schedule.flow(shift=3.0),
}
DIFFUSERS = {
    "linear": {"beta_schedule": "linear"},
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
}


@pytest.mark.parametrize("name", EVERY)
def test_s_rises_and_inverts(name: str) -> None:
    one = EVERY[name]
    t = np.linspace(0.0, 1.0, 4001)
    s = one.s(t)
    assert s[0] == 0.0
    assert np.all(np.diff(s) > 0) or name == "shifted"  # its last knots are capped
    assert one.t(s) == pytest.approx(t, abs=1e-9)
    levels = np.geomspace(one.knot_s[0] / 10, one.knot_s[-1], 500)
    assert one.s(one.t(levels)) == pytest.approx(levels, rel=1e-9)


@pytest.mark.parametrize("name", EVERY)
def test_alpha_and_sigma(name: str) -> None:
    one = EVERY[name]
    t = np.linspace(0.0, 1.0, 101)
    alpha, sigma = one.alpha(t), one.sigma(t)
    assert (alpha[0], sigma[0]) == (1.0, 0.0)
    assert sigma / alpha == pytest.approx(one.s(t), rel=1e-12)
    total = {"vp": alpha**2 + sigma**2, "ve": alpha, "flow": alpha + sigma}[one.kind]
    assert total == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("name", EVERY)
def test_scalars_and_shapes_pass_through(name: str) -> None:
    one = EVERY[name]
    for method in (one.s, one.alpha, one.sigma, one.network_time):
        assert method(0.4).shape == ()
        assert method(np.full((2, 3), 0.4)).shape == (2, 3)


@pytest.mark.parametrize("name", DIFFUSERS)
@pytest.mark.parametrize("timesteps", [50, 1000])
def test_knots_are_diffusers_alphas_cumprod(name: str, timesteps: int) -> None:
    make = {"linear": schedule.linear, "scaled_linear": schedule.scaled_linear, "cosine": schedule.cosine}[name]
    one = make(timesteps=timesteps)
    theirs = DDPMScheduler(num_train_timesteps=timesteps, **DIFFUSERS[name]).alphas_cumprod.double().numpy()
    knots = (np.arange(timesteps) + 1) / timesteps
    assert one.alpha(knots) ** 2 == pytest.approx(theirs, rel=3e-4)  # theirs is a float32 product of 1000 factors
    assert one.sigma(knots) ** 2 == pytest.approx(1 - theirs, rel=3e-3)
    assert one.network_time(knots) == pytest.approx(np.arange(timesteps), abs=1e-9)


def test_network_time_is_float_between_knots_and_never_negative() -> None:
    one = EVERY["linear"]
    assert one.network_time(0.5005) == pytest.approx(499.5)
    assert one.network_time(0.0) == 0.0


def test_network_time_of_edm_is_c_noise() -> None:
    theirs = EDMEulerScheduler()
    sigma = np.array([0.002, 0.5, 80.0])
    edm = EVERY["edm"]
    assert edm.network_time(edm.t(sigma)) == pytest.approx(
        [float(theirs.precondition_noise(x)) for x in sigma], abs=1e-5
    )


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_is_diffusers_flow_match(shift: float) -> None:
    theirs = FlowMatchEulerDiscreteScheduler(shift=shift)
    one = schedule.flow(shift=shift)
    t = np.arange(10, 1000, 7) / 1000
    sigma = theirs.sigmas.double().numpy()[::-1][np.round(t * 1000).astype(int) - 1]
    assert one.sigma(t) == pytest.approx(sigma, rel=1e-5)
    assert one.network_time(t) == pytest.approx(sigma * 1000, rel=1e-5)


@pytest.mark.parametrize(
    ("knot_t", "knot_s"),
    [
        ((1.0,), (1.0,)),
        ((0.5, 1.0), (1.0, 1.0)),
        ((0.5, 0.5), (1.0, 2.0)),
        ((0.5, 1.0), (0.0, 1.0)),
        ((0.5, 1.0), (1.0,)),
        ((0.0, 1.0), (1.0, 2.0)),
        ((0.5, 1.1), (1.0, 2.0)),
        ((0.5, 1.0), (1.0, float("nan"))),
        ((0.5, 1.0), (1.0, float("inf"))),
    ],
)
def test_bad_knots(knot_t: tuple[float, ...], knot_s: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="strictly increasing"):
        Schedule("vp", knot_t, knot_s)


@pytest.mark.parametrize("betas", [[0.1], [0.1, 1.0], [0.0, 0.1], [[0.1, 0.2]], [0.1, float("nan")]])
def test_bad_betas(betas: list) -> None:
    with pytest.raises(ValueError, match="betas"):
        schedule.from_betas(betas)
