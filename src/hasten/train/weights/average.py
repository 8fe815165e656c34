"""Moving averages of the weights, which are what is sampled from: exponential, and with power-function profiles.

The power function average with exponent ``gamma`` weighs the weights of step ``k`` out of ``t`` with a profile that
rises as ``k^gamma``::

    average <- beta average + (1 - beta) weights,   beta_t = (1 - 1 / t)^(gamma + 1)

Its length is told by ``sigma_rel``, the profile's standard deviation over ``t``.  From snapshots of two such averages
any other can be made after training (:mod:`hasten.train.weights.posthoc`).  Karras et al. 2024, arXiv:2312.02696, eq. 1
to 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch

from hasten.train.weights.precision import rounded

LONGEST = 0.28  # sigma_rel of gamma = 0 is 1 / sqrt(12); beyond, early steps would count more than late ones


def decay_at(step: int, decay: float) -> float:
    """``min(decay, (1 + step) / (10 + step))``: short at first, so that the start is forgotten."""
    return min(decay, (1 + step) / (10 + step))


def storage(
    weights: Mapping[str, torch.Tensor], dtype: torch.dtype = torch.float32, device: torch.device | None = None
) -> dict[str, torch.Tensor]:
    """Copies of ``weights``, for an average to be kept in: floating point ones as ``dtype``, on ``device`` if given."""
    return {
        name: value.detach().to(device or value.device, dtype if value.is_floating_point() else value.dtype, copy=True)
        for name, value in weights.items()
    }


@torch.no_grad()
def update_(
    average: Iterable[torch.Tensor],
    weights: Iterable[torch.Tensor],
    decay: float | Sequence[float],
    rng: torch.Generator | None = None,
) -> None:
    """``average <- decay * average + (1 - decay) * weights``, in place; ``decay`` is one for all or one for each.

    An average may live on another device than its weight.  One in bf16 is computed in float32 and rounded up or down
    with the probabilities that keep the mean, drawn from ``rng`` (on the host): to the nearest, changes of less than
    1 / 512 would vanish.  Tensors of integers are copied.  Raises ValueError for bf16 without ``rng``.
    """
    averages = list(average)
    decays = [decay] * len(averages) if isinstance(decay, (int, float)) else list(decay)
    rows = list(zip(averages, weights, decays, strict=True))
    plain = [row for row in rows if row[0].is_floating_point() and row[0].dtype != torch.bfloat16]
    if plain:
        moved = [w.detach().to(a.device, a.dtype) for a, w, _ in plain]
        torch._foreach_lerp_([a for a, _, _ in plain], moved, [1.0 - d for _, _, d in plain])
    for kept, weight, each in rows:
        if kept.dtype == torch.bfloat16:
            if rng is None:
                raise ValueError("an average in bfloat16 needs rng, to round by chance")
            fresh = kept.float().lerp_(weight.detach().to(kept.device, torch.float32), 1.0 - each)
            kept.copy_(rounded(fresh, rng))
        elif not kept.is_floating_point():
            kept.copy_(weight)


def exponent(sigma_rel: float) -> float:
    """``gamma`` >= 0 of a profile with relative width ``sigma_rel`` in (0, LONGEST].

    ``sigma_rel^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3))``, a cubic (Karras et al., eq. 3 and algorithm 2).
    Raises ValueError for another width.
    """
    if not 0.0 < sigma_rel <= LONGEST:
        raise ValueError(f"sigma_rel = {sigma_rel}: a profile's relative width lies in (0, {LONGEST}]")
    inverse = sigma_rel**-2
    return float(np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse]).real.max())


def power_decay(step: int, gamma: float) -> float:
    """``beta`` of the update after ``step`` steps (1 based); 0 after the first, which forgets the start."""
    return float((1.0 - 1.0 / step) ** (gamma + 1.0))


class PowerAverage:
    """One average with a power-function profile; ``tensors`` is all of its state, beside the run's step."""

    def __init__(
        self,
        weights: Mapping[str, torch.Tensor],
        sigma_rel: float,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> None:
        self.sigma_rel, self.gamma = sigma_rel, exponent(sigma_rel)
        self.tensors = storage(weights, dtype, device)


def update_all_(
    averages: Sequence[PowerAverage],
    weights: Mapping[str, torch.Tensor],
    step: int,
    rng: torch.Generator | None = None,
) -> None:
    """Take the ``weights`` after ``step`` steps (1 based) into all ``averages``, in one pass."""
    kept = [tensor for average in averages for tensor in average.tensors.values()]
    given = [weights[name] for average in averages for name in average.tensors]
    decays = [power_decay(step, average.gamma) for average in averages for _ in average.tensors]
    update_(kept, given, decays, rng)
