"""The exponential moving average of the weights that is sampled from."""

from __future__ import annotations

from collections.abc import Iterable

import torch


def decay_at(step: int, decay: float) -> float:
    """``min(decay, (1 + step) / (10 + step))``: short at first, so that the start is forgotten."""
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def update_(average: Iterable[torch.Tensor], weights: Iterable[torch.Tensor], decay: float) -> None:
    """``average <- decay * average + (1 - decay) * weights``, in place, tensor by tensor."""
    torch._foreach_lerp_(list(average), [w.detach() for w in weights], 1.0 - decay)
