"""FLOPs and bytes of whatever runs, counted exactly at the level of aten operators, without timing anything.

FLOPs (a multiplication and an addition are two) of matrix products, convolutions and attention, as
``torch.utils.flop_counter`` has them; bytes of each operator's inputs, weights and outputs, views being free.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from hasten.measure.roofline import Peaks, bound_seconds

HALVES = (torch.bfloat16, torch.float16)


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


def _attention_backward_flops(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(gradient, query, key, value))  # type: ignore[no-untyped-call]


# PyTorch itself counts attention's FLOPs in CUDA's kernels only.
_ATTENTION_ON_CPU = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
}


@dataclass(frozen=True)
class Work:
    """FLOPs in all, those of them whose result has 16 bits, and bytes moved."""

    flops: float = 0.0
    half_flops: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.half_flops + other.half_flops, self.bytes + other.bytes)

    def __sub__(self, other: Work) -> Work:
        return self + other.times(-1.0)

    def times(self, factor: float) -> Work:
        """``factor`` times as much."""
        return Work(self.flops * factor, self.half_flops * factor, self.bytes * factor)

    def bound(self, peaks: Peaks | None) -> float | None:
        """The least seconds that ``peaks`` allow for it, None without peaks."""
        return None if peaks is None else bound_seconds(self.flops, self.bytes, peaks, self.half_flops)


class Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is entered: ``total`` work, and ``operators`` in the order in which the dispatcher saw them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = Work()
        self.operators: list[tuple[str, Work]] = []
        self._formulas = FlopCounterMode(display=False, custom_mapping=_ATTENTION_ON_CPU).flop_registry

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten.dropout.default and not args[2]:
            # split up under inference_mode, one that is off would copy its input, as it never does alone
            return args[0]
        with self:  # a composite operator is split up, as running it does, so that what is counted is what runs
            result = func.decompose(*args, **kwargs)
        if result is not NotImplemented:
            return result
        result = func(*args, **kwargs)
        taken = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        known = {tensor.untyped_storage().data_ptr() for tensor in taken}
        moved = 0
        if func._schema.is_mutable or any(tensor.untyped_storage().data_ptr() not in known for tensor in made):
            moved = sum(tensor.numel() * tensor.element_size() for tensor in taken + made)
        formula = self._formulas.get(func._overloadpacket)
        flops = 0.0 if formula is None else float(formula(*args, **kwargs, out_val=result))
        half = flops if made and made[0].dtype in HALVES else 0.0
        work = Work(flops, half, float(moved))
        self.total = self.total + work
        self.operators.append((func._schema.name, work))
        return result
