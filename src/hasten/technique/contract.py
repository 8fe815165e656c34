"""What a technique declares, and what it is given.

Compatibility is an effect system: a technique names its stage, what must hold before it, what no longer holds after
it, and the exclusive slots that it takes.  :meth:`hasten.technique.plan.Plan.refusal` walks the stages.

Properties: ``torch_module`` (a torch module does the work), ``float_weights``, ``float32``, ``trainable``,
``exportable``, ``deterministic``, ``openvino_graph``, ``one_stream`` (a batch is not split).  Slots: ``network``,
``sampler``, ``weight_format``, ``linear_weights``, ``layout``, ``graph``, ``stored_weights``.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from hasten.errors import BadInput
from hasten.files import cache_folder, temporary, umask
from hasten.model.target import Facts, Target
from hasten.technique.answers import ALIKE_DB, COARSE_DB, MOST_DB, SAME_DB, agreement_db


class Stage(IntEnum):
    """The order in which techniques are applied."""

    NETWORK = 5
    UPSAMPLING = 8
    LAYOUT = 10
    PRECISION = 20
    LINEAR = 25
    RUNTIME = 30
    QUANTIZE = 40
    WEIGHTS = 45
    COMPILE = 50
    SAMPLER = 60


class Fidelity(Enum):
    """How the output may differ: not at all, by rounding, or visibly.

    A network's answers agree to ``floor_db`` at each noise level, or the technique is refused.  What is lossy is judged
    by its samples; its floor tells a rounding from a mistake.
    """

    EXACT = "exact"
    NUMERIC = "numeric"
    LOSSY = "lossy"

    @property
    def floor_db(self) -> float:
        """Signal to noise."""
        return {Fidelity.EXACT: MOST_DB, Fidelity.NUMERIC: SAME_DB, Fidelity.LOSSY: COARSE_DB}[self]


@dataclass(frozen=True)
class Effects:
    """One declaration a technique."""

    stage: Stage
    fidelity: Fidelity
    scope: str
    requires: frozenset[str] = frozenset()
    breaks: frozenset[str] = frozenset()
    gives: frozenset[str] = frozenset()
    claims: frozenset[str] = frozenset()


@runtime_checkable
class Technique(Protocol):
    """A frozen dataclass: its fields are its hyper-parameters, plain TOML values."""

    name: ClassVar[str]

    @property
    def effects(self) -> Effects:
        """What it needs, gives and takes away, by its settings."""
        ...

    @property
    def label(self) -> str:
        """For people: "UniPC 8 steps"."""
        ...

    @classmethod
    def rests_on(cls) -> str:
        """What it needs of this machine, and whether that is here: "VNNI: here, 8 bits".  At most 66 characters."""
        ...

    def refuse(self, facts: Facts) -> str | None:
        """Why this model or machine can't take it, or None."""
        ...

    @classmethod
    def choices(cls, facts: Facts) -> tuple[Technique, ...]:
        """The settings worth trying on such a model."""
        ...

    def apply_(self, target: Target, prepared: Prepared) -> None:
        """Change ``target``; expensive work goes through ``prepared``."""
        ...


def kept_tensors(path: Path, names: Sequence[str]) -> dict[str, torch.Tensor]:
    """The tensors of ``names`` in a file that was prepared.  Raises BadInput for a file that was changed since."""
    try:
        kept = load_file(path)
        return {name: kept[name] for name in names}
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BadInput(f"{path} is not what was prepared ({reason}); make the artifact again, or remove it") from error


@dataclass
class Prepared:
    """Expensive preparation (conversion, calibration), kept under the hash of all that it depends on.

    ``key`` starts from the source's weights and the versions of the engines; a technique after which later ones would
    prepare something else calls :meth:`after`.  ``seconds`` adds up what was prepared anew, so that a hit is never
    counted as speed; ``used`` lists what an artifact must carry.  A ``complete`` store (an artifact's) makes nothing.
    """

    key: str
    root: Path = field(default_factory=lambda: cache_folder("prepared"))
    complete: bool = False
    seconds: float = 0.0
    used: list[Path] = field(default_factory=list)

    def after(self, technique: Any) -> None:
        """Everything prepared from here on depends on ``technique`` too."""
        self.key = hashlib.sha256(f"{self.key}|{technique!r}".encode()).hexdigest()

    def answering(self, found: torch.Tensor | None) -> None:
        """Everything prepared from here on is for a network that answers ``found`` (:mod:`hasten.technique.answers`).

        Networks of the same weights that answer otherwise are told apart by a number; an artifact has one, which is
        taken where the model's weights were left out (None).  Raises BadInput where that one answered something else.
        """
        if self.complete:
            kinds = [path.name.split("-")[0] for path in sorted(self.root.glob(f"answers*-{self._digest()}"))]
            kept = self._answers(kinds[0] if kinds else "answers0", found)
            if found is not None and not agreement_db(kept, found) >= ALIKE_DB:
                raise BadInput(
                    f"{self.root} was made of a network that answers otherwise ({agreement_db(kept, found):.1f} dB); "
                    "pass the module, and the call, that the artifact was made of"
                )
            self.after(kinds[0])
            return
        for number in itertools.count():
            if agreement_db(self._answers(f"answers{number}", found), found) >= SAME_DB:
                self.after(f"answers{number}")
                return
            self.used.pop()

    def _answers(self, kind: str, found: torch.Tensor | None) -> Any:
        """What is kept under ``kind``; ``found``, and now kept, where nothing was."""

        def make(folder: Path) -> None:
            save_file({"answers": found.contiguous()}, folder / "answers.safetensors")  # type: ignore[union-attr]

        return kept_tensors(self.get(kind, make) / "answers.safetensors", ["answers"])["answers"]

    def _digest(self) -> str:
        return hashlib.sha256(self.key.encode()).hexdigest()[:24]

    def get(self, kind: str, make: Callable[[Path], None]) -> Path:
        """The folder that ``make`` filled for this kind and key, now or earlier; whole or not there at all.

        Raises BadInput when the store is complete and lacks it.
        """
        root, name = self.root, f"{kind}-{self._digest()}"
        if (root / name).is_dir():
            self.used.append(root / name)
            return root / name
        if self.complete:
            raise BadInput(f"{root} lacks {name}, which the plan needs; make the artifact again with hasten apply")
        began = time.perf_counter()
        with temporary(root / name, folder=True) as made:
            make(made)
            made.chmod(0o777 & ~umask())
            with suppress(OSError):  # another process was first: what it made is taken
                made.rename(root / name)
            if not (root / name).is_dir():
                raise BadInput(f"{root / name} can't be written; choose another HASTEN_CACHE")
        self.seconds += time.perf_counter() - began
        self.used.append(root / name)
        return root / name
