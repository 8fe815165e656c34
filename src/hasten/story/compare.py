"""Is B faster than A, by how much, and does it still make the same pictures?

A and B are what :mod:`hasten.subject` reads.  Both answer the same noise in the same rounds; peak memory comes from a
process of its own for each; quality needs samples, so only the kind "sample" has it.  The number of pairs that quality
is judged by is chosen from how much the distances vary, never from which way they point.

Kinds: ``sample`` (whole samples), ``step`` (one evaluation of the network), ``train-step`` (forward, backward, AdamW),
``epoch`` (all the data once).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from hasten import gate, history, subject
from hasten.data.array import Data
from hasten.environment import environment
from hasten.errors import BadInput, HastenError
from hasten.gate import Condition
from hasten.measure import quality
from hasten.measure.clock import Clock, Deadline
from hasten.measure.features import Features, network_features
from hasten.measure.pair import Comparison
from hasten.measure.stats import FEWEST_ROUNDS
from hasten.model.source import Source
from hasten.result import as_rows, speedup
from hasten.seeds import Purpose
from hasten.story.stages import enough
from hasten.story.stages import reference as references
from hasten.story.stages.run import Progress
from hasten.story.stages.saving import side_of
from hasten.story.stages.sides import TRAINED, Asked, peak_memory, sampling_seconds, timed
from hasten.subject import Subject

KINDS = ("sample", "step", "train-step", "epoch")
REFERENCE_IMAGES = 256
# Shares of the time by whose end no further round of a phase begins.
REFERENCE_END, ROUNDS_END, CURVE_END, PAIRS_END = 0.2, 0.55, 0.7, 0.9


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
    speed = speedup(main)
    few = speed["rounds"] < FEWEST_ROUNDS
    figures = gate.Figures(
        speed=(None, None, main.reason) if few else (speed["low"], speed["high"], main.reason),
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
        "speedup": speed,
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


def judge(
    asked: Asked, main: Comparison, reference: quality.Reference, conditions: Sequence[Condition]
) -> quality.Quality:
    """Quality by the samples of the rounds, and by more pairs while these are too few to tell."""
    limits = [condition.value for condition in conditions if condition.figure == "quality"]
    return enough.judge(
        reference,
        (reference.view(torch.cat(main.samples_a)), reference.view(torch.cat(main.samples_b))),
        lambda: (asked.target("baseline"), asked.target("candidate")),
        lambda cases: asked.workload(cases, asked.images, Purpose.PAIRS),
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
