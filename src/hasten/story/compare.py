"""Is B faster than A, by how much, and does it still make the same pictures?

A and B are what :mod:`hasten.subject` reads.  Both answer the same noise in the same rounds; peak memory comes from a
process of its own for each; quality needs samples, so only the kind "sample" has it.  The number of pairs that quality
is judged by is chosen from how much the distances vary, never from which way they point.

Kinds: ``sample`` (whole samples), ``step`` (one evaluation of the network), ``train-step`` (forward, backward, AdamW),
``epoch`` (all the data once).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from hasten import gate, history, result, subject
from hasten.data.array import Data
from hasten.environment import environment, python_child
from hasten.errors import BadInput, HastenError
from hasten.gate import Condition
from hasten.measure import pair, quality
from hasten.measure.clock import Clock, Deadline
from hasten.measure.features import Features, network_features
from hasten.measure.pair import Comparison
from hasten.measure.stats import FEWEST_ROUNDS
from hasten.model.source import Source
from hasten.model.target import Target
from hasten.model.workload import Case, Workload, draw
from hasten.result import NOT_ELSEWHERE, as_rows, speedup
from hasten.seeds import Purpose, seed_of
from hasten.story.stages import enough
from hasten.story.stages import reference as references
from hasten.story.stages.saving import side_of
from hasten.subject import Subject, sample_once
from hasten.train.step import Epoch, TrainStep

KINDS = ("sample", "step", "train-step", "epoch")
TRAINED = ("train-step", "epoch")
REFERENCE_IMAGES, FEWEST_MORE = 256, 8
# Shares of the time by whose end no further round of a phase begins.
REFERENCE_END, ROUNDS_END, CURVE_END, PAIRS_END = 0.2, 0.55, 0.7, 0.9
Progress = Callable[[str, str, float], None]


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


def compare(
    a: str | Path | Source | Subject,
    b: str | Path | Source | Subject,
    *,
    data: Data | None = None,
    kind: str = "sample",
    rounds: int = 15,
    images: int = 16,
    batches: Sequence[int] = (),
    conditions: Sequence[Condition] = (),
    features: Features | None = None,
    seconds: float = 300.0,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Compare ``a`` and ``b``, or what they name; speed-ups are of B over A.

    ``images``: the batch size of the main figure; ``batches``: further sizes, for a curve of samples per second.
    ``seconds`` bounds the whole, but nine rounds are made in any case.  ``conditions``: a gate
    (:func:`hasten.gate.parse`).  Returns plain values, ready for JSON.

    Raises BadInput for what can't be asked the same questions or can't be trained, HastenError when a side fails.
    """
    first, second = (subject.read(one, device=device) for one in (a, b))
    check_alike(first, second, kind, data)
    deadline = Deadline(Clock(first.source.device), seconds)
    asked = Asked(first, second, kind, data, images, seed, deadline, progress or (lambda *_: None))
    for condition in conditions:
        if condition.figure in ("quality", "drift") and kind != "sample":
            raise BadInput(f"condition {condition}: kind {kind!r} makes no samples; use kind 'sample'")

    reference = None
    if kind == "sample":
        asked.say("reference", "what distances are measured to")
        seconds_per_image = sampling_seconds(asked)
        most = asked.deadline.calls_that_fit(
            (FEWEST_ROUNDS + 1) * seconds_per_image, ROUNDS_END - REFERENCE_END, images
        )
        asked = replace(asked, images=max(most, 1))
        reference = read_reference(asked, features)
    main = timed(asked, asked.images, rounds, lambda: asked.over(ROUNDS_END))
    if main.interval is None:
        raise HastenError(f"{first.text} and {second.text} could not be compared: {main.reason}")
    curve = [
        curve_row(
            size, main if size == asked.images else timed(asked, size, FEWEST_ROUNDS, lambda: asked.over(CURVE_END))
        )
        for size in sorted({*batches, asked.images})
    ]
    judged = None if reference is None else judge(asked, main, reference, conditions)
    asked.say("memory", "each in a process of its own")
    warnings = list(main.warnings)
    if asked.images < images:
        at_once = f"{asked.images} image{'s' if asked.images > 1 else ''} at once"
        warnings.append(f"timed {at_once}, not {images}: a longer time allows more")
    peaks = peak_memory(asked, main, warnings)
    found = speedup(main)
    few = found["rounds"] < FEWEST_ROUNDS
    figures = gate.Figures(
        speed=(None, None, main.reason) if few else (found["low"], found["high"], main.reason),
        memory=None if None in peaks else peaks[1] / peaks[0],  # type: ignore[operator]
        quality=None if judged is None else judged.losses,
        drift=None if judged is None else judged.drift_db,
    )
    env = environment()
    warnings += remember(asked, main, judged, peaks, env)
    return {
        "kind": kind,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": seed,
        "seconds": asked.deadline.used,
        "a": side(first, main, "baseline", peaks[0], asked),
        "b": side(second, main, "candidate", peaks[1], asked),
        "images_per_case": asked.images,
        "speedup": found,
        "curve": curve,
        "quality": None if judged is None else judged.to_json(),
        "data": None if data is None else data.name,
        "gate": [asdict(condition.judge(figures)) for condition in conditions],
        "clock": {"overhead_share": main.clock_overhead, "mhz": main.clock_mhz},
        "warnings": warnings,
        "observations": as_rows(main.observations),
        "environment": env,
    }


