"""Where on the schedule training looks: places in (0, 1), spread evenly, to inner times ``t``.

Each is the inverse of a distribution's cumulative function, so that stratified places give stratified levels.

* ``uniform``: even in ``t``
* ``edm``: ``log s`` normal, mean -1.2, deviation 1.2 (Karras et al. 2022, arXiv:2206.00364, table 1), ``s`` the ratio
  ``sigma / alpha`` of any schedule
* ``logit_normal``: ``logit u`` normal, mean 0, deviation 1, ``u = s / (1 + s)``, flow matching's own time (Esser et al.
  2024, arXiv:2403.03206, eq. 19); ``logit u = log s``, so that it is ``edm`` with a mean and deviation of its own
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from hasten.diffusion.schedule import Array, Schedule

EARLIEST = 1e-4  # under this the network's own output, eps or v, is all noise to be divided by next to nothing
Levels = Callable[[Schedule, Array, float | None, float | None], Array]


def uniform(schedule: Schedule, places: Array, mean: float | None = None, std: float | None = None) -> Array:
    """``t`` in [EARLIEST, 1] as the ``places`` (n,) themselves."""
    return np.clip(np.asarray(places, dtype=np.float64), EARLIEST, 1.0)


def log_normal(
    schedule: Schedule,
    places: Array,
    mean: float | None = None,
    std: float | None = None,
    *,
    default_mean: float = -1.2,
    default_std: float = 1.2,
) -> Array:
    """``t`` (n,) in [EARLIEST, 1] with ``log s ~ N(mean, std^2)`` of stratified ``places`` (n,); None: the defaults."""
    mean, std = default_mean if mean is None else mean, default_std if std is None else std
    inner = np.clip(np.asarray(places, dtype=np.float64), 1e-9, 1.0 - 1e-9)
    normal = torch.special.ndtri(torch.from_numpy(inner)).numpy()
    return np.clip(schedule.t(np.exp(mean + std * normal)), EARLIEST, 1.0)


LEVELS: dict[str, Levels] = {
    "uniform": uniform,
    "edm": log_normal,
    "logit_normal": partial(log_normal, default_mean=0.0, default_std=1.0),
}
