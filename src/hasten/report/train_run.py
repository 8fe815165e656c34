"""A folder of training as its page needs it: columns of figures, what happened, where time went, and how it stands.

Curves leave out the steps that a rewind took back; the time that those took still counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, ConfigDict, Field

from hasten import guard
from hasten.errors import BadInput
from hasten.report.columns import Column, column
from hasten.report.result import Amount, Block, Count, Environment, Name, Signed, checked, content, loaded
from hasten.report.terminal import plain
from hasten.train import log

FIGURES = (
    *("step", "loss", "gradient_norm", "clip_scale", "learning_rate", "images_per_second", "stall"),
    *("memory_bytes", "peak_bytes", "seconds"),
)
PHASES = {
    "data": "waiting for data",
    "forward": "forward pass",
    "backward": "backward pass",
    "optimizer": "optimiser",
    "average": "averages of the weights",
    "validation": "validation",
    "sample": "samples",
    "checkpoint": "checkpoints",
}
REST = "all else: skipped steps, starts, writing lines"


AGAIN = "restore the file"


def _level(value: str) -> str:
    """A noise level, which is a number's text."""
    if not math.isfinite(float(value)):
        raise ValueError("a noise level is a finite number")
    return value


Figure = Annotated[float, Field(ge=-1e39, le=1e39)]  # as large as a float32 gets
Level = Annotated[str, AfterValidator(_level)]


class Section(Block):
    """Of a recipe, with keys that the page only lists."""

    model_config = ConfigDict(extra="allow")


class DataSection(Section):
    """What was learnt."""

    name: Name


class TrainSection(Section):
    """How."""

    steps: Count
    batch_size: Count
    optimizer: str
    device: str


class Recipe(Section):
    """Sections by name; one that is off, as teacher without distillation, is None."""

    __pydantic_extra__: dict[str, dict[str, Any] | None]
    data: DataSection
    train: TrainSection


class About(Block):
    """run.json."""

    recipe: Recipe
    environment: Environment
    parameters: Count
    command: str


class Line(Block):
    """Means over steps, as ``metrics.jsonl`` has them."""

    step: Count
    seconds: Amount | None = None
    loss: Figure | None = None
    gradient_norm: Figure | None = None
    clip_scale: Figure | None = None
    learning_rate: Figure | None = None
    images_per_second: Amount | None = None
    stall: Amount | None = None
    memory_bytes: Amount | None = None
    peak_bytes: Amount | None = None
    phases: dict[Name, Amount | None] | None = None


class Event(Block):
    """What happened after ``step`` steps."""

    event: Name
    step: Count
    seconds: Amount | None = None
    took_seconds: Amount | None = None


class Validation(Event):
    """Held-out figures."""

    losses: dict[Level, Figure | None]
    loss: Figure | None = None
    distance: Figure | None = None


class Skipped(Event):
    """A step that was not taken."""

    batch: Count
    what: str
    ids: list[int]


class Rewind(Event):
    """Steps that were taken back."""

    from_step: Count
    to_step: Count
    batches: list[Count] = Field(min_length=1)
    loss: Figure | None = None


class Audit(Event):
    """What was found of the noise schedule."""

    line: str


class Setting(Block):
    """What autotune chose."""

    threads: Count
    channels_last: bool


class Trial(Setting):
    """A setting's seconds a step, and the interval of its ratio to the first one's."""

    seconds: Amount | None = None
    ratio: Amount | None = None
    low: Amount | None = None
    high: Amount | None = None


class Planned(Block):
    """What a memory budget cost."""

    peak_bytes: Amount | None = None
    extra_seconds: Signed | None = None


class Autotune(Event):
    """Choices made by measurement."""

    setting: Setting | None = None
    trials: list[Trial] | None = None
    checkpointing: list[str] | None = None
    planned: Planned | None = None


EVENTS: dict[str, type[Event]] = {
    "validation": Validation, "skipped": Skipped, "rewind": Rewind, "audit": Audit, "autotune": Autotune
}  # fmt: skip


