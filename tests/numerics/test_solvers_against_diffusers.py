"""Every solver against diffusers' scheduler of that name: same times, same denoiser, same noise, in float64.

A scheduler is built for the family, then given our noise levels in place of its own, so that only the formulas of its
``step`` are compared and not its grids.  The denoiser is nonlinear and differs from time to time, so that each weight
of each row counts.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    EDMDPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    IPNDMScheduler,
    UniPCMultistepScheduler,
)
from diffusers.schedulers import scheduling_ddpm

from hasten.diffusion import prediction, schedule, solvers, table, times

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers")
TOLERANCE = 1e-6  # what diffusers leave where their steps go through float32 is under 3e-7
LINEAR, COSINE, SCALED = schedule.linear(), schedule.cosine(), schedule.scaled_linear()
# diffusers' own iPNDM curve: sigma = sin^2, alpha from it
PLACES = np.linspace(0, 1, 400)[1:-1]
SINE = np.sin(PLACES * np.pi / 2) ** 2
SINE_SQUARED = schedule.Schedule("vp", tuple(PLACES), tuple(SINE / np.sqrt(1 - SINE**2)))


@pytest.fixture(scope="module")
def noise() -> torch.Tensor:
    return torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def denoise(x: torch.Tensor, t: float) -> torch.Tensor:
    """A fake network in inner t: bounded, nonlinear in x, wavy in t."""
    return torch.tanh(1.3 * x + 0.8 * np.sin(7.0 * t)) * (1.0 - 0.4 * t)


def peer(scheduler, sigmas, x, sigma_places, scale=None):
    """Run ``scheduler`` on ``sigmas`` from ``x``; ``sigma_places`` are the inner times of its evaluations."""
    scheduler.sigmas = torch.as_tensor(sigmas)
    scheduler.timesteps = torch.arange(len(sigma_places), dtype=torch.float64)
    scheduler.num_inference_steps = len(sigma_places)
    scheduler.set_begin_index(0)
    for step, t in zip(scheduler.timesteps, sigma_places, strict=True):
        model_output = denoise(scheduler.scale_model_input(x, step) if scale is None else scale * x, float(t))
        x = scheduler.step(model_output.to(x.dtype), step, x).prev_sample
    return x


def error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


MULTISTEP = {
    "dpmpp_2m": (DPMSolverMultistepScheduler, {"solver_order": 2}),
    "dpmpp_3m": (DPMSolverMultistepScheduler, {"solver_order": 3}),
    "unipc_2": (UniPCMultistepScheduler, {"solver_order": 2}),
    "unipc": (UniPCMultistepScheduler, {"solver_order": 3}),
    "deis_2": (DEISMultistepScheduler, {"solver_order": 2}),
    "deis": (DEISMultistepScheduler, {"solver_order": 3}),
}


@pytest.mark.parametrize("steps", [1, 2, 3, 6, 14, 15, 24])
@pytest.mark.parametrize("grid", ["uniform", "karras", "logsnr"])
@pytest.mark.parametrize("solver", MULTISTEP)
def test_multistep(solver: str, grid: str, steps: int, noise: torch.Tensor) -> None:
    family, options = MULTISTEP[solver]
    t = times.GRIDS[grid](LINEAR, steps)
    if family is DEISMultistepScheduler:  # has no last step to 0
        t[-1] = t[-2] / 2
    ours = table.run(solvers.SOLVERS[solver](LINEAR, t), denoise, noise)
    scheduler = family(prediction_type="sample", **options)
    theirs = peer(scheduler, LINEAR.s(t), noise * LINEAR.sigma(t[0]).item(), t[:-1])
    assert error(ours, theirs) < TOLERANCE


@pytest.mark.parametrize("solver", MULTISTEP)
def test_multistep_flow(solver: str, noise: torch.Tensor) -> None:
    flow = schedule.flow()
    family, options = MULTISTEP[solver]
    t = times.uniform(flow, 9)
    if family is DEISMultistepScheduler:
        t[-1] = t[-2] / 2
    ours = table.run(solvers.SOLVERS[solver](flow, t), denoise, noise)
    scheduler = family(prediction_type="flow_prediction", use_flow_sigmas=True, **options)
    scheduler.convert_model_output = lambda output, sample: (
        (sample - scheduler._sigma_to_alpha_sigma_t(scheduler.sigmas[scheduler.step_index])[0] * output)
        / scheduler.sigmas[scheduler.step_index]
        if family is DEISMultistepScheduler
        else output
    )
    theirs = peer(scheduler, flow.sigma(t), noise * flow.sigma(t[0]).item(), t[:-1])
    assert error(ours, theirs) < TOLERANCE


@pytest.mark.parametrize("order", [2, 3])
def test_dpmpp_edm(order: int, noise: torch.Tensor) -> None:
    edm = schedule.edm()
    t = times.karras(edm, 10)
    ours = table.run(solvers.SOLVERS[f"dpmpp_{order}m"](edm, t), denoise, noise)
    scheduler = EDMDPMSolverMultistepScheduler(solver_order=order)
    scheduler.convert_model_output = lambda output, sample: output
    theirs = peer(scheduler, edm.sigma(t), noise * edm.sigma(t[0]).item(), t[:-1], scale=1.0)
    assert error(ours, theirs) < TOLERANCE


@pytest.mark.parametrize("grid", times.GRIDS)
@pytest.mark.parametrize("noise_schedule", [LINEAR, COSINE, SCALED])
def test_euler(noise_schedule: schedule.Schedule, grid: str, noise: torch.Tensor) -> None:
    t = times.GRIDS[grid](noise_schedule, 10)
    ours = table.run(solvers.SOLVERS["euler"](noise_schedule, t), denoise, noise)
    s = noise_schedule.s(t)
    theirs = peer(EulerDiscreteScheduler(prediction_type="sample"), s, noise * s[0], t[:-1])
    assert error(ours, theirs) < TOLERANCE


@pytest.mark.parametrize("steps", [1, 2, 9])
@pytest.mark.parametrize("noise_schedule", [LINEAR, COSINE])
def test_heun(noise_schedule: schedule.Schedule, steps: int, noise: torch.Tensor) -> None:
    t = times.karras(noise_schedule, steps)
    ours = table.run(solvers.SOLVERS["heun"](noise_schedule, t), denoise, noise)
    s = noise_schedule.s(t)
    twice = np.concatenate([s[:1], s[1:-1].repeat(2), s[-1:]])
    theirs = peer(
        HeunDiscreteScheduler(prediction_type="sample"),
        twice,
        noise * s[0],
        np.concatenate([t[:1], t[1:-1].repeat(2)]),
    )
    assert error(ours, theirs) < TOLERANCE


@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_ddim(kind: str, noise: torch.Tensor) -> None:
    noise_schedule = {"linear": LINEAR, "scaled_linear": SCALED, "squaredcos_cap_v2": COSINE}[kind]
    options = {} if kind != "scaled_linear" else {"beta_start": 0.00085, "beta_end": 0.012}
    scheduler = DDIMScheduler(beta_schedule=kind, prediction_type="sample", clip_sample=False, **options)
    scheduler.num_inference_steps = 8
    integers = np.arange(990, 0, -125)  # it steps by T / N whatever the grid; the cosine's last knots are left out
    scheduler.alphas_cumprod = torch.from_numpy(1.0 / (1.0 + np.array(noise_schedule.knot_s) ** 2))
    x = theirs = noise * noise_schedule.sigma(991 / 1000).item()
    for n in integers:
        theirs = scheduler.step(denoise(theirs, (n + 1) / 1000), int(n), theirs).prev_sample
    t = np.append((integers + 1) / 1000, 0.0)
    ours = table.run(solvers.SOLVERS["ddim"](noise_schedule, t), denoise, noise)
    assert error(ours, theirs) < 1e-6
    assert error(x, theirs) > 0.1


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 12])
@pytest.mark.parametrize("noise_schedule", [SINE_SQUARED, LINEAR])
def test_ipndm(noise_schedule: schedule.Schedule, steps: int, noise: torch.Tensor) -> None:
    t = times.uniform(noise_schedule, steps)
    alpha, sigma = (torch.from_numpy(f(t)) for f in (noise_schedule.alpha, noise_schedule.sigma))
    scheduler = IPNDMScheduler()
    scheduler.set_timesteps(steps)
    scheduler.betas, scheduler.alphas = sigma, alpha
    scheduler.timesteps = torch.from_numpy(t[:-1])
    theirs = noise * sigma[0]
    for k in range(steps):  # it takes what v-prediction calls v
        clean = denoise(theirs, float(t[k]))
        output = prediction.from_sample("v_prediction", theirs, clean, alpha[k], sigma[k])
        theirs = scheduler.step(output, scheduler.timesteps[k], theirs).prev_sample
    ours = table.run(solvers.SOLVERS["ipndm"](noise_schedule, t), denoise, noise)
    assert error(ours, theirs) < 1e-6


def test_ipndm_on_its_own_grid(noise: torch.Tensor) -> None:
    scheduler = IPNDMScheduler()
    scheduler.set_timesteps(10)
    betas, alphas = scheduler.betas.numpy()[1:], scheduler.alphas.numpy()[1:]  # the first alpha is 0
    rising = (betas / alphas)[::-1][1:].astype(np.float64)
    own = schedule.Schedule("vp", tuple(np.linspace(0.1, 0.9, 9)), tuple(rising))
    t = np.linspace(0.9, 0.0, 10)
    assert own.sigma(t) == pytest.approx(betas, abs=1e-7)
    scheduler.set_begin_index(1)
    theirs = noise * float(betas[0])
    for k in range(9):
        output = prediction.from_sample(
            "v_prediction", theirs, denoise(theirs, t[k]), float(alphas[k]), float(betas[k])
        )
        theirs = scheduler.step(output, scheduler.timesteps[k + 1], theirs).prev_sample
    ours = table.run(solvers.SOLVERS["ipndm"](own, t), denoise, noise)
    assert error(ours, theirs) < TOLERANCE


@pytest.mark.parametrize("steps", [5, 10, 40])
def test_ddpm(steps: int, noise: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = torch.Generator().manual_seed(1)
    drawn = torch.randn(steps + 1, *noise.shape, generator=rng, dtype=torch.float64)
    t = times.trailing(SCALED, steps)
    ours = table.run(solvers.SOLVERS["ddpm"](SCALED, t), denoise, noise, fresh=lambda row: drawn[row])
    row = iter(range(1, steps + 1))
    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *_, **__: drawn[next(row)])
    scheduler = DDPMScheduler(
        beta_schedule="scaled_linear", prediction_type="sample", clip_sample=False, timestep_spacing="trailing"
    )
    scheduler.alphas_cumprod = torch.from_numpy(1.0 / (1.0 + np.array(SCALED.knot_s) ** 2))
    scheduler.set_timesteps(steps)
    assert (scheduler.timesteps.numpy() + 1) / 1000 == pytest.approx(t[:-1])
    theirs = noise * SCALED.sigma(t[0]).item()
    for n in scheduler.timesteps:
        theirs = scheduler.step(denoise(theirs, (n.item() + 1) / 1000), int(n), theirs).prev_sample
    assert error(ours, theirs) < 1e-6
