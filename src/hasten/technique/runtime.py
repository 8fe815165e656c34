"""The network on another engine than torch: OpenVINO, with static shapes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

from hasten.errors import BadInput
from hasten.model.target import Facts, Target, TorchNetwork
from hasten.runtime import openvino
from hasten.technique.answers import INPUTS, check, own_answers
from hasten.technique.contract import Effects, Fidelity, Prepared, Stage

PRECISIONS = {"float32": "float32", "bfloat16": "bf16"}


@dataclass(frozen=True)
class Runtime:
    """``precision``: what OpenVINO computes in, "float32" or "bfloat16"; ``streams``: parts of a batch run at once."""

    name: ClassVar[str] = "runtime"
    SPLIT: ClassVar[Effects] = Effects(
        Stage.RUNTIME,
        Fidelity.LOSSY,
        scope="graph",
        requires=frozenset({"torch_module", "float32", "exportable"}),
        breaks=frozenset({"torch_module", "trainable", "exportable"}),
        gives=frozenset({"openvino_graph"}),
        claims=frozenset({"graph"}),
    )

    @property
    def effects(self) -> Effects:
        """As declared for several streams, and bf16; one stream leaves batches whole."""
        whole = frozenset({"one_stream"}) if self.streams == 1 else frozenset()
        fidelity = Fidelity.NUMERIC if self.precision == "float32" else Fidelity.LOSSY
        return replace(self.SPLIT, gives=self.SPLIT.gives | whole, fidelity=fidelity)

    precision: str = "float32"
    streams: int = 1

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise BadInput(f"runtime.precision {self.precision!r} is not known; known: {', '.join(PRECISIONS)}")
        if not 1 <= self.streams <= 64:
            raise BadInput(f"runtime.streams = {self.streams} is out of range; 1 to 64")

    @property
    def label(self) -> str:
        """ "OpenVINO bf16, 2 streams"."""
        streams = f", {self.streams} streams" if self.streams > 1 else ""
        return f"OpenVINO {PRECISIONS[self.precision]}{streams}"

    @classmethod
    def rests_on(cls) -> str:
        """OpenVINO, and for bf16 what it finds."""
        bf16 = "here" if openvino.supports("BF16") else "not here: refused"
        return f"OpenVINO {version('openvino')}; bf16 {bf16}"

    def refuse(self, facts: Facts) -> str | None:
        """OpenVINO here runs on the CPU."""
        if facts.device != "cpu":
            return f"OpenVINO runs on the CPU and the model is on {facts.device}; drop runtime"
        if self.precision == "bfloat16" and not openvino.supports("BF16"):
            return "OpenVINO has no bf16 on this CPU; use precision = 'float32'"
        return None

    @classmethod
    def choices(cls, facts: Facts) -> tuple[Runtime, ...]:
        """Both precisions, on one stream and on one a core (two at most)."""
        streams = (1, 2) if openvino.cores() > 1 else (1,)
        return tuple(cls(precision, n) for precision in PRECISIONS for n in streams)

    def apply_(self, target: Target, prepared: Prepared) -> None:
        """Convert once (cached: the float32 graph is the same for all settings), then run it."""
        assert isinstance(target.network, TorchNetwork)
        network, facts = target.network, target.facts
        wanted = own_answers(target)
        prepared.answering(wanted)

        def make(folder: Path) -> None:
            graph = openvino.convert(network.module, network.call, facts.shape, facts.num_labels is not None)
            plain = openvino.Network(lambda: graph, "float32", streams=1)
            if wanted is not None:  # whatever is made of the graph, it is checked as it is
                check(wanted, target, plain, "OpenVINO", Fidelity.NUMERIC.floor_db, INPUTS)
            openvino.save(graph, folder / "model.xml")

        target.network = openvino.Network(
            lambda: openvino.read(prepared.get("openvino", make) / "model.xml"), self.precision, self.streams
        )