@dataclass(frozen=True)
class Record:
    """``about``: run.json, None where there is none yet; ``lines`` of steps and ``events``, both in order of time;
    ``held``: a process is at work in the folder; ``has_model``: it has made its model."""

    about: About | None
    lines: list[dict[str, Any]]
    events: list[dict[str, Any]]
    held: bool
    has_model: bool

    @cached_property
    def columns(self) -> dict[str, Column]:
        """The figures (n,) of the lines that stand, NaN where one is missing."""
        kept: list[dict[str, Any]] = []
        rewinds = [(event["seconds"], event["to_step"]) for event in self.of("rewind")]
        for line in self.lines:
            while rewinds and rewinds[0][0] <= line["seconds"]:
                _, step = rewinds.pop(0)
                kept = [each for each in kept if each["step"] <= step]
            kept.append(line)
        return {name: column([line.get(name) for line in kept]) for name in FIGURES}

    def of(self, *kinds: str) -> list[dict[str, Any]]:
        """The events of these kinds."""
        return [event for event in self.events if event["event"] in kinds]

    @property
    def step(self) -> int:
        """Steps done."""
        every = [*self.lines[-1:], *self.events[-1:]]
        return max((int(line["step"]) for line in every), default=0)

    @property
    def steps(self) -> int | None:
        """Steps wanted."""
        found = self.train.get("steps")
        return found if isinstance(found, int) else None

    @property
    def train(self) -> dict[str, Any]:
        """The recipe's table of that name."""
        return {} if self.about is None else self.about.recipe.train.model_dump()

    @property
    def seconds(self) -> float:
        """Since the run began, without the time that it was stopped."""
        return max((line["seconds"] for line in [*self.lines[-1:], *self.events[-1:]]), default=0.0)

    @property
    def finished(self) -> bool:
        """Whether it came to its end."""
        return self.has_model and bool(self.events) and self.events[-1]["event"] == "end"

    @property
    def seconds_left(self) -> float | None:
        """By the pace of the last tenth of the lines; None where there is no saying."""
        steps, seconds = self.columns["step"], self.columns["seconds"]
        first = -max(2, len(steps) // 10)
        if self.steps is None or len(steps) < 2 or steps[-1] <= steps[first:][0]:
            return None
        return float((seconds[-1] - seconds[first:][0]) / (steps[-1] - steps[first:][0]) * (self.steps - self.step))

    @property
    def validations(self) -> list[dict[str, Any]]:
        """Events of validation; ``best`` is only the best of all."""
        found = self.of("validation")
        losses = column([event.get("loss") for event in found])
        best = int(np.nanargmin(losses)) if np.isfinite(losses).any() else -1
        return [{**event, "best": number == best} for number, event in enumerate(found)]

    def phases(self) -> list[tuple[str, float]]:
        """Where time went, in words and seconds, the parts of a step first; what no phase counts comes last."""
        spent: dict[str, float] = {}
        events = {event["event"] for event in self.events}
        for line in self.lines:
            for name, seconds in (line.get("phases") or {}).items():
                if name not in events:  # those are counted by their own lines, the last of them too
                    spent[name] = spent.get(name, 0.0) + (seconds or 0.0)
        for event in self.events:
            name = event["event"]
            spent[name] = spent.get(name, 0.0) + (event.get("took_seconds") or 0.0)
        named = {PHASES.get(name, name): spent[name] for name in [*PHASES, *spent] if spent.get(name)}
        return [*named.items(), (REST, max(self.seconds - sum(named.values()), 0.0))]


def read(folder: Path) -> Record:
    """The run in ``folder``, finished or not.  Raises BadInput for a folder that holds none, or a broken one."""
    path = folder / log.NAME
    if not path.is_file():
        raise BadInput(
            plain(f"{folder} holds no run of training: no {log.NAME}; pass a folder that hasten train wrote")
        )
    lines = _lines(path)
    return Record(
        _about(folder / "run.json"),
        [line for line in lines if "event" not in line],
        [line for line in lines if "event" in line],
        guard.is_held(folder),
        (folder / "model").is_dir(),
    )


def _about(path: Path) -> About | None:
    again = "restore it, or delete it to do without"
    if not path.exists():
        return None
    what = f"{path} can't be read"
    return checked(loaded(content(path, again), what, again), About, what, again)


def _lines(path: Path) -> list[dict[str, Any]]:
    """All lines by their types; the last one may be torn, by a kill in the middle, and is then left out."""
    found = []
    for number, each in enumerate(content(path, AGAIN).split(b"\n")[:-1], 1):
        what = f"{path}, line {number}: no figures of a run"
        value = loaded(each, what, AGAIN)
        kind = value.get("event") if isinstance(value, dict) else None
        model = EVENTS.get(kind, Event) if isinstance(kind, str) else Line
        line = checked(value, model, what, AGAIN).model_dump()
        found.append({**line, "seconds": line["seconds"] or 0.0})
    if not found:
        raise BadInput(plain(f"{path} is empty: the run ended before its first line; begin it again"))
    return found
