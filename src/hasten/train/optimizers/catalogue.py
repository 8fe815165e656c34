"""The optimisers by name, and what of them a checkpoint needs beside the tensors in ``optimizer.state``.

* ``adamw``: torch's own, fused (Loshchilov and Hutter 2019, arXiv:1711.05101)
* ``muon``: :mod:`hasten.train.optimizers.muon`, for the weights named by :func:`matrices`; AdamW for the rest
* ``adamw_8bit``: :mod:`hasten.train.optimizers.adam8`, AdamW with moments of a quarter of the bytes
* ``schedule_free``: AdamW that keeps its own average (Defazio et al. 2024, arXiv:2405.15682), of the package
  schedulefree.  The network trains at a point between the newest weights and their average, so what is validated,
  sampled and shipped comes from :func:`averaged`, without touching the weights that training goes on from.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import torch

from hasten.errors import MissingExtra
from hasten.train.optimizers.adam8 import AdamW8bit
from hasten.train.optimizers.muon import Muon

OPTIMIZERS = ("adamw", "adamw_8bit", "muon", "schedule_free")
SCALARS = ("k", "weight_sum", "lr_max")  # schedule-free's count, sum of weights and largest rate
NO_MATRICES = (torch.nn.Embedding, torch.nn.EmbeddingBag)


def matrices(module: torch.nn.Module) -> set[str]:
    """The names of ``module``'s weights that Muon is for: of two dimensions or more, in neither the first nor the last
    layer, and in no table of embeddings, whose rows are vectors of their own."""
    tables = {
        f"{name}.weight" if name else "weight" for name, part in module.named_modules() if isinstance(part, NO_MATRICES)
    }
    names = [
        name
        for name, weight in module.named_parameters()
        if weight.dim() >= 2 and weight.numel() > len(weight) and name not in tables  # no lengths of weight_norm
    ]
    return set(names[1:-1])


def build(
    name: str,
    named_parameters: Iterable[tuple[str, torch.nn.Parameter]],
    learning_rate: float,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.99),
    matrices: Collection[str] | None = None,
) -> torch.optim.Optimizer:
    """The optimiser ``name`` of OPTIMIZERS over ``named_parameters``; ``matrices``: the names that Muon is for.

    The learning rate is ``group["lr"]`` of every group.  Raises ValueError for another name, or for Muon without
    ``matrices``; MissingExtra where the package is not installed.
    """
    named = dict(named_parameters)
    if name == "adamw":
        return torch.optim.AdamW(named.values(), lr=learning_rate, betas=betas, weight_decay=weight_decay, fused=True)
    if name == "adamw_8bit":
        return AdamW8bit(list(named.values()), learning_rate, betas, weight_decay)
    if name == "muon":
        if matrices is None:
            raise ValueError(
                "muon: matrices is missing; pass those of hasten.train.optimizers.catalogue.matrices(module)"
            )
        chosen = [weight for key, weight in named.items() if key in matrices]
        rest = [weight for key, weight in named.items() if key not in matrices]
        return Muon(chosen, rest, learning_rate, betas, weight_decay)
    if name == "schedule_free":
        try:
            from schedulefree import AdamWScheduleFree
        except ImportError as error:
            raise MissingExtra("schedulefree", "schedulefree") from error
        free: torch.optim.Optimizer = AdamWScheduleFree(
            named.values(), lr=learning_rate, betas=betas, weight_decay=weight_decay
        )
        free.train()  # type: ignore[attr-defined]
        return free
    raise ValueError(f"unknown optimiser {name!r}; known: {', '.join(OPTIMIZERS)}")


@torch.no_grad()
def averaged(optimizer: torch.optim.Optimizer, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies of ``weights`` (parameters and buffers, by name), as ``optimizer`` wants them used outside of training.

    Schedule-free's average is ``x = y + (1 - 1 / beta1) (z - y)`` of the weights ``y`` and its own ``z``; other
    optimisers have none, and their weights come back as they are.  The package's ``eval()`` and ``train()`` would
    change the weights by roundings.
    """
    result = {name: weight.detach().clone() for name, weight in weights.items()}
    first = {id(p): group["betas"][0] for group in optimizer.param_groups if "betas" in group for p in group["params"]}
    for name, weight in weights.items():
        z = optimizer.state[weight].get("z") if weight in optimizer.state else None
        if z is not None:
            result[name].lerp_(z, 1.0 - 1.0 / first[id(weight)])
    return result


def scalars(optimizer: torch.optim.Optimizer) -> dict[str, float | int | None]:
    """The numbers of the groups that change with the steps, by ``<group>.<name>``; empty for AdamW and Muon."""
    return {
        f"{number}.{name}": group[name]
        for number, group in enumerate(optimizer.param_groups)
        for name in SCALARS
        if name in group
    }


def restore_scalars_(optimizer: torch.optim.Optimizer, values: Mapping[str, float | int | None]) -> None:
    """The inverse of :func:`scalars`."""
    for key, value in values.items():
        number, _, name = key.partition(".")
        optimizer.param_groups[int(number)][name] = value
