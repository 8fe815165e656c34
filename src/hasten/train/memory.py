"""Gradient checkpointing: blocks of a network that keep their input alone and run again in the backward pass.

Chen et al. 2016, arXiv:1604.06174.  Which blocks there are is found by structure, so that any module will do; dropout
draws the same numbers the second time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from hasten.errors import BadInput, did_you_mean
from hasten.train.precision import WideAttention

NO_FORWARD = (torch.nn.ModuleList, torch.nn.ModuleDict)
LISTS = (*NO_FORWARD, torch.nn.Sequential)


def blocks(module: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """What can be checkpointed in ``module``, by dotted name, in the module's order; no block lies in another.

    Items of lists, and parts with names, of two layers with weights at least, as deep as there are such: the residual
    and attention blocks of a U-Net, the layers of a transformer.  One layer alone would keep no less than its input.
    """
    found: dict[str, torch.nn.Module] = {}
    for name, part in module.named_modules():
        if name and not isinstance(part, NO_FORWARD) and _layers(part) >= 2 and not any(map(_large, _items(part))):
            inside = [other for other in found if name.startswith(f"{other}.")]
            if not inside:
                found[name] = part
    return found


def checkpoint_(module: torch.nn.Module, names: Collection[str]) -> None:
    """Checkpoint these blocks of ``module``, which is changed for good.

    Raises BadInput for a name that is no module, or inside another of them.
    """
    parts = dict(module.named_modules())
    for name in names:
        if name not in parts or not name:
            raise BadInput(f"checkpointing: the network has no block {name!r}{did_you_mean(name, blocks(module))}")
        outer = [other for other in names if name.startswith(f"{other}.")]
        if outer:
            raise BadInput(f"checkpointing: {name} lies in {outer[0]}; name one of them")
    for name in names:
        parts[name].forward = _again(parts[name].forward)


def _again(forward: Callable[..., Any]) -> Callable[..., Any]:
    def checkpointed(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, context_fn=_as_before, **kwargs)

    return checkpointed


def _as_before() -> tuple[AbstractContextManager[None], TorchFunctionMode]:
    """The contexts of the forward pass and of its repetition: autocast comes back by itself, this has to be named."""
    return nullcontext(), WideAttention()


def _layers(part: torch.nn.Module) -> int:
    """How many modules in ``part`` have weights of their own."""
    return sum(any(True for _ in each.parameters(recurse=False)) for each in part.modules())


def _items(part: torch.nn.Module) -> list[torch.nn.Module]:
    """The items of all lists in ``part``."""
    return [item for each in part.modules() if isinstance(each, LISTS) for item in each.children()]


def _large(part: torch.nn.Module) -> bool:
    return _layers(part) >= 2
