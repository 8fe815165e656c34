"""The numbers a network is trained in, and the float32 weights behind it.

* ``float32``
* ``bfloat16``: float32 weights, operators in bf16 where torch's autocast holds it safe (norms and losses are not)
* ``float16``: the same in fp16, the loss scaled so that gradients do not vanish (Micikevicius et al. 2018,
  arXiv:1710.03740, 3.2)
* ``bfloat16_master``: bf16 weights and gradients, the optimiser steps on float32 copies (the same, 3.1)
* ``bfloat16_stochastic``: bf16 weights and no copies: the optimiser's float32 result is rounded up or down with the
  probabilities that keep its mean (Gupta et al. 2015, arXiv:1502.02551, 2.1; Zamirai et al. 2020, arXiv:2010.06192)

With bf16 weights, norms keep float32 ones and compute in float32.  Attention on a CPU does so in each of them: its
backward pass in bf16 takes four times as long there (LOG.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

PURE = ("bfloat16_master", "bfloat16_stochastic")
NORMS = (
    torch.nn.GroupNorm,
    torch.nn.LayerNorm,
    torch.nn.RMSNorm,
    torch.nn.modules.batchnorm._NormBase,
)


@contextmanager
def autocast(precision: str, device: torch.device) -> Iterator[None]:
    """What the forward pass runs under."""
    with ExitStack() as stack:
        if precision in ("bfloat16", "float16"):
            stack.enter_context(torch.autocast(device.type, getattr(torch, precision)))
        if precision != "float32" and device.type == "cpu":
            stack.enter_context(WideAttention())
        yield


class WideAttention(TorchFunctionMode):
    """Attention on the CPU that would compute in a half type does so in float32; its answer has the type of what it
    was given."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not functional.scaled_dot_product_attention or not _halved(args[0]):
            return func(*args, **kwargs)
        wide, options = tree_map_only(torch.Tensor, _wide, (args, kwargs))
        with torch.autocast("cpu", enabled=False):
            return func(*wide, **options).to(args[0].dtype)


def scaler(precision: str, device: torch.device) -> torch.amp.GradScaler:
    """torch's scaler of the loss; it does nothing but for ``float16``."""
    return torch.amp.GradScaler(device.type, enabled=precision == "float16")


def cast_(module: torch.nn.Module, precision: str) -> torch.dtype:
    """``module``'s weights as ``precision`` wants them, in place; returns the dtype that its input is to have."""
    if precision not in PURE:
        return torch.float32
    torch.nn.Module.to(module, torch.bfloat16)  # diffusers' own warns of what is done here with care
    for part in module.modules():
        if isinstance(part, NORMS):
            part.float()
            part.register_forward_pre_hook(lambda _module, inputs: tuple(each.float() for each in inputs))
            part.register_forward_hook(lambda _module, _inputs, output: output.to(torch.bfloat16))
    return torch.bfloat16


def _halved(given: torch.Tensor) -> bool:
    """Whether a product of ``given`` would be computed in a half type on the CPU."""
    halves = given.dtype in (torch.bfloat16, torch.float16) or torch.is_autocast_enabled("cpu")
    return given.device.type == "cpu" and halves


def _wide(given: torch.Tensor) -> torch.Tensor:
    return given.float() if given.is_floating_point() else given  # a mask may be of bools


class Weights:
    """The parameters that the optimiser steps on, by name: the module's own, or float32 copies of its bf16 ones.

    After each backward pass :meth:`gather_`, after the optimiser's step :meth:`spread_`; between them all gradients are
    float32.
    """

    def __init__(self, module: torch.nn.Module, precision: str) -> None:
        self.own = dict(module.named_parameters())
        self.stochastic = precision == "bfloat16_stochastic"
        self.apart = precision == "bfloat16_master"
        self.named: dict[str, torch.nn.Parameter] = self.own
        if self.apart:
            self.named = {
                name: torch.nn.Parameter(own.detach().float()) if own.dtype == torch.bfloat16 else own
                for name, own in self.own.items()
            }

    def gather_(self) -> None:
        """Add the module's bf16 gradients to the copies' float32 ones, so that micro-batches sum up in float32."""
        if not self.apart:
            return
        for name, own in self.own.items():
            copied = self.named[name]
            if own.grad is not None and copied is not own:
                copied.grad = own.grad.float() if copied.grad is None else copied.grad.add_(own.grad)
                own.grad = None

    @torch.no_grad()
    def widen_(self) -> None:
        """Before the optimiser's step: bf16 weights without copies become float32 for its duration."""
        if self.stochastic:
            for own in self.own.values():
                gradient, own.grad = own.grad, None
                own.data = own.data.float()
                own.grad = None if gradient is None else gradient.float()

    @torch.no_grad()
    def spread_(self, halves: set[str], rng: torch.Generator) -> None:
        """After the step: bring the result into the module, rounding the weights named in ``halves`` to bf16."""
        if self.apart:
            for name, own in self.own.items():
                if self.named[name] is not own:
                    own.copy_(self.named[name])
        if self.stochastic:
            for name, own in self.own.items():
                if name in halves:
                    own.grad = None
                    own.data = rounded(own.data, rng)


def rounded(values: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """float32 to bf16 in the same layout, up or down with the probabilities that keep the mean; ``rng`` is the host's.

    A bf16 number is the upper half of a float32's bits: random lower bits are added, then cut off.
    """
    noise = torch.randint(0, 1 << 16, values.shape, dtype=torch.int32, generator=rng).to(values.device)
    bits = values.view(torch.int32) + noise
    finite = torch.isfinite(values)
    cut = torch.bitwise_and(bits, -(1 << 16)).view(torch.float32)
    return torch.empty_like(values, dtype=torch.bfloat16).copy_(torch.where(finite, cut, values))
