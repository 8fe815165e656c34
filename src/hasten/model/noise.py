"""A diffusers scheduler's config as a noise schedule, without importing torch.

As diffusers' schedulers compute them: ``linear`` (Ho et al. 2020, arXiv:2006.11239), ``scaled_linear``
(Rombach et al. 2022, arXiv:2112.10752), ``squaredcos_cap_v2`` (Nichol and Dhariwal 2021, arXiv:2102.09672, eq. 17),
zero terminal SNR (Lin et al. 2023, arXiv:2305.08891, alg. 1), EDM (Karras et al. 2022, arXiv:2206.00364) and flow
matching with a shift (Esser et al. 2024, arXiv:2403.03206, eq. 23).
"""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import ConfigDict, Field, model_validator

from hasten.diffusion.prediction import Prediction
from hasten.diffusion.schedule import Schedule, cosine, edm, flow, from_betas, linear, scaled_linear
from hasten.errors import BadInput, shown
from hasten.model.checked import Checked, checked

# beta_start and beta_end where the config does not say them; the schedule is then linear, as in diffusers.
_PLAIN, _HEUN = (0.0001, 0.02), (0.00085, 0.012)
DISCRETE = {
    "DDIMParallelScheduler": _PLAIN,
    "DDIMScheduler": _PLAIN,
    "DDPMParallelScheduler": _PLAIN,
    "DDPMScheduler": _PLAIN,
    "DEISMultistepScheduler": _PLAIN,
    "DPMSolverMultistepScheduler": _PLAIN,
    "DPMSolverSinglestepScheduler": _PLAIN,
    "EulerAncestralDiscreteScheduler": _PLAIN,
    "EulerDiscreteScheduler": _PLAIN,
    "HeunDiscreteScheduler": _HEUN,
    "KDPM2AncestralDiscreteScheduler": _HEUN,
    "KDPM2DiscreteScheduler": _HEUN,
    "LMSDiscreteScheduler": _PLAIN,
    "PNDMScheduler": _PLAIN,
    "SASolverScheduler": _PLAIN,
    "UniPCMultistepScheduler": _PLAIN,
}
EDM = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")
ALIKE = ("FlowMapEulerDiscreteScheduler", "IPNDMScheduler")  # one letter from a known one, and no slip of the pen
FLOW = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")


class Discrete(Checked):
    """What of a discrete scheduler's config makes the noise schedule; the rest is about its own sampling."""

    model_config = ConfigDict(extra="ignore")

    num_train_timesteps: int = Field(1000, ge=2, le=100_000)
    beta_start: float = Field(gt=0, lt=1)
    beta_end: float = Field(gt=0, lt=1)
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    trained_betas: Annotated[list[Annotated[float, Field(gt=0, lt=1)]], Field(min_length=2)] | None = None
    prediction_type: Literal["epsilon", "sample", "v_prediction", "flow_prediction"] = "epsilon"
    rescale_betas_zero_snr: bool = False
    use_flow_sigmas: bool = False
    flow_shift: float = Field(1.0, gt=0, le=9)
    timestep_type: Literal["discrete"] = "discrete"

    @model_validator(mode="after")
    def _agree(self) -> Self:
        betas, count = self.trained_betas, self.num_train_timesteps
        if betas is not None and len(betas) != count:
            raise ValueError(f"trained_betas has {len(betas)} entries, num_train_timesteps says {count}")
        if self.use_flow_sigmas != (self.prediction_type == "flow_prediction"):
            raise ValueError("use_flow_sigmas: true and prediction_type: flow_prediction belong together")
        if self.use_flow_sigmas and count != 1000:
            raise ValueError(f"num_train_timesteps {count}: flow models are told their time in 1000ths")
        return self


