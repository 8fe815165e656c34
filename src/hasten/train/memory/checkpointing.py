"""Gradient checkpointing: blocks of a network that keep their input alone and run again in the backward pass.

Chen et al. 2016, arXiv:1604.06174.  Which blocks there are is found by structure, so that any module will do; dropout
draws the same numbers the second time, and buffers (of BatchNorm, say) change the first time alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from hasten.errors import BadInput, did_you_mean
from hasten.train.weights.precision import WideAttention

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
        parts[name].forward = _again(parts[name])


def _again(block: torch.nn.Module) -> Callable[..., Any]:
    forward = block.forward
    contexts = partial(_with_buffers, block) if any(True for _ in block.buffers()) else _as_before

    def checkpointed(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)

    return checkpointed


def _as_before() -> tuple[AbstractContextManager[None], TorchFunctionMode]:
    """The contexts of the forward pass and of its repetition: autocast comes back by itself, this has to be named."""
    return nullcontext(), WideAttention()


def _with_buffers(block: torch.nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """The same for a block with buffers: its repetition has them as they were before the forward pass, and whatever it
    does to them is dropped."""
    before: list[tuple[torch.nn.Module, str, torch.Tensor]] = []

    @contextmanager
    def first() -> Iterator[None]:
        for part in block.modules():  # all: batch_norm changes its buffers without telling their versions
            before.extend((part, name, value.clone()) for name, value in part.named_buffers(recurse=False))
        yield

    @contextmanager
    def repeated() -> Iterator[None]:
        now = [part._buffers.get(name) for part, name, _ in before]
        for part, name, value in before:
            part._buffers[name] = value.clone()
        try:
            with WideAttention():
                yield
        finally:
            for (part, name, _), kept in zip(before, now, strict=True):
                part._buffers[name] = kept

    return first(), repeated()


def _layers(part: torch.nn.Module) -> int:
    """How many modules in ``part`` have weights of their own."""
    return sum(any(True for _ in each.parameters(recurse=False)) for each in part.modules())


def _items(part: torch.nn.Module) -> list[torch.nn.Module]:
    """The items of all lists in ``part``."""
    return [item for each in part.modules() if isinstance(each, LISTS) for item in each.children()]


def _large(part: torch.nn.Module) -> bool:
    return _layers(part) >= 2
