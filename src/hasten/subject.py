"""What a person names to sample, compare or profile: a model folder, an artifact, or a folder with a plan.

emoji32                 the model as it is, by the baseline's sampler
emoji32+plan.toml       the model with a plan applied
runs/demo/artifact      an artifact, plan and all
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hasten import artifact
from hasten.errors import BadInput
from hasten.model import source as sources
from hasten.model.source import BASELINE_STEPS, Source
from hasten.model.target import Target
from hasten.model.workload import draw
from hasten.technique import plan as plans
from hasten.technique.plan import Plan


@dataclass(frozen=True)
class Subject:
    """``text`` as it was named; ``build`` makes a fresh target with the plan applied."""

    text: str
    source: Source
    plan: Plan
    build: Callable[[], Target]
    named: bool = True  # whether another process could read it by its text

    @property
    def label(self) -> str:
        """For people: "DDIM 50 steps, PyTorch eager, float32"."""
        return ", ".join(self.plan.label_on(self.source.sampler_label))


def sample_once(text: str, images: str, device: str) -> None:
    """One case of ``images`` samples: what a process of its own does whose peak memory is measured.

    Ten evaluations, or as many as it takes until most is kept: later ones hold no more than these.
    """
    named = read(text, device=device)
    target = named.build()
    target.table = target.table.first(max(10, target.table.fullest + 1))
    target.sample(draw(named.source.shape, 1, int(images), 0, named.source.labels).cases[0])


def read(
    text: str | Path | Source | Subject, guidance: float = 1.0, device: str | None = None, steps: int = BASELINE_STEPS
) -> Subject:
    """The subject that ``text`` names; a :class:`Source` is one without a plan.

    ``guidance`` and ``steps`` are for folders; an artifact has its own, and its own device unless another is asked for.
    Raises BadInput for what is no model, artifact or plan.
    """
    if isinstance(text, Subject):
        return text
    if isinstance(text, Source):
        name = text.name if text.folder is None else str(text.folder)
        return Subject(name, text, Plan(), text.build, named=text.folder is not None)
    text = str(text)
    if artifact.is_artifact(text):
        source, plan, _ = artifact.parts(text, device=device)
        return Subject(text, source, plan, lambda: artifact.load(text, device=device)[0])
    folder, plus, file = text.rpartition("+")
    if not plus or Path(text).exists():
        folder, file = text, ""
    source = sources.load(folder, guidance=guidance, device=device or "cpu", steps=steps)
    plan = plans.read(file) if file else Plan()
    reason = plan.refusal(source.build().facts) if file else None
    if reason is not None:
        raise BadInput(f"{text}: {reason}")
    return Subject(text, source, plan, lambda: plans.build(source, plan))
