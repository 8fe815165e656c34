"""Noise schedules in hasten's one inner convention.

A noised sample is ``x_t = alpha_t * x_0 + sigma_t * eps`` with ``t`` from 0 (clean) to 1 (noise) and
``eps ~ N(0, I)``.  A schedule is known by one function, the noise-to-signal ratio
``s(t) = sigma_t / alpha_t``, strictly increasing with ``s(0) = 0``, and by how ``alpha_t`` follows from it:

* variance preserving (``kind="vp"``): ``alpha = 1 / sqrt(1 + s^2)``, ``sigma = s * alpha``
* variance exploding (``kind="ve"``, EDM): ``alpha = 1``, ``sigma = s``
* flow matching (``kind="flow"``): ``alpha = 1 / (1 + s)``, ``sigma = s / (1 + s)``

Discrete schedules (the betas of a diffusers folder, T of them) become continuous by interpolating ``log s``
linearly between the integer timesteps ``n``, which stand at ``t = (n + 1) / T``; under the first one ``s`` falls
linearly to 0.  Networks trained on integers are asked with the float ``n = t * T - 1``.

References: Kingma et al. 2021, arXiv:2107.00630 (log-SNR view); Karras et al. 2022, arXiv:2206.00364 (EDM);
Nichol and Dhariwal 2021, arXiv:2102.09672 (cosine); Lipman et al. 2022, arXiv:2210.02747 (flow).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Kind = Literal["vp", "ve", "flow"]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Schedule:
    """``s(t)`` through knots, linear in ``log s``, and the ``kind`` that splits it into alpha and sigma.

    ``knot_t`` and ``knot_s`` are strictly increasing; ``knot_t`` lies in (0, 1].  ``timesteps`` is how the network
    wants to hear the time: ``float`` T of a discrete model (it gets ``t * T - 1``, at least 0), or None when it takes
    ``c_noise`` of its own family (``log(sigma) / 4`` for EDM, ``sigma * 1000`` for flow).
    """

    kind: Kind
    knot_t: tuple[float, ...]
    knot_s: tuple[float, ...]
    timesteps: float | None = None

    def __post_init__(self) -> None:
        t, s = np.asarray(self.knot_t), np.asarray(self.knot_s)
        rising = len(t) == len(s) >= 2 and np.all(np.diff(t) > 0) and np.all(np.diff(s) > 0)
        if not (rising and t[0] > 0 and t[-1] <= 1 and s[0] > 0 and np.isfinite(s[-1])):
            raise ValueError("a schedule needs at least two knots, strictly increasing in t within (0, 1] and in s > 0")

    def s(self, t: ArrayLike) -> Array:
        """Noise-to-signal ratio sigma_t / alpha_t at ``t`` in [0, 1]; any shape."""
        t = np.asarray(t, dtype=np.float64)
        first_t, first_s = self.knot_t[0], self.knot_s[0]
        above = np.exp(np.interp(t, self.knot_t, np.log(self.knot_s)))
        return np.asarray(np.where(t < first_t, first_s * np.maximum(t, 0.0) / first_t, above))

    def t(self, s: ArrayLike) -> Array:
        """The inverse of :meth:`s`, clamped to t in [0, 1]."""
        s = np.asarray(s, dtype=np.float64)
        first_t, first_s = self.knot_t[0], self.knot_s[0]
        above = np.interp(np.log(np.maximum(s, 1e-300)), np.log(self.knot_s), self.knot_t)
        return np.where(s < first_s, first_t * s / first_s, above)

    def alpha(self, t: ArrayLike) -> Array:
        """Signal scale alpha_t."""
        s = self.s(t)
        if self.kind == "vp":
            return np.asarray(1.0 / np.sqrt(1.0 + s * s))
        return np.ones_like(s) if self.kind == "ve" else np.asarray(1.0 / (1.0 + s))

    def sigma(self, t: ArrayLike) -> Array:
        """Noise scale sigma_t."""
        return np.asarray(self.s(t) * self.alpha(t))

    def network_time(self, t: ArrayLike) -> Array:
        """What the network is told for ``t``: a float timestep, or the family's own ``c_noise``."""
        t = np.asarray(t, dtype=np.float64)
        if self.timesteps is not None:
            return np.maximum(t * self.timesteps - 1.0, 0.0)
        if self.kind == "ve":
            return np.asarray(np.log(np.maximum(self.s(t), 1e-20)) / 4.0)
        return np.asarray(self.sigma(t) * 1000.0)


def from_betas(betas: ArrayLike) -> Schedule:
    """A discrete VP schedule, ``alpha_bar_n = prod (1 - beta_i)`` (Ho et al. 2020, arXiv:2006.11239, eq. 4).

    Raises ValueError when a beta lies outside (0, 1).
    """
    beta = np.asarray(betas, dtype=np.float64)
    if beta.ndim != 1 or len(beta) < 2 or not np.all((beta > 0) & (beta < 1)):  # so that NaN fails too
        raise ValueError("betas: a list of at least two numbers in (0, 1) is needed")
    alpha_bar = np.cumprod(1.0 - beta)
    count = len(beta)
    t = (np.arange(count) + 1.0) / count
    return Schedule("vp", tuple(t), tuple(np.sqrt((1.0 - alpha_bar) / alpha_bar)), timesteps=float(count))


def linear(timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Schedule:
    """Ho et al. 2020: betas linear from ``beta_start`` to ``beta_end``."""
    return from_betas(np.linspace(beta_start, beta_end, timesteps))


def scaled_linear(timesteps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012) -> Schedule:
    """Rombach et al. 2022, arXiv:2112.10752: the square roots of the betas are linear."""
    return from_betas(np.linspace(beta_start**0.5, beta_end**0.5, timesteps) ** 2)


def cosine(timesteps: int = 1000, max_beta: float = 0.999) -> Schedule:
    """Nichol and Dhariwal 2021, eq. 17, with their cap on beta.

    The cap makes the last knots leap far out in log-SNR; start sampling grids at a ``sigma_max`` instead
    (:mod:`hasten.diffusion.times`).
    """
    step = np.arange(timesteps + 1) / timesteps
    f = np.cos((step + 0.008) / 1.008 * np.pi / 2) ** 2
    return from_betas(np.minimum(1.0 - f[1:] / f[:-1], max_beta))


def edm(sigma_min: float = 0.002, sigma_max: float = 80.0) -> Schedule:
    """Karras et al. 2022: ``x = x_0 + sigma * eps``; ``t`` is the place of ``log sigma`` in the range."""
    return Schedule("ve", (1e-3, 1.0), (sigma_min, sigma_max))


def flow(knots: int = 1000, shift: float = 1.0) -> Schedule:
    """Rectified flow / flow matching: ``x = (1 - u) * x_0 + u * eps``; ``shift`` as in Esser et al. 2024, eq. 23.

    ``u = shift * t / (1 + (shift - 1) * t)``; the last knot stands at u just under 1, where ``s`` is still finite.
    """
    t = np.linspace(0.0, 1.0, knots + 1)[1:]
    u = np.minimum(shift * t / (1.0 + (shift - 1.0) * t), 1.0 - 1e-4)
    return Schedule("flow", tuple(t), tuple(u / (1.0 - u)), timesteps=None)