def remember(
    asked: Asked,
    main: Comparison,
    judged: quality.Quality | None,
    peaks: list[int | None],
    env: dict[str, Any],
) -> list[str]:
    """Add the comparison to the history; the warning of one that can't be written to."""
    figures = history.of_pair(main, judged, peaks)
    sides = {"a": side_of(asked.a.source, asked.a.plan), "b": side_of(asked.b.source, asked.b.plan)}
    settings = {
        "kind": asked.kind,
        "images": asked.images,
        "device": asked.a.source.device,
        "reference": None if judged is None else judged.origin,
        "features": None if judged is None else judged.features,
    }
    subject = f"{asked.a.text} against {asked.b.text}"
    warning = history.record("compare", subject, figures, sides=sides, settings=settings, env=env)
    return [] if warning is None else [warning]


def check_alike(a: Subject, b: Subject, kind: str, data: Data | None) -> None:
    """Raise BadInput unless both can be asked the same questions."""
    if kind not in KINDS:
        raise BadInput(f"kind {kind!r} is not known; known: {', '.join(KINDS)}")
    if a.source.shape != b.source.shape:
        raise BadInput(
            f"{a.text} makes samples of shape {a.source.shape}, {b.text} of {b.source.shape}; compare like with like"
        )
    if a.source.labels != b.source.labels:
        one, other = (f"{len(s.source.labels)} labels" if s.source.labels else "no labels" for s in (a, b))
        raise BadInput(f"{a.text} has {one}, {b.text} has {other}; they can't be asked for the same samples")
    if data is not None and data.shape != a.source.shape:
        raise BadInput(f"{a.text} makes samples of shape {a.source.shape}, data {data.name} has {data.shape}")
    if kind in TRAINED and data is None:
        raise BadInput(f"kind {kind!r} trains; give data to train on")


def read_reference(asked: Asked, features: Features | None) -> quality.Reference:
    """The data's training part; without data A's own samples from other noise, as far as time allows."""
    if asked.a.source.slim and features is None:
        raise BadInput(
            f"{asked.a.text} has no weights to make features with; name a model folder first, or bring features"
        )
    network = asked.a.source.build()  # features are of A's own torch network, whatever engine A runs on
    features = features or network_features(network)
    if asked.data is not None:
        return references.of_data(network, asked.data, features)
    target = asked.target("baseline")
    made: list[torch.Tensor] = []
    for case in asked.workload(REFERENCE_IMAGES // quality.MIN_PAIRS, quality.MIN_PAIRS, Purpose.REFERENCE).cases:
        if made and asked.over(REFERENCE_END):
            break
        made.append(target.sample(case))
    return quality.reference(network, torch.cat(made), origin="A's own samples from other noise", features=features)


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


def judge(
    asked: Asked, main: Comparison, reference: quality.Reference, conditions: Sequence[Condition]
) -> quality.Quality:
    """Quality by the samples of the rounds, and by more pairs while these are too few to tell."""
    limits = [condition.value for condition in conditions if condition.figure == "quality"]
    return enough.judge(
        reference,
        reference.view(torch.cat(main.samples_a)),
        reference.view(torch.cat(main.samples_b)),
        lambda: (asked.target("baseline"), asked.target("candidate")),
        lambda cases: asked.workload(cases, min(asked.images, FEWEST_MORE), Purpose.PAIRS),
        budget=next(iter(limits), quality.BUDGET),
        wanted=min([quality.DETECTABLE, *(limit for limit in limits if limit > 0)]),
        stop=lambda: asked.over(PAIRS_END),
        say=lambda detail: asked.say("quality", detail),
    )


def curve_row(size: int, comparison: Comparison) -> dict[str, Any]:
    """Samples per second of both at one batch size, and the speed-up with its interval."""
    per_second = {
        name: None if comparison.interval is None else 1.0 / comparison.seconds_per_image(plan)
        for name, plan in (("a", "baseline"), ("b", "candidate"))
    }
    return {"images_per_case": size, "images_per_second": per_second, "speedup": speedup(comparison)}


def side(named: Subject, comparison: Comparison, name: str, peak: int | None, asked: Asked) -> dict[str, Any]:
    """A or B in plain values; what a case's seconds are depends on the kind."""
    each, images = comparison.seconds_per_image(name), asked.timed_images(asked.images)
    build_seconds = comparison.build_seconds_a if name == "baseline" else comparison.build_seconds_b
    counted: dict[str, Any] = {"seconds": each * images, "seconds_per_image": each, "images_per_second": 1.0 / each}
    if asked.kind == "epoch":
        counted["steps"] = images // asked.images
    return {
        "subject": named.text,
        "source": named.source.name,
        "weight_hash": named.source.weight_hash,
        "plan": named.plan.to_list(),
        "plan_hash": named.plan.hash,
        "label": named.plan.label_on(named.source.sampler_label),
        **counted,
        "build_seconds": asked.built[name][1] if name in asked.built else build_seconds,
        "warmup_seconds": comparison.warmup_seconds_a if name == "baseline" else comparison.warmup_seconds_b,
        "peak_bytes": peak,
    }


ONCE = "import sys; from hasten.story.compare import once; once(*sys.argv[1:])"


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
