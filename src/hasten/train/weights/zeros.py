"""Weights that are zero at the start stay zero, so that a sparse network is trained as one."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from hasten.errors import BadInput
from hasten.model.target import weight_names


class Zeros:
    """Remembers the zeros of ``module``'s layers; ``named`` as in :class:`hasten.train.weights.normalise.Forced`.

    Raises BadInput where there are none.
    """

    def __init__(self, module: torch.nn.Module, named: Mapping[str, torch.Tensor]) -> None:
        self.weights = {name: named[name] for name in weight_names(module) if bool((named[name] == 0).any())}
        if not self.weights:
            raise BadInput("train.keep_zeros: no weight of a layer is zero; drop it, or name a sparse model.folder")
        self.masks = [(weight.detach() != 0).to(weight.dtype) for weight in self.weights.values()]

    @torch.no_grad()
    def apply_(self) -> None:
        """Put the zeros back, after the optimiser's step."""
        torch._foreach_mul_(list(self.weights.values()), self.masks)
