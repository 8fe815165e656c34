"""Weights and activations in bfloat16 or float16; the sampler's own arithmetic stays in float32."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from hasten.errors import BadInput
from hasten.model.target import Facts, Target, TorchNetwork
from hasten.technique.contract import Effects, Fidelity, Prepared, Stage

DTYPES = {"bfloat16": (torch.bfloat16, "bf16"), "float16": (torch.float16, "fp16")}


def _kernels(dtype: str) -> bool:
    """Whether torch has kernels in it for this CPU."""
    asked = {
        "bfloat16": torch.ops.mkldnn._is_mkldnn_bf16_supported,
        "float16": torch.ops.mkldnn._is_mkldnn_fp16_supported,
    }
    return bool(asked[dtype]())


@dataclass(frozen=True)
class Precision:
    """``dtype``: "bfloat16" (Kalamkar et al. 2019, arXiv:1905.12322), or "float16", which has three more bits of
    mantissa and ends at 65,504."""

    name: ClassVar[str] = "precision"
    effects: ClassVar[Effects] = Effects(
        Stage.PRECISION,
        Fidelity.LOSSY,
        scope="all modules",
        requires=frozenset({"torch_module", "float32"}),
        breaks=frozenset({"float32", "exportable", "trainable"}),
        claims=frozenset({"weight_format"}),
    )

    dtype: str = "bfloat16"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise BadInput(f"precision.dtype {self.dtype!r} is not known; known: {', '.join(DTYPES)}")

    @property
    def label(self) -> str:
        """ "bf16"."""
        return DTYPES[self.dtype][1]

    @classmethod
    def rests_on(cls) -> str:
        """Kernels of torch, without which a processor would emulate them."""
        found = (f"{label} {'yes' if _kernels(dtype) else 'none, refused'}" for dtype, (_, label) in DTYPES.items())
        return f"torch's kernels here: {', '.join(found)}"

    def refuse(self, facts: Facts) -> str | None:
        """A processor without such kernels gets an emulation, some fifty times slower than float32."""
        if facts.device == "cpu" and not _kernels(self.dtype):
            return f"torch has no {self.label} kernels for this CPU and would emulate them; drop precision"
        return None

    @classmethod
    def choices(cls, facts: Facts) -> tuple[Precision, ...]:
        """Both."""
        return tuple(cls(dtype) for dtype in DTYPES)

    def apply_(self, target: Target, prepared: Prepared) -> None:
        """Cast the module; the network casts its input and its output."""
        assert isinstance(target.network, TorchNetwork)
        prepared.after(self)
        # diffusers' own `to` warns of modules to be kept in float32 even where there are none
        dtype = DTYPES[self.dtype][0]
        module = torch.nn.Module.to(target.network.module, dtype)
        target.network = replace(target.network, module=module, dtype=dtype)
