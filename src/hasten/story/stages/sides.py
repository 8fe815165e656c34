"""A and B of a comparison: what builds them, times them by kind, and weighs them in processes of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from hasten import result, subject
from hasten.data.array import Data
from hasten.environment import python_child
from hasten.measure import pair
from hasten.measure.clock import Clock, Deadline
from hasten.measure.pair import Comparison
from hasten.measure.stats import FEWEST_ROUNDS
from hasten.model.target import Target
from hasten.model.workload import Case, Workload, draw
from hasten.result import NOT_ELSEWHERE
from hasten.seeds import Purpose, seed_of
from hasten.story.stages.run import Progress
from hasten.subject import Subject, sample_once
from hasten.train.step import Epoch, TrainStep

TRAINED = ("train-step", "epoch")
ONCE = "import sys; from hasten.story.stages.sides import once; once(*sys.argv[1:])"


@dataclass(frozen=True)
class Asked:
    """What is compared, and the clock of the run."""

    a: Subject
    b: Subject
    kind: str
    data: Data | None
    images: int
    seed: int
    deadline: Deadline
    progress: Progress
    built: dict[str, tuple[Target, float]] = field(default_factory=dict)  # by side; and the seconds that it took

    def target(self, side: str) -> Target:
        """A's ("baseline") or B's ("candidate"), built when it is first asked for."""
        if side not in self.built:
            begun = self.deadline.clock.now()
            target = (self.a if side == "baseline" else self.b).build()
            self.built[side] = target, self.deadline.clock.now() - begun
        return self.built[side][0]

    def over(self, share: float) -> bool:
        """Whether ``share`` of the time is used."""
        return self.deadline.left(share) < 0.0

    def say(self, phase: str, detail: str) -> None:
        """Tell the person, with the time left."""
        self.progress(phase, detail, max(self.deadline.left(), 0.0))

    def workload(self, cases: int, images: int, purpose: Purpose) -> Workload:
        """Cases by purpose."""
        source = self.a.source
        return draw(source.shape, cases, images, seed_of(purpose, self.seed), source.labels_of(self.data))

    def timed_images(self, images: int) -> int:
        """How many images one timed call takes at this batch size: an epoch takes all the data, in whole batches."""
        if self.kind != "epoch" or self.data is None:
            return images
        return int((~self.data.held_out).sum()) // images * images


def sampling_seconds(asked: Asked) -> float:
    """What A and B together take for an image, by an evaluation of each after a first one, which may compile."""
    total = 0.0
    (case,) = asked.workload(1, asked.images, Purpose.TIMED).cases
    for side_ in ("baseline", "candidate"):
        target = asked.target(side_)
        target.evaluate(case)
        begun = asked.deadline.clock.now()
        target.evaluate(case)
        total += (asked.deadline.clock.now() - begun) / asked.images * target.table.evaluations
    return total


def timed(asked: Asked, images: int, rounds: int, late: Callable[[], bool]) -> Comparison:
    """The rounds at one batch size: nine at least, then more until ``rounds`` or until it is late."""
    done = 0

    def on_round(number: int, of: int) -> None:
        nonlocal done
        done = number
        asked.say("rounds", f"batch {images}: round {number} of {of}")

    return pair.compare(
        workers(asked, "baseline"),
        workers(asked, "candidate"),
        Timed(asked.workload(rounds, images, Purpose.TIMED).cases, asked.timed_images(images)),
        pair.Rounds(
            rounds,
            seed=asked.seed,
            stop=lambda: done >= min(FEWEST_ROUNDS, rounds) and late(),
            on_round=on_round,
            clock=asked.deadline.clock,
        ),
    )


def workers(asked: Asked, side: str) -> pair.Builder:
    """What makes the object whose ``sample(case)`` is timed."""
    if asked.kind == "step":
        return lambda: OneStep(asked.target(side))
    if asked.kind not in TRAINED:
        return lambda: asked.target(side)
    assert asked.data is not None
    data, named = asked.data, asked.a if side == "baseline" else asked.b
    if asked.kind == "train-step":
        return lambda: TrainStep(named.build(), data)
    return lambda: Epoch(TrainStep(named.build(), data))


@dataclass(frozen=True)
class Timed:
    """Cases, and how many images one timed call takes (:class:`hasten.measure.pair.Workload`)."""

    cases: tuple[Case, ...]
    images_per_case: int


@dataclass
class OneStep:
    """One evaluation of the network, at the middle of its sampler's times."""

    target: Target

    def sample(self, case: Case) -> torch.Tensor:
        """The prediction of the clean sample (n, *shape)."""
        return self.target.evaluate(case).float().cpu()


def peak_memory(asked: Asked, main: Comparison, warnings: list[str]) -> list[int | None]:
    """Peak bytes of both: of the accelerator's allocator where there is one, else resident, each in its own process."""
    allocated = [
        [o.peak_bytes for o in main.observations if o.plan == name and o.peak_bytes is not None]
        for name in ("baseline", "candidate")
    ]
    if all(allocated):
        return [max(each) for each in allocated]
    data = "" if asked.data is None else asked.data.name
    words = [asked.kind, str(asked.images), data, asked.a.source.device]
    sides = (asked.a, asked.b)
    if any(not named.named for named in sides):
        warnings.append(NOT_ELSEWHERE)
        return [None, None]
    programs = [python_child("-c", ONCE, named.text, *words) for named in sides]
    return result.peaks([named.text for named in sides], programs, 600.0, warnings)


def once(text: str, kind: str, images: str, data: str, device: str) -> None:
    """What :func:`peak` runs: the first case, once; of an epoch only its first two steps, which hold as much."""
    from hasten.data import loader

    if kind == "sample":
        sample_once(text, images, device)
        return
    named = subject.read(text, device=device)
    shape = named.source.shape
    found = (
        loader.by_name(data, (shape[1], shape[2]), channels=shape[0], skip_bad=True)
        if data and kind in TRAINED
        else None
    )
    deadline = Deadline(Clock(device), 0.0)
    kind = "train-step" if kind == "epoch" else kind
    asked = Asked(named, named, kind, found, int(images), 0, deadline, lambda *_: None)
    worker = workers(asked, "baseline")()
    for case in asked.workload(2 if kind in TRAINED else 1, int(images), Purpose.TIMED).cases:
        worker.sample(case)
