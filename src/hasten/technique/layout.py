"""Convolution weights and activations in channels-last order, which oneDNN and cuDNN prefer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from hasten.model.target import Facts, Target, TorchNetwork
from hasten.technique.contract import Effects, Fidelity, Prepared, Stage


@dataclass(frozen=True)
class Layout:
    """``memory_format``: "channels_last" only."""

    name: ClassVar[str] = "layout"
    effects: ClassVar[Effects] = Effects(
        Stage.LAYOUT,
        Fidelity.NUMERIC,
        scope="convolutions",
        requires=frozenset({"torch_module"}),
        claims=frozenset({"layout"}),
    )

    @property
    def label(self) -> str:
        """ "channels last"."""
        return "channels last"

    @classmethod
    def rests_on(cls) -> str:
        """Nothing: slower kernels remain correct."""
        return "any processor"

    def refuse(self, facts: Facts) -> str | None:
        """Only pictures (channels, height, width) under convolutions have this layout."""
        if len(facts.shape) != 3 or not facts.convolutional:
            return "channels last needs samples of (channels, height, width) and convolutions; drop layout"
        return None

    @classmethod
    def choices(cls, facts: Facts) -> tuple[Layout, ...]:
        """One."""
        return (cls(),)

    def apply_(self, target: Target, prepared: Prepared) -> None:
        """Lay out the weights anew; the network lays out its input alike."""
        assert isinstance(target.network, TorchNetwork)
        module = target.network.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        target.network = replace(target.network, module=module, memory_format=torch.channels_last)
