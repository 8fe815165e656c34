"""Time grids: ``(schedule, steps) -> times`` of shape (steps + 1,), falling from the start to exactly 0.

A grid starts where ``s = sigma / alpha`` is at most ``SIGMA_MAX``: the last knots of a cosine schedule lie far out in
log-SNR, and a grid that starts there does not converge.
"""

from __future__ import annotations

import numpy as np

from hasten.diffusion.schedule import Array, Schedule

SIGMA_MAX = 80.0
SIGMA_MIN = 0.002


def uniform(schedule: Schedule, steps: int) -> Array:
    """Evenly spaced in ``t``, from the time of sigma_max to 0."""
    return np.linspace(float(schedule.t(min(SIGMA_MAX, schedule.knot_s[-1]))), 0.0, steps + 1)
