"""A folder's own scheduler, as configured, as a sampler table: the baseline is what a person runs today.

Between two evaluations a scheduler of diffusers is linear in the starting noise, the network's outputs, those outputs
clipped, and fresh noise.  So it is run once on vectors of coefficients in place of samples: what comes back are the
rows of the table, whatever the class, its spacing of timesteps, its offsets and its order.
"""

from __future__ import annotations

import inspect
import logging
import sys
import warnings
from typing import Any
from unittest import mock

import numpy as np
import torch
from pydantic import ConfigDict, Field

from hasten.diffusion.prediction import Prediction, from_sample
from hasten.diffusion.schedule import Schedule
from hasten.diffusion.table import Clip, Table
from hasten.errors import BadInput
from hasten.model.checked import Checked, checked

NEGLIGIBLE = 1e-6  # of a row's largest coefficient: schedulers compute in float32
PURE = 1e-3  # how far what is clipped may be from one prediction


class Clipping(Checked):
    """How a scheduler bounds what it takes for the clean sample; diffusers' own defaults."""

    model_config = ConfigDict(extra="ignore")

    clip_sample: bool = False
    clip_sample_range: float = Field(1.0, gt=0)
    thresholding: bool = False
    sample_max_value: float = Field(1.0, gt=0)
    dynamic_thresholding_ratio: float = Field(0.995, gt=0, le=1)


class Coefficients(torch.Tensor):
    """What a sample is made of: shares of the starting noise, N predictions, N clipped ones and N + 1 noises."""

    def clamp(self, *_: Any, **__: Any) -> Any:
        """The same prediction, clipped."""
        return _clipped(self)

    def to(self, *_: Any, **__: Any) -> Any:
        """Itself: coefficients stay in float64, on the host."""
        return self

    def float(self, *_: Any, **__: Any) -> Any:
        """Itself."""
        return self


def table(config: dict[str, Any], schedule: Schedule, prediction: Prediction, sigma_data: float, steps: int) -> Table:
    """The table of the scheduler that ``config`` describes, with ``steps`` as its pipeline passes them.

    Raises BadInput for a scheduler that no table can hold, and for steps that it refuses.
    """
    name = str(config["_class_name"])
    scheduler = _scheduler(config, steps)
    bounds = _clip(scheduler)
    asked = len(scheduler.timesteps)
    size = 2 + 3 * asked
    rows: list[Any] = []
    times: list[float] = []

    def unit(place: int) -> Any:
        vector = torch.zeros((1, size), dtype=torch.float64)
        vector[0, place] = 1.0
        return vector.as_subclass(Coefficients)

    def fresh(*_: Any, **__: Any) -> Any:
        return unit(1 + 2 * asked + len(rows))

    ve = schedule.kind == "ve"
    sample = unit(0) * float(getattr(scheduler, "init_noise_sigma", 1.0))
    module = sys.modules[type(scheduler).__module__]
    patches = [mock.patch.object(module, "randn_tensor", fresh)] if hasattr(module, "randn_tensor") else []
    patches += [mock.patch.object(scheduler, "_threshold_sample", _clipped)] if _dynamic(scheduler) else []
    arguments: dict[str, Any] = {"return_dict": False}
    if "generator" in inspect.signature(scheduler.step).parameters:
        arguments["generator"] = torch.Generator()
    try:
        for patch in patches:
            patch.start()
        for told in scheduler.timesteps:
            scaled = scheduler.scale_model_input(sample, told) if hasattr(scheduler, "scale_model_input") else sample
            time = _time(schedule, float(told))
            x = sample if ve else scaled
            rows.append(x)
            times.append(time)
            clean = unit(len(rows))
            alpha, sigma = schedule.alpha(time).item(), schedule.sigma(time).item()
            output = from_sample(prediction, x, clean, alpha, sigma, sigma_data)
            sample = scheduler.step(output, told, sample, **arguments)[0]
    except Exception as error:  # as above
        raise BadInput(
            f"{name}: {steps} steps can't be made a table ({_first(error)}); use another number of them"
        ) from error
    finally:
        for patch in reversed(patches):
            patch.stop()
    found = np.stack([np.asarray(torch.Tensor.detach(row).as_subclass(torch.Tensor)[0]) for row in [*rows, sample]])
    return _rows(f"{name} {steps}", np.asarray(times), found, bounds)


