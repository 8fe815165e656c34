"""Upsampling and the convolution after it as one transposed convolution: 4/9 of its multiplications."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hasten.model.target import Facts, Target, TorchNetwork
from hasten.model.upsample import fuse_
from hasten.technique.contract import Effects, Fidelity, Prepared, Stage


@dataclass(frozen=True)
class Upsampling:
    """No hyper-parameters; :mod:`hasten.model.upsample` has the algebra."""

    name: ClassVar[str] = "upsampling"
    effects: ClassVar[Effects] = Effects(
        Stage.UPSAMPLING,
        Fidelity.NUMERIC,
        scope="upsampling convolutions",
        requires=frozenset({"torch_module", "float32"}),
        breaks=frozenset({"trainable"}),
    )

    @property
    def label(self) -> str:
        """ "fused upsampling"."""
        return "fused upsampling"

    @classmethod
    def rests_on(cls) -> str:
        """Nothing."""
        return "any processor"

    def refuse(self, facts: Facts) -> str | None:
        """Needs upsampling that is followed by a convolution."""
        if not facts.upsamplers:
            return "there is no upsampling that a convolution follows; drop upsampling"
        return None

    @classmethod
    def choices(cls, facts: Facts) -> tuple[Upsampling, ...]:
        """One."""
        return (cls(),)

    def apply_(self, target: Target, prepared: Prepared) -> None:
        """Fuse them all; engines convert another graph then."""
        assert isinstance(target.network, TorchNetwork)
        fuse_(target.network.module, frozen=True)
        prepared.after(self)
