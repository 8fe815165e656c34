"""Time grids: ``(schedule, steps) -> times`` of shape (steps + 1,), falling from the start to exactly 0.

A grid starts where ``s = sigma / alpha`` is at most ``SIGMA_MAX``: the last knots of a cosine schedule lie far out in
log-SNR, and a grid that starts there does not converge.  Times are floats; the network is asked between the integer
timesteps it was trained on (:meth:`hasten.diffusion.schedule.Schedule.network_time`).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hasten.diffusion.schedule import Array, Schedule
from hasten.errors import BadInput

Grid = Callable[[Schedule, int], Array]

SIGMA_MAX = 80.0
SIGMA_MIN = 0.002
# With few steps a low last s wastes them where little happens.  On a bundled model of 600 training steps, the distance
# of UniPC on logsnr to its converged sample at 6, 8 and 12 steps was 0.089, 0.046, 0.023 with a last s of 0.1; 0.118,
# 0.050, 0.018 with 0.05; 0.214, 0.076, 0.022 with 0.006.  So about 0.6 / steps, and the last step's error can vanish.
STEPS_TO_SMALLEST = 0.6


def uniform(schedule: Schedule, steps: int) -> Array:
    """Evenly spaced in ``t``, from the time of sigma_max to 0."""
    return np.linspace(float(schedule.t(_largest(schedule))), 0.0, steps + 1)


def trailing(schedule: Schedule, steps: int) -> Array:
    """Integer timesteps, the last one first: diffusers' ``trailing`` (Lin et al. 2023, arXiv:2305.08891, table 2).

    Starts at the last timestep whose s is at most SIGMA_MAX.  A schedule without integer timesteps gets ``uniform``.
    Raises BadInput for more steps than timesteps.
    """
    if schedule.timesteps is None:
        return uniform(schedule, steps)
    last = int(schedule.timesteps * float(schedule.t(_largest(schedule))))
    if steps > last:
        raise BadInput(f"time grid trailing: {steps} steps, but only {last} timesteps; use another grid or fewer steps")
    places = np.round(np.arange(last, 0, -last / steps)[:steps])  # in their words, so that ties round as theirs do
    return np.append(places / schedule.timesteps, 0.0)


def karras(schedule: Schedule, steps: int, smallest: float | None = None, rho: float = 7.0) -> Array:
    """Evenly spaced in ``s ** (1 / rho)`` down to ``smallest``, then 0 (Karras et al. 2022, arXiv:2206.00364, eq. 5).

    ``smallest`` is ``STEPS_TO_SMALLEST / steps`` when None, and at least the schedule's first knot, under which the
    network was never trained; EDM's own choice is 0.002.
    """
    first, last = _largest(schedule) ** (1.0 / rho), _smallest(schedule, steps, smallest) ** (1.0 / rho)
    return np.append(schedule.t(np.linspace(first, last, steps) ** rho), 0.0)


def logsnr(schedule: Schedule, steps: int, smallest: float | None = None) -> Array:
    """Evenly spaced in ``log s`` down to ``smallest``, as in :func:`karras`, then 0.

    Lu et al. 2022, arXiv:2206.00927, section 3.3.
    """
    return np.append(schedule.t(np.geomspace(_largest(schedule), _smallest(schedule, steps, smallest), steps)), 0.0)


GRIDS: dict[str, Grid] = {"uniform": uniform, "trailing": trailing, "karras": karras, "logsnr": logsnr}


def _largest(schedule: Schedule) -> float:
    return min(SIGMA_MAX, schedule.knot_s[-1])


def _smallest(schedule: Schedule, steps: int, smallest: float | None) -> float:
    wanted = max(SIGMA_MIN, STEPS_TO_SMALLEST / steps) if smallest is None else smallest
    return max(wanted, schedule.knot_s[0])
