"""Another network in the place of the model's own: a student, a pruned one, one that was trained further.

What needs training makes a folder (``hasten distill``), and a plan takes it up here, so that it goes with everything
else.  The folder is copied into what an artifact carries, and known by the hash of its weights.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from hasten.errors import BadInput
from hasten.model.target import Facts, Target
from hasten.technique.contract import Effects, Fidelity, Prepared, Stage


@dataclass(frozen=True)
class Swap:
    """``folder``: a diffusers model folder with the shape, labels, schedule and prediction of the model's own;
    ``weights``: the hash of its weights, which is looked up where it is not given.
    """

    name: ClassVar[str] = "swap"
    effects: ClassVar[Effects] = Effects(
        Stage.NETWORK,
        Fidelity.LOSSY,
        scope="network",
        requires=frozenset({"torch_module", "float32"}),
        claims=frozenset({"network"}),
    )

    folder: str
    weights: str = ""

    def __post_init__(self) -> None:
        if not self.weights:
            from hasten.model import source as sources

            object.__setattr__(self, "weights", sources.load(self.folder).weight_hash)

    @property
    def label(self) -> str:
        """ "student half/model"."""
        return f"student {'/'.join(Path(self.folder).parts[-2:])}"

    @classmethod
    def rests_on(cls) -> str:
        """Nothing."""
        return "any processor"

    def refuse(self, facts: Facts) -> str | None:
        """What does not fit is only known of the folder, which :meth:`apply_` reads."""
        return None

    @classmethod
    def choices(cls, facts: Facts) -> tuple[Swap, ...]:
        """None: which folders there are, a person says."""
        return ()

    def apply_(self, target: Target, prepared: Prepared) -> None:
        """Take the folder's network; raises BadInput when it is asked, or answers, otherwise."""

        from hasten.model import source as sources

        def make(to: Path) -> None:
            whole = sources.load(self.folder)
            if whole.weight_hash != self.weights:
                raise BadInput(f"swap: {self.folder} has other weights than the plan names; distil again, or drop swap")
            for path in sources.files(Path(self.folder)):
                (to / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(Path(self.folder) / path, to / path)

        folder = prepared.get(f"swap-{self.weights[:16]}", make)
        other = sources.load(folder, device=target.facts.device).build()
        for what in ("schedule", "prediction", "sigma_data"):
            if getattr(other, what) != getattr(target, what):
                raise BadInput(f"swap: {self.folder} has another {what.replace('_', ' ')} than the model; drop swap")
        for what in ("shape", "num_labels", "null_label"):
            ours, theirs = getattr(target.facts, what), getattr(other.facts, what)
            if ours != theirs:
                raise BadInput(f"swap: {self.folder}: its {what.replace('_', ' ')} is {theirs}, the model's {ours}")
        target.network, target.facts = other.network, other.facts
        prepared.after(replace(self, folder=""))
