"""A way to run the network: a plan but for its sampler, and what an evaluation costs.

It is known by its plan's hash; what it is called is for people.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from hasten.errors import BadInput
from hasten.files import text_lines
from hasten.measure.stats import Interval, median_ratio
from hasten.model.target import Target
from hasten.story.stages.run import Run
from hasten.technique import plan as plans
from hasten.technique.contract import Technique
from hasten.technique.plan import Plan
from hasten.technique.sampler import Sampler

# Drift of a way on two-evaluation samples: hardly visible, and far below anything that is measured.
CLOSE_DB, FAITHFUL_DB = 45.0, 60.0
CONVERGED = Sampler("unipc", 60, "logsnr")  # its samples are over 50 dB from those of 100 steps (LOG.md)


@dataclass(frozen=True)
class Way:
    """A way to run the network, tried.

    ``seconds`` of one evaluation for one image, by round (rounds are the same for all ways); ``drift_db`` from
    eager; ``weight_bytes`` on disk of the network that it runs; ``peak_bytes`` where memory was asked for.
    """

    plan: Plan
    reason: str
    seconds: tuple[float, ...]
    drift_db: float | None
    failure: str = ""
    weight_bytes: int | None = None
    peak_bytes: int | None = None

    @property
    def hash(self) -> str:
        """Its plan's, by which all else names it."""
        return self.plan.hash

    @property
    def label(self) -> str:
        """For people; of two ways with different settings it can be the same."""
        return " + ".join(t.label for t in self.plan.techniques) or "PyTorch eager"

    @property
    def median_seconds(self) -> float:
        """Over the rounds; infinite for a way that failed."""
        ordered = sorted(self.seconds)
        return ordered[len(ordered) // 2] if ordered else math.inf

    def against(self, other: Way) -> Interval:
        """The ratio of this way's time to the other's, over the rounds that both made."""
        rounds = min(len(self.seconds), len(other.seconds))
        return median_ratio(other.seconds[:rounds], self.seconds[:rounds])

    def figure(self, goal: str) -> float:
        """What the goal minimises before seconds: bytes, or 0 where it is seconds."""
        known = {"size": self.weight_bytes, "memory": self.peak_bytes}
        if goal not in known:
            return 0.0
        figure = known[goal]
        return math.inf if figure is None else float(figure)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "plan": self.plan.to_list()}


class Kept(BaseModel):
    """A way as ``ways.json`` has it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    plan: list[dict[str, Any]]
    reason: str
    seconds: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...]
    drift_db: float | None
    failure: str = ""
    weight_bytes: int | None = None
    peak_bytes: int | None = None


def kept_in(path: Path) -> list[Way]:
    """The ways that a run began with.  Raises BadInput for what is no list of them."""
    try:
        rows = TypeAdapter(Annotated[list[Kept], Field(min_length=1)]).validate_json("".join(text_lines(path)))
    except ValidationError as error:
        raise BadInput(f"{path} holds no engines of a run ({error.error_count()} things wrong); remove it") from error
    return [Way(plans.from_list(row.plan, str(path)), **row.model_dump(exclude={"plan"})) for row in rows]


def closest(ways: Sequence[Way]) -> Way:
    """The fastest of those kept that hardly change the samples, or the one that changes them least."""
    close = [w for w in ways if w.drift_db is None or w.drift_db >= CLOSE_DB]
    return min(close, key=lambda w: w.median_seconds) if close else max(ways, key=lambda w: w.drift_db or 0.0)


def faithful(run: Run, ways: list[Way], *techniques: Technique) -> Target:
    """The source on the fastest way whose rounding is far below what is measured, where nothing is timed."""
    return run.build(_most_faithful(ways).plan.plus(*techniques))


def faithful_seconds(ways: list[Way]) -> float:
    """What one evaluation takes there for one image."""
    return _most_faithful(ways).median_seconds


def _most_faithful(ways: list[Way]) -> Way:
    faithful = [w for w in ways if w.seconds and (w.drift_db is None or w.drift_db >= FAITHFUL_DB)]
    return min(faithful, key=lambda w: w.median_seconds)
