"""torch.compile with inductor: fused element-wise kernels and fewer Python calls (Ansel et al. 2024, PyTorch 2)."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from typing import ClassVar

from hasten.model.target import Facts, Target, TorchNetwork
from hasten.runtime import inductor
from hasten.technique.contract import Effects, Fidelity, Prepared, Stage


def _compiler() -> str | None:
    return next((name for name in ("g++", "clang++") if shutil.which(name)), None)


@dataclass(frozen=True)
class Compile:
    """Inductor, static shapes; it compiles on the first sample of each shape."""

    name: ClassVar[str] = "compile"
    effects: ClassVar[Effects] = Effects(
        Stage.COMPILE,
        Fidelity.NUMERIC,
        scope="graph",
        requires=frozenset({"torch_module"}),
        breaks=frozenset({"torch_module", "exportable", "trainable"}),
        claims=frozenset({"graph"}),
    )

    @property
    def label(self) -> str:
        """ "inductor"."""
        return "inductor"

    @classmethod
    def rests_on(cls) -> str:
        """A C++ compiler."""
        return f"inductor of torch; C++ compiler {_compiler() or 'not here: refused on a CPU'}"

    def refuse(self, facts: Facts) -> str | None:
        """On a CPU inductor needs a C++ compiler."""
        if facts.device == "cpu" and _compiler() is None:
            return "inductor needs a C++ compiler and there is none here; install g++ or drop compile"
        return None

    @classmethod
    def choices(cls, facts: Facts) -> tuple[Compile, ...]:
        """One."""
        return (cls(),)

    def apply_(self, target: Target, prepared: Prepared) -> None:
        """Wrap the module."""
        assert isinstance(target.network, TorchNetwork)
        target.network = replace(target.network, module=inductor.compiled(target.network.module))
