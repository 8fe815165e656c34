"""Weights and activations in bfloat16; the sampler's own arithmetic stays in float32."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from hasten.model.target import Facts, Target, TorchNetwork
from hasten.technique.contract import Effects, Fidelity, Prepared, Stage


@dataclass(frozen=True)
class Precision:
    """``dtype``: bfloat16 (Kalamkar et al. 2019, arXiv:1905.12322)."""

    name: ClassVar[str] = "precision"
    effects: ClassVar[Effects] = Effects(
        Stage.PRECISION,
        Fidelity.LOSSY,
        scope="all modules",
        requires=frozenset({"torch_module", "float32"}),
        breaks=frozenset({"float32", "exportable", "trainable"}),
        claims=frozenset({"weight_format"}),
    )

    @property
    def label(self) -> str:
        """ "bf16"."""
        return "bf16"

    def refuse(self, facts: Facts) -> str | None:
        """A processor without bf16 kernels gets an emulation, some fifty times slower than float32."""
        if facts.device == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return "torch has no bf16 kernels for this CPU and would emulate them; drop precision"
        return None

    @classmethod
    def choices(cls, facts: Facts) -> tuple[Precision, ...]:
        """One."""
        return (cls(),)

    def apply_(self, target: Target, prepared: Prepared) -> None:
        """Cast the module; the network casts its input and its output."""
        assert isinstance(target.network, TorchNetwork)
        prepared.after(self)
        # diffusers' own `to` warns of modules to be kept in float32 even where there are none
        module = torch.nn.Module.to(target.network.module, torch.bfloat16)
        target.network = replace(target.network, module=module, dtype=torch.bfloat16)