class Edm(Checked):
    """The noise range of an EDM model, whose ``epsilon`` is the preconditioned output F."""

    model_config = ConfigDict(extra="ignore")

    sigma_min: float = Field(0.002, gt=0)
    sigma_max: float = Field(80.0, gt=0)
    sigma_data: float = Field(0.5, gt=0)
    prediction_type: Literal["epsilon"] = "epsilon"

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"sigma_min {self.sigma_min:g} is not under sigma_max {self.sigma_max:g}")
        return self


class Flow(Checked):
    """A flow-matching model; a network that is told its time in other units than 1000ths is not known yet."""

    model_config = ConfigDict(extra="ignore")

    num_train_timesteps: Literal[1000] = 1000
    shift: float = Field(1.0, gt=0, le=9)
    invert_sigmas: Literal[False] = False


def schedule_of(scheduler: dict[str, Any]) -> tuple[Schedule, Prediction]:
    """The noise schedule of a diffusers scheduler's config, and what the network predicts.

    With ``rescale_betas_zero_snr`` the last alpha_bar is 0 and s = sigma / alpha infinite there; a Schedule needs a
    finite s, so the last knot gets twice the s of the knot before it, far above where time grids start.
    Raises BadInput for a scheduler, a schedule or a prediction type that is not known, and for numbers out of range.
    """
    name = scheduler.get("_class_name")
    where = f"scheduler_config.json ({name})"
    if name in EDM:
        scale = checked(Edm, scheduler, where)
        return edm(scale.sigma_min, scale.sigma_max), "edm"
    if name in FLOW:
        return flow(shift=checked(Flow, scheduler, where).shift), "flow"
    if name == "ScoreSdeVeScheduler":
        raise BadInput(
            f"{where}: the size of its corrector's steps follows the norm of what the network answers, which no "
            f"sampler table holds; use another; known: {', '.join([*DISCRETE, *EDM, *FLOW])}"
        )
    if not isinstance(name, str) or name not in DISCRETE:
        known = [*DISCRETE, *EDM, *FLOW]
        slip = isinstance(name, str) and name not in ALIKE and difflib.get_close_matches(name, known, 1, 0.91)
        hint = f"; did you mean {slip[0]!r}?" if slip else f"; known: {', '.join(known)}"
        raise BadInput(f"scheduler_config.json: the scheduler {shown(name)} is not supported yet{hint}")
    start, end = DISCRETE[name]
    config = checked(Discrete, {"beta_start": start, "beta_end": end, **scheduler}, where)
    if config.use_flow_sigmas:
        return flow(shift=config.flow_shift), "flow"
    try:
        with np.errstate(all="ignore"):
            schedule = _discrete(config)
    except ValueError as error:
        raise BadInput(f"{where}: these betas make no noise schedule ({error}); correct them") from error
    prediction: dict[str, Prediction] = {"epsilon": "epsilon", "sample": "sample", "v_prediction": "v_prediction"}
    return schedule, prediction[config.prediction_type]


def _discrete(config: Discrete) -> Schedule:
    count, start, end = config.num_train_timesteps, config.beta_start, config.beta_end
    if config.trained_betas is not None:
        schedule = from_betas(config.trained_betas)
    elif config.beta_schedule == "linear":
        schedule = linear(count, start, end)
    elif config.beta_schedule == "scaled_linear":
        schedule = scaled_linear(count, start, end)
    else:
        schedule = cosine(count)
    return _zero_terminal_snr(schedule) if config.rescale_betas_zero_snr else schedule


def _zero_terminal_snr(schedule: Schedule) -> Schedule:
    """Lin et al. 2023, alg. 1: sqrt(alpha_bar) shifted to end at 0 and scaled to start as it did."""
    root = 1.0 / np.sqrt(1.0 + np.square(schedule.knot_s))
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    knot_s = np.sqrt(1.0 - root[:-1] ** 2) / root[:-1]
    return Schedule("vp", schedule.knot_t, (*knot_s, 2.0 * knot_s[-1]), schedule.timesteps)
