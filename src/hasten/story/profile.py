"""Where the time and the memory of a sample, or of a training step, go.

Parts: ``ops`` (one evaluation of the network by module, by kind and by operator, against the machine's own peaks),
``steps`` (the sampling loop, or the parts of a training step), ``python`` (by function and by line), ``memory`` (over
time, and what held the peak).  Each says what its own profiler costs.  What takes a whole sample is cut to the first
evaluations of the same sampler where the whole would take long, and says so.
"""

from __future__ import annotations

import json
import time
from contextlib import nullcontext
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hasten import guard, history, subject
from hasten.data.array import Data
from hasten.diffusion.table import Table
from hasten.environment import environment, fingerprint
from hasten.errors import BadInput
from hasten.files import write_text
from hasten.measure import python, roofline
from hasten.measure.clock import Clock
from hasten.measure.roofline import Peaks
from hasten.model.source import Source
from hasten.model.target import Target
from hasten.model.workload import draw
from hasten.report import terminal
from hasten.story.stages.parts import Asked, by_damage, by_memory, by_operator, by_python, by_step
from hasten.story.stages.run import Progress
from hasten.story.stages.saving import side_of
from hasten.subject import Subject
from hasten.train.step import TrainStep

WHATS = ("python", "ops", "memory", "steps", "damage", "all")
SAMPLE_SECONDS, FEWEST_EVALUATIONS = 2.5, 3


def profile(
    source: str | Path | Source | Subject,
    *,
    what: str = "all",
    data: Data | None = None,
    images: int = 16,
    train: bool = False,
    device: str = "cpu",
    out: Path | str | None = None,
    seed: int = 0,
    command: str = "hasten.profile(...)",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Profile ``source``, or what it names (:mod:`hasten.subject`), with ``images`` at once.

    ``what``: "ops", "steps", "python", "memory", or "all" of these; or "damage", what INT8 does to the output by layer
    and noise level.  With ``train`` a training step on ``data`` takes the place
    of a sample.  ``out`` gets ``profile.json`` and, with "ops", ``trace.json``.  Returns plain values, ready for JSON;
    a part that was not asked for, or that this engine can't answer, is None, and ``notes`` say why.

    Raises BadInput for an ``out`` that holds a profile and for what can't be trained, MissingExtra for lines of Python
    without line_profiler.
    """
    began = time.perf_counter()
    if what not in WHATS:
        raise BadInput(f"what {what!r} is not known; known: {', '.join(WHATS)}")
    wanted = {"ops", "steps", "python", "memory"} if what == "all" else {what}
    if what == "python":
        python.line_profiler()
    if train and data is None:
        raise BadInput("a training step needs data to train on; give some")
    out = None if out is None else Path(out)
    if out is not None and (out / "profile.json").exists():
        raise BadInput(f"{out} holds a profile; choose another folder")
    parts = {"steps": by_step, "ops": by_operator, "python": by_python, "memory": by_memory, "damage": by_damage}
    chosen = [part for part in parts if part in wanted]
    counted = terminal.counted(progress or (lambda *_: None), "profile")

    def say(doing: str) -> None:
        counted(doing, doings.index(doing), len(doings))

    doings = ["the model", "this machine's peaks", "first evaluations", *chosen]
    named = subject.read(source, device=device)
    if data is not None and data.shape != named.source.shape:
        raise BadInput(
            f"{named.source.name} makes samples of shape {named.source.shape}, data {data.name} has {data.shape}"
        )
    with guard.holding(out) if out is not None else nullcontext():
        say("the model")
        target = named.build()
        step = TrainStep(target, data) if train and data is not None else None
        say("this machine's peaks")
        env = environment()
        peaks = roofline.peaks(target.facts.device, fingerprint(env))
        say("first evaluations")
        asked = prepare(named, target, step, images, seed, peaks, out)

        result: dict[str, Any] = {
            "command": command,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "subject": named.text,
            "source": {"name": named.source.name, "weight_hash": named.source.weight_hash, "shape": named.source.shape},
            "parameters": target.facts.parameters,
            "label": named.label,
            "train": train,
            "device": target.facts.device,
            "images": images,
            "evaluations": asked.evaluations,
            "peaks": asdict(peaks),
            "environment": env,
            "headline": None,
            "modules": None,
            "engine": None,
            "ops": None,
            "steps": None,
            "phases": None,
            "python": None,
            "memory": None,
            "damage": None,
        }
        for part in chosen:
            say(part)
            result |= parts[part](asked)
        result |= {"notes": asked.notes, "seconds": time.perf_counter() - began}
        remember(result, named)
        if out is not None:
            write_text(out / "profile.json", json.dumps(result, indent=1) + "\n")
    return result


def remember(result: dict[str, Any], named: Subject) -> None:
    """Add the profile to the history; a note where that can't be written to."""
    figures: dict[str, history.Figure] = {}
    if result["modules"] is not None:
        figures["evaluation_seconds"] = history.Figure(result["modules"]["whole_seconds"], unit="s")
    if result["steps"] is not None:
        figures["outside_seconds"] = history.Figure(result["steps"]["outside_seconds"], unit="s")
    if result["memory"] is not None:
        figures["peak_bytes"] = history.Figure(float(result["memory"]["peak_bytes"]), unit="bytes")
    sides = {"a": side_of(named.source, named.plan)}
    settings = {"images": result["images"], "train": result["train"], "device": result["device"]}
    warning = history.record("profile", named.text, figures, sides=sides, settings=settings, env=result["environment"])
    result["notes"] += [warning] if warning else []


def prepare(
    named: Subject, target: Target, step: TrainStep | None, images: int, seed: int, peaks: Peaks, out: Path | None
) -> Asked:
    """Time the first evaluation and the second; cut the sampler to as many as take about SAMPLE_SECONDS."""
    case = draw(named.source.shape, 1, images, seed, named.source.labels).cases[0]
    clock = Clock(target.facts.device)
    asked = Asked(target, step, case, 1, 0.0, 0.0, peaks, clock, out, [])
    cold, warm = (clock.time(asked.evaluate)[0] for _ in range(2))
    asked = replace(asked, cold_seconds=cold, warm_seconds=warm)
    if step is not None:
        return asked
    affordable = max(int(SAMPLE_SECONDS / warm), FEWEST_EVALUATIONS)
    if affordable < target.table.evaluations:
        whole = target.table.evaluations
        asked.notes.append(f"steps, Python and memory are of the sampler's first {affordable} of {whole} evaluations")
        target.table = beginning(target.table, affordable)
    return replace(asked, evaluations=target.table.evaluations)


def beginning(table: Table, evaluations: int) -> Table:
    """The first rows of ``table``: its result is what the next evaluation would have been given."""
    n = evaluations
    return Table(
        table.name, table.times[:n], table.state[: n + 1], table.predictions[: n + 1, :n], table.fresh[: n + 1]
    )
