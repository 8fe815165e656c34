"""Weights in 8 or 4 bits on disk: a smaller artifact, no faster network."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

from hasten.errors import BadInput
from hasten.model.target import Facts, Target
from hasten.runtime import compress, openvino
from hasten.technique.contract import Effects, Fidelity, Prepared, Stage


@dataclass(frozen=True)
class Weights:
    """``bits`` of each weight that is still in float, 8 or 4; ``rank`` of the correction, 0 to 256
    (:mod:`hasten.runtime.compress`)."""

    name: ClassVar[str] = "weights"
    effects: ClassVar[Effects] = Effects(
        Stage.WEIGHTS,
        Fidelity.LOSSY,
        scope="weights of convolutions, matrix products",
        requires=frozenset({"openvino_graph", "one_stream"}),  # on two streams answers are wrong at times (LOG.md)
        breaks=frozenset({"float_weights"}),
        claims=frozenset({"stored_weights"}),
    )

    bits: int = 8
    rank: int = 0

    def __post_init__(self) -> None:
        if self.bits not in compress.LARGEST:
            raise BadInput(f"weights.bits = {self.bits} is not known; 8 or 4")
        if not 0 <= self.rank <= 256:
            raise BadInput(f"weights.rank = {self.rank} is out of range; 0 to 256")

    @property
    def label(self) -> str:
        """ "4-bit weights, rank 8"."""
        return f"{self.bits}-bit weights" + (f", rank {self.rank}" if self.rank else "")

    @classmethod
    def rests_on(cls) -> str:
        """OpenVINO, which unpacks them."""
        return f"OpenVINO {version('openvino')}; any processor"

    def refuse(self, facts: Facts) -> str | None:
        """Needs weights that are worth it."""
        if not any(name.startswith(("Conv", "Linear")) for name, _ in facts.kinds):
            return "there is no convolution or linear layer whose weights could be smaller; drop weights"
        return None

    @classmethod
    def choices(cls, facts: Facts) -> tuple[Weights, ...]:
        """8 bits, and 4 with a correction."""
        return (cls(), cls(4, 8))

    def apply_(self, target: Target, prepared: Prepared) -> None:
        """Round once (cached), then run the rounded graph."""
        network = target.network
        assert isinstance(network, openvino.Network)

        def make(folder: Path) -> None:
            openvino.save(compress.compress(network.graph, self.bits, self.rank), folder / "model.xml")

        made = f"{network.made}-weights-{self.bits}-{self.rank}".strip("-")
        target.network = openvino.Network(
            lambda: openvino.read(prepared.get(made, make) / "model.xml"), network.precision, network.streams, made
        )
