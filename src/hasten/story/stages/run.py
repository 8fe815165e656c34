"""What the stages of one run share: the input, the clock, and what was said on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from hasten.data.array import Data
from hasten.errors import BadInput, did_you_mean
from hasten.measure.clock import Clock, Deadline
from hasten.measure.features import Features
from hasten.model.config import read_folder
from hasten.model.source import Source
from hasten.model.target import Target
from hasten.model.workload import Workload, draw
from hasten.seeds import Purpose, seed_of
from hasten.technique import plan as plans
from hasten.technique.plan import Plan
from hasten.technique.swap import Swap

UNTIMED_BATCH = 32  # images at once where nothing is timed
GOALS = ("throughput", "latency", "memory", "size")

Progress = Callable[[str, str, float], None]


@dataclass(frozen=True)
class Limits:
    """What is made small, and what a plan may lose or need.

    ``quality`` is the relative loss allowed, ``memory_bytes`` and ``size_bytes`` the most that a plan may need at its
    peak in memory and on disk; what is minimised within those is the ``goal``: seconds per image of a batch
    ("throughput") or of one image ("latency"), then "memory" or "size".  Raises BadInput for another goal.
    """

    goal: str = "throughput"
    quality: float = 0.02
    memory_bytes: float | None = None
    size_bytes: float | None = None

    def __post_init__(self) -> None:
        if self.goal not in GOALS:
            raise BadInput(f"goal {self.goal!r} is not known{did_you_mean(self.goal, GOALS)}")

    @property
    def size_matters(self) -> bool:
        """Whether bytes on disk are the goal or bounded."""
        return self.goal == "size" or self.size_bytes is not None

    def amounts(self) -> dict[str, float | None]:
        """What is bounded, by how much."""
        return {"quality": self.quality, "memory_bytes": self.memory_bytes, "size_bytes": self.size_bytes}


@dataclass(frozen=True)
class Settings:
    """How a run goes: ``seconds`` for the whole of it, the batch, the seed, a person's own ``features`` in place of the
    network's, and ``students`` whose networks may take the model's place."""

    seconds: float = 300.0
    images_per_case: int = 16
    seed: int = 0
    features: Features | None = None
    students: tuple[Swap, ...] = ()


@dataclass
class Run:
    """What the stages share: the input, the clock, whether Ctrl-C was pressed, and what was said on the way."""

    source: Source
    data: Data | None
    out: Path
    limits: Limits
    settings: Settings
    progress: Progress
    stopped: Callable[[], bool]
    preparation_seconds: float = 0.0
    warnings: list[str] = field(default_factory=list)
    checked: set[Plan] = field(default_factory=set)  # networks that answered as the model does
    judged: bool = False  # whether a plan was, that can be verified when Ctrl-C is pressed
    deadline: Deadline = field(init=False)

    def __post_init__(self) -> None:
        self.deadline = Deadline(Clock(self.source.device), self.settings.seconds)

    @property
    def clock(self) -> Clock:
        """What everything in the run is timed by."""
        return self.deadline.clock

    def over(self, share: float) -> Callable[[], bool]:
        """Tells whether ``share`` of the time is used, or Ctrl-C was pressed."""
        return lambda: self.stopped() or self.deadline.left(share) < 0.0

    def images_that_fit(self, seconds: float, rounds: int, share: float, most: int) -> int:
        """How many images, 0 to ``most``, a round may have so that ``rounds`` end by ``share`` of the time, where
        an image takes ``seconds`` of a round."""
        return self.deadline.calls_that_fit(rounds * seconds, share, most)

    def say(self, phase: str, detail: str = "") -> None:
        """Tell the person what is being done, and the seconds left.

        Raises KeyboardInterrupt once Ctrl-C was pressed and no plan was judged yet.
        """
        if self.stopped() and not self.judged:
            raise KeyboardInterrupt
        if self.stopped():
            detail = f"stopping after this; Ctrl-C again leaves: {detail}"
        self.progress(phase, detail, max(self.deadline.left(), 0.0))

    def workload(self, purpose: Purpose, cases: int, images: int | None = None) -> Workload:
        """Cases of ``images`` (the run's own number by default) for one purpose."""
        labels = self.source.labels_of(self.data)
        return draw(
            self.source.shape,
            cases,
            images or self.settings.images_per_case,
            seed_of(purpose, self.settings.seed),
            labels,
        )

    def build(self, plan: Plan) -> Target:
        """The source built again with ``plan`` applied; what had to be prepared is counted."""
        return self.built(plan)[0]

    def built(self, plan: Plan) -> tuple[Target, int]:
        """The same, and the bytes on disk of the network that the plan runs: a prepared one, or the model's weights."""
        prepared = plans.prepare(self.source)
        network = plan.without("sampler")[0]
        target = plans.build(
            self.source, plan, prepared, batch=0 if network in self.checked else self.settings.images_per_case
        )
        self.checked.add(network)
        self.preparation_seconds += prepared.seconds
        if prepared.used:
            return target, sum(path.stat().st_size for path in prepared.used[-1].rglob("*") if path.is_file())
        if self.source.folder is None:
            return target, target.facts.weight_bytes
        return target, sum(path.stat().st_size for path in read_folder(self.source.folder).weight_files)
