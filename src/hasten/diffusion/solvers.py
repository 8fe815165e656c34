"""Linear solvers of the diffusion ODE and SDE as pure functions ``(schedule, times) -> Table``.

All are written for ``y = x / alpha`` on ``s = sigma / alpha``, where every schedule has the same probability flow ODE
(Karras et al. 2022, arXiv:2206.00364, eq. 4), with ``D`` the clean-sample prediction:

    dy/ds = eps = (y - D) / s

With ``lambda = -log s``, ``h = log(s_k / s_k+1)`` and ``theta = (lambda - lambda_k) / h`` its exact solution over one
step is (Lu et al. 2022, arXiv:2211.01095, eq. 8; Zhang and Chen 2022, arXiv:2204.13902, eq. 15)

    y_k+1 = exp(-h) y_k + int_0^1 h exp(-h (1 - theta)) D dtheta  =  y_k - s_k int_0^1 h exp(-h theta) eps dtheta

and a multistep solver says through which earlier values of D, or of eps, the integrand is interpolated.

``times`` (N+1,) falls strictly and may end at 0, where ``lambda`` is infinite; as in diffusers the last step then is of
order 1, which is the clean-sample prediction itself.  A solver whose history is of D needs at most one prediction more
than its order; one whose history is of eps (``deis``, ``ipndm``) needs all, since each eps holds an earlier ``y``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from hasten.diffusion.schedule import Schedule
from hasten.diffusion.table import Array, Rows, Table
from hasten.diffusion.times import GRIDS
from hasten.errors import BadInput, did_you_mean

Solver = Callable[[Schedule, Array], Table]

FEW_STEPS = 15  # below this, diffusers lowers the order of the last steps
POINTS, WEIGHTS = np.polynomial.legendre.leggauss(32)
THETA, WEIGHTS = (POINTS + 1.0) / 2.0, WEIGHTS / 2.0
ADAMS_BASHFORTH = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def ddim(schedule: Schedule, times: Array) -> Table:
    """DDIM with eta = 0 (Song et al. 2021, arXiv:2010.02502, eq. 12): ``D`` is constant over the step.

    The same is Euler's method on ``dy/ds``, to which it is equal row for row.
    """
    rows = Rows("ddim", schedule, times, len(times) - 1)
    alpha, s = schedule.alpha(times), schedule.s(times)
    y = rows.start / alpha[0]
    for k in range(len(times) - 1):
        clean = rows.evaluate(alpha[k] * y, times[k])
        y = _blend(s[k + 1] / s[k], y, clean)
    return rows.table(alpha[-1] * y)


def heun(schedule: Schedule, times: Array) -> Table:
    """Heun's method on ``dy/ds`` (Karras et al. 2022, algorithm 1): two evaluations a step, one in a step to 0."""
    alpha, s = schedule.alpha(times), schedule.s(times)
    steps = len(times) - 1
    rows = Rows("heun", schedule, times, 2 * steps - int(s[-1] == 0))
    y = rows.start / alpha[0]
    for k in range(steps):
        slope = (y - rows.evaluate(alpha[k] * y, times[k])) / s[k]
        ahead = y + (s[k + 1] - s[k]) * slope
        if s[k + 1] > 0:
            slope_ahead = (ahead - rows.evaluate(alpha[k + 1] * ahead, times[k + 1])) / s[k + 1]
            ahead = y + (s[k + 1] - s[k]) * (slope + slope_ahead) / 2.0
        y = ahead
    return rows.table(alpha[-1] * y)


def dpmpp(schedule: Schedule, times: Array, order: int) -> Table:
    """DPM-Solver++ multistep with data prediction (Lu et al. 2022, arXiv:2211.01095, algorithm 2), order 2 or 3."""
    steps = len(times) - 1
    rows = Rows(f"dpmpp_{order}m", schedule, times, steps)
    alpha, s = schedule.alpha(times), schedule.s(times)
    y, clean = rows.start / alpha[0], list[Array]()
    for k in range(steps):
        clean.insert(0, rows.evaluate(alpha[k] * y, times[k]))
        step_order = _order(order, k, s, lower_at_end=steps < FEW_STEPS)
        if step_order == 3:
            y = _third_order(s[k - 2 : k + 2], y, clean)
        else:
            y = _blend(s[k + 1] / s[k], y, _midpoint(s, k, clean) if step_order == 2 else clean[0])
    return rows.table(alpha[-1] * y)


