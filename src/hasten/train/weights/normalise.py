"""Weight normalisation, so that no weight grows without end: by torch's parametrization, or forced after each step.

* :func:`parametrize_`: ``w = g v / |v|`` by row, ``g`` and ``v`` learnt (Salimans and Kingma 2016, arXiv:1602.07868,
  eq. 2); :func:`fold_` puts the plain weights back before anything is saved for others.
* :class:`Forced`: after each step every row is brought back to the length that it had at the start, so that only its
  direction is learnt (Karras et al. 2024, arXiv:2312.02696, section 2.3, for a network that is not built for it).

A row is what makes one output channel.  Rows of zeros, such as those of a layer that starts at zero, have no direction
and are left alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

from hasten.model.target import layers, weight_names

SMALLEST = 1e-12


def parametrize_(module: torch.nn.Module) -> None:
    """Put weight normalisation on each layer but for those with a row of zeros, whose direction is undefined."""
    for part in layers(module).values():
        weight = part.weight
        assert isinstance(weight, torch.Tensor)
        if not parametrize.is_parametrized(part, "weight") and _lengths(weight.detach()).min() > SMALLEST:
            weight_norm(part)


def fold_(module: torch.nn.Module) -> None:
    """The inverse of :func:`parametrize_`: plain weights of the same values."""
    for part in layers(module).values():
        if parametrize.is_parametrized(part, "weight"):
            parametrize.remove_parametrizations(part, "weight", leave_parametrized=True)


def folded(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The ``state_dict`` of a module with :func:`parametrize_` on it, as that of the plain module."""
    g, v = (f"parametrizations.weight.original{number}" for number in (0, 1))
    plain = {name: value for name, value in weights.items() if not name.endswith((g, v))}
    for name, direction in weights.items():
        if name.endswith(v):
            place = name.removesuffix(v)
            plain[f"{place}weight"] = torch._weight_norm(direction.float(), weights[place + g].float(), 0)
    return plain


class Forced:
    """Remembers the length of every row of ``module``'s layers and brings them back to it.

    ``named``: the weights that the optimiser steps on, where they are not the module's own.

    ``lengths``, by the weight's name, each (out, 1, ...), is all of its state: make it from the starting weights, or
    put the saved ones in.
    """

    def __init__(self, module: torch.nn.Module, named: Mapping[str, torch.Tensor] | None = None) -> None:
        names = weight_names(module)
        self.weights = dict(named or module.named_parameters())
        self.weights = {name: self.weights[name] for name in names if name in self.weights}
        self.lengths = {name: _lengths(weight.detach()) for name, weight in self.weights.items()}

    @torch.no_grad()
    def apply_(self) -> None:
        """Bring every row back to its length, after the optimiser's step."""
        factors = []
        for name, weight in self.weights.items():
            now, then = _lengths(weight), self.lengths[name]
            factors.append(torch.where((then > SMALLEST) & (now > SMALLEST), then / now, 1.0).to(weight.dtype))
        torch._foreach_mul_(list(self.weights.values()), factors)


def _lengths(weight: torch.Tensor) -> torch.Tensor:
    """The Euclidean length of each row, (out, 1, ...), in float32."""
    lengths: torch.Tensor = torch.linalg.vector_norm(
        weight, dim=tuple(range(1, weight.dim())), keepdim=True, dtype=torch.float32
    )
    return lengths
