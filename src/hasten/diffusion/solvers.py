"""Linear solvers of the diffusion ODE and SDE as pure functions ``(schedule, times) -> Table``."""

from __future__ import annotations

from hasten.diffusion.schedule import Schedule
from hasten.diffusion.table import Array, Rows, Table


def ddim(schedule: Schedule, times: Array) -> Table:
    """DDIM with eta = 0 (Song et al. 2021, arXiv:2010.02502, eq. 12); ``times`` (N+1,) falls and may end at 0.

    In ``s = sigma / alpha`` this is Euler's method on the probability flow ODE (Karras et al. 2022, eq. 4).
    """
    rows = Rows("ddim", schedule, times, len(times) - 1)
    alpha, sigma = schedule.alpha(times), schedule.sigma(times)
    x = rows.start
    for k in range(len(times) - 1):
        clean = rows.evaluate(x, times[k])
        ratio = sigma[k + 1] / sigma[k]
        x = ratio * x + (alpha[k + 1] - alpha[k] * ratio) * clean
    return rows.table(x)