def unipc(schedule: Schedule, times: Array, order: int) -> Table:
    """UniPC of order 2 or 3 with B_2(h) and data prediction (Zhao et al. 2023, arXiv:2302.04867, algorithms 5 to 8).

    Each prediction at the predicted sample first corrects that sample, then serves the next predictor: one evaluation
    a step.  B(h) cancels where the weights solve the order conditions, which is interpolation through the nodes; it is
    left where the paper fixes a weight to 1/2, in the predictor of order 2 and the corrector of order 1.
    """
    steps = len(times) - 1
    rows = Rows("unipc" if order == 3 else f"unipc_{order}", schedule, times, steps)
    alpha, s = schedule.alpha(times), schedule.s(times)
    y, corrected, clean, step_order = rows.start / alpha[0], rows.start, list[Array](), 0
    for k in range(steps):
        clean.insert(0, rows.evaluate(alpha[k] * y, times[k]))
        if k > 0:
            ratio = s[k] / s[k - 1]
            if step_order == 1:
                y = _blend(ratio, corrected, (clean[0] + clean[1]) / 2.0)
            else:
                y = ratio * corrected + _exponential(s, k - 1, range(k, k - 1 - step_order, -1), clean)
        corrected = y
        step_order = _order(order, k, s, lower_at_end=steps < FEW_STEPS or s[-1] == 0)
        if step_order == 3:
            y = s[k + 1] / s[k] * y + _exponential(s, k, range(k, k - 3, -1), clean)
        else:
            y = _blend(s[k + 1] / s[k], y, _midpoint(s, k, clean) if step_order == 2 else clean[0])
    return rows.table(alpha[-1] * y)


def deis(schedule: Schedule, times: Array, order: int) -> Table:
    """DEIS tAB in log s (Zhang and Chen 2022, arXiv:2204.13902, eq. 15): eps is a polynomial, order 2 or 3."""
    steps = len(times) - 1
    rows = Rows("deis" if order == 3 else f"deis_{order}", schedule, times, steps)
    alpha, s = schedule.alpha(times), schedule.s(times)
    y, eps = rows.start / alpha[0], list[Array]()
    for k in range(steps):
        clean = rows.evaluate(alpha[k] * y, times[k])
        eps.insert(0, (y - clean) / s[k])
        step_order = _order(order, k, s, lower_at_end=steps < FEW_STEPS)
        if step_order == 1:
            y = _blend(s[k + 1] / s[k], y, clean)
        else:
            h = np.log(s[k] / s[k + 1])
            weights = _interpolate(h * np.exp(-h * THETA), _nodes(s, k, range(k, k - step_order, -1)))
            y = y - s[k] * _combine(weights, eps)
    return rows.table(alpha[-1] * y)


def ipndm(schedule: Schedule, times: Array) -> Table:
    """iPNDM of order 4: Adams-Bashforth on ``dy/ds`` with the weights of even steps, orders 1 to 3 to warm up.

    Zhang and Chen 2022, arXiv:2204.13902, H.2, after Liu et al. 2022, arXiv:2202.09778.  The weights are not adapted
    to uneven steps, so that the order in the limit is 2; with few steps it is often the better for it.
    """
    rows = Rows("ipndm", schedule, times, len(times) - 1)
    alpha, s = schedule.alpha(times), schedule.s(times)
    y, eps = rows.start / alpha[0], list[Array]()
    for k in range(len(times) - 1):
        eps.insert(0, (y - rows.evaluate(alpha[k] * y, times[k])) / s[k])
        y = y + (s[k + 1] - s[k]) * _combine(ADAMS_BASHFORTH[min(k, 3)], eps)
    return rows.table(alpha[-1] * y)


def ddpm(schedule: Schedule, times: Array) -> Table:
    """The ancestral sampler: the posterior q(x_k+1 | x_k, x_0 = D) between any two times, with fresh noise.

    Ho et al. 2020, arXiv:2006.11239, eq. 7; DDIM with eta = 1.
    """
    rows = Rows("ddpm", schedule, times, len(times) - 1)
    alpha, s = schedule.alpha(times), schedule.s(times)
    y = rows.start / alpha[0]
    for k in range(len(times) - 1):
        clean = rows.evaluate(alpha[k] * y, times[k])
        squared = (s[k + 1] / s[k]) ** 2
        y = _blend(squared, y, clean) + s[k + 1] * np.sqrt(1.0 - squared) * rows.noise()
    return rows.table(alpha[-1] * y)


SOLVERS: dict[str, Solver] = {
    "ddim": ddim,
    "euler": ddim,  # the same numbers under the name that EDM users know
    "heun": heun,
    "dpmpp_2m": partial(dpmpp, order=2),
    "dpmpp_3m": partial(dpmpp, order=3),
    "unipc_2": partial(unipc, order=2),
    "unipc": partial(unipc, order=3),
    "deis_2": partial(deis, order=2),
    "deis": partial(deis, order=3),
    "ipndm": ipndm,
    "ddpm": ddpm,
}
LABELS: dict[str, str] = {
    "ddim": "DDIM",
    "euler": "Euler",
    "heun": "Heun",
    "dpmpp_2m": "DPM-Solver++ 2M",
    "dpmpp_3m": "DPM-Solver++ 3M",
    "unipc_2": "UniPC of order 2",
    "unipc": "UniPC",
    "deis_2": "DEIS of order 2",
    "deis": "DEIS",
    "ipndm": "iPNDM",
    "ddpm": "DDPM",
}