def label(config: dict[str, Any], steps: int) -> str:
    """For people: "DDIM 50 steps"."""
    name = str(config["_class_name"]).removesuffix("Scheduler")
    for suffix in ("Discrete", "Multistep", "Singlestep"):
        name = name.replace(suffix, "")
    return f"{name} {steps} steps"


def _scheduler(config: dict[str, Any], steps: int) -> Any:
    import diffusers

    logging.getLogger("diffusers.schedulers").setLevel(logging.ERROR)  # remarks on settings that it changes
    with warnings.catch_warnings(action="ignore"):
        kind = getattr(diffusers, config["_class_name"])
        known = set(inspect.signature(kind.__init__).parameters)  # of keys that the class lacks diffusers says much
        if not config["_class_name"].startswith("DDPM"):  # the others drop a variance that the network predicts too
            known.discard("variance_type")
        try:
            scheduler = kind.from_config({key: value for key, value in config.items() if key in known})
            scheduler.set_timesteps(steps)
        except Exception as error:  # it checks no types, and fails on wrong ones in any way there is
            raise BadInput(f"{config['_class_name']}: diffusers refuses it ({_first(error)}); correct it") from error
    return scheduler


def _first(error: BaseException) -> str:
    reason = " ".join(str(error).split())
    return reason if 0 < len(reason) <= 160 else f"{type(error).__name__} {reason[:80]}"


def _time(schedule: Schedule, told: float) -> float:
    """The inner time of which the network is told ``told``."""
    if schedule.timesteps is not None:
        return (told + 1.0) / schedule.timesteps
    if schedule.kind == "ve":
        return float(schedule.t(np.exp(4.0 * told)))
    share = min(told / 1000.0, 1.0 - 1e-6)
    return float(np.clip(schedule.t(share / (1.0 - share)), 1e-6, 1.0))


def _dynamic(scheduler: Any) -> bool:
    return bool(getattr(scheduler.config, "thresholding", False))


def _clip(scheduler: Any) -> Clip | None:
    config = checked(Clipping, dict(scheduler.config), f"scheduler_config.json ({type(scheduler).__name__})")
    if config.thresholding:
        return Clip(config.sample_max_value, config.dynamic_thresholding_ratio)
    return Clip(config.clip_sample_range) if config.clip_sample else None


def _clipped(prediction: Any) -> Any:
    """The coefficients of a prediction, clipped.  Raises ValueError for what is no prediction alone."""
    values = np.asarray(torch.Tensor.detach(prediction).as_subclass(torch.Tensor)[0])
    count = (len(values) - 2) // 3
    place = int(np.abs(values).argmax())
    rest = values.copy()
    rest[place] -= 1.0
    if not 1 <= place <= count or np.abs(rest).max() > PURE:
        raise ValueError("it clips what is no prediction of the clean sample")
    clipped = torch.zeros((1, len(values)), dtype=torch.float64)
    clipped[0, place + count] = 1.0
    return clipped.as_subclass(Coefficients)


def _rows(name: str, times: np.ndarray, found: np.ndarray, clip: Clip | None) -> Table:
    """The recurrence of :mod:`hasten.diffusion.table` from dense rows (N+1, 2 + 3N)."""
    if not np.isfinite(found).all():
        raise BadInput(f"{name} steps: diffusers' own coefficients are not finite; use fewer steps")
    n = len(times)
    state, fresh = np.zeros(n + 1), np.zeros(n + 1)
    predictions, clipped = np.zeros((n + 1, n)), np.zeros((n + 1, n))
    previous = np.zeros(found.shape[1])
    previous[0] = 1.0
    for k, row in enumerate(found):
        state[k] = row[0] / previous[0] if abs(previous[0]) > NEGLIGIBLE else 0.0
        rest = row - state[k] * previous
        rest[np.abs(rest) < NEGLIGIBLE * np.abs(row).max()] = 0.0
        rest[0] = 0.0
        predictions[k, :k], clipped[k, :k] = rest[1 : 1 + k], rest[1 + n : 1 + n + k]
        noises = rest[1 + 2 * n :]
        fresh[k] = noises[k]
        if np.any(noises[:k]):
            raise BadInput(f"{name} steps: a row needs the fresh noise of an earlier one, which no table holds")
        previous = row
    return Table(name, times, state, predictions, fresh, clipped if clip is not None else None, clip)