def evaluations(solver: str, steps: int) -> int:
    """How many times the network is asked in ``steps`` steps on a grid that ends at 0."""
    return 2 * steps - 1 if solver == "heun" else steps


def sampler(schedule: Schedule, solver: str, grid: str, evaluations: int) -> Table:
    """The table of ``solver`` on ``grid`` with ``evaluations`` >= 1 network evaluations.

    Heun's method takes odd numbers only, and gets one less for an even one.  Raises BadInput for an unknown name, for
    evaluations under 1, and where the grid has no room for that many steps.
    """
    if solver not in SOLVERS:
        raise BadInput(f"solver {solver!r} is not known{did_you_mean(solver, SOLVERS)}")
    if grid not in GRIDS:
        raise BadInput(f"time grid {grid!r} is not known{did_you_mean(grid, GRIDS)}")
    if evaluations < 1:
        raise BadInput(f"sampler {solver}: {evaluations} network evaluations; at least 1 is needed")
    steps = (evaluations + 1) // 2 if solver == "heun" else evaluations
    return SOLVERS[solver](schedule, GRIDS[grid](schedule, steps))


def _blend(ratio: float, y: Array, clean: Array) -> Array:
    """``ratio * y + (1 - ratio) * clean``."""
    return ratio * y + (1.0 - ratio) * clean


def _combine(weights: Sequence[float] | Array, vectors: list[Array]) -> Array:
    """``sum_j weights[j] * vectors[j]`` over the newest ``len(weights)`` vectors."""
    return np.asarray(sum(weight * vector for weight, vector in zip(weights, vectors, strict=False)))


def _order(order: int, k: int, s: Array, lower_at_end: bool) -> int:
    """The order of step ``k``: at most the steps made and, with ``lower_at_end``, those left; 1 in a step to s = 0."""
    if s[k + 1] == 0:
        return 1
    return min(order, k + 1, len(s) - 1 - k) if lower_at_end else min(order, k + 1)


def _midpoint(s: Array, k: int, clean: list[Array]) -> Array:
    """``D`` in the middle of step ``k``, through the line of the last two: 2M, and UniPC's predictor of order 2."""
    step_ratio = np.log(s[k] / s[k + 1]) / np.log(s[k - 1] / s[k])
    middle: Array = clean[0] + step_ratio / 2.0 * (clean[0] - clean[1])
    return middle


def _third_order(s: Array, y: Array, clean: list[Array]) -> Array:
    """3M as its authors and diffusers compute it; ``s`` (4,): two earlier, the present and the next.

    The integral of ``second * theta**2`` is ``-2 phi_3 second``, but they take half of it: order 2, small constant.
    """
    h1, h0, h = np.log(s[:-1] / s[1:])
    slope, slope_before = (clean[0] - clean[1]) * h / h0, (clean[1] - clean[2]) * h / h1
    second = (slope - slope_before) * h / (h0 + h1)
    first = slope + second * h0 / h
    phi_1 = np.expm1(-h)
    phi_2 = phi_1 / h + 1.0
    phi_3 = phi_2 / h - 0.5
    return np.asarray(np.exp(-h) * y - phi_1 * clean[0] + phi_2 * first - phi_3 * second)


def _exponential(s: Array, k: int, places: range, clean: list[Array]) -> Array:
    """``int_0^1 h exp(-h (1 - theta)) D dtheta`` over step ``k`` with ``D`` through its values at s[places]."""
    h = np.log(s[k] / s[k + 1])
    return _combine(_interpolate(h * np.exp(-h * (1.0 - THETA)), _nodes(s, k, places)), clean)


def _nodes(s: Array, k: int, places: range) -> Array:
    """theta of ``s[places]``: 0 where step ``k`` begins, 1 where it ends, negative before."""
    return np.asarray(np.log(s[k] / s[list(places)]) / np.log(s[k] / s[k + 1]))


def _interpolate(density: Array, nodes: Array) -> Array:
    """``w_j = int_0^1 density * L_j dtheta`` with the Lagrange polynomials of ``nodes``; ``density`` given at THETA.

    By quadrature, which is exact to rounding here and does not cancel for small steps as the closed forms do.
    """
    weights = np.empty(len(nodes))
    for j, node in enumerate(nodes):
        others = np.delete(nodes, j)
        lagrange = np.prod((THETA[:, None] - others) / (node - others), axis=1)
        weights[j] = np.sum(WEIGHTS * density * lagrange)
    return weights
