"""What a command does beyond one call: names to values, samples to files.  Imported when a command runs."""

from __future__ import annotations

import itertools
import json
import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hasten import console, guard, subject
from hasten.data import loader
from hasten.data.array import Data
from hasten.errors import BadInput, HastenError
from hasten.files import replacing, write_text
from hasten.gate import Condition
from hasten.measure.features import bring
from hasten.model import source as sources
from hasten.model.grid import write_grid
from hasten.model.source import Source
from hasten.model.target import Target
from hasten.model.workload import Case, draw
from hasten.report import profile_page
from hasten.story import compare as comparing
from hasten.story import optimize as story
from hasten.story import profile as profiling
from hasten.story.stages.run import Progress


def optimize(
    source: str,
    data: str | None,
    out: Path,
    budgets: dict[str, float],
    goal: str,
    seconds: float,
    batch: int | None,
    seed: int,
    resume: bool,
    guidance: float,
    progress: Progress,
    features: str | None,
    device: str,
    students: tuple[str, ...] = (),
    steps: int = 50,
) -> dict[str, Any]:
    """Load and optimise."""
    loaded = sources.load(source, guidance=guidance, device=device, steps=steps)
    brought = None if features is None else bring(features)
    return story.optimize(
        loaded,
        data_for(loaded, data),
        out=out,
        budget=budgets["quality"],
        goal=goal,
        memory_bytes=budgets.get("memory"),
        size_bytes=budgets.get("size"),
        seconds=seconds,
        images_per_case=batch,
        seed=seed,
        resume=resume,
        progress=progress,
        features=brought,
        students=students,
    )


def compare(
    a: str,
    b: str,
    data: str | None,
    kind: str,
    rounds: int,
    batch: int,
    batches: list[int],
    conditions: tuple[Condition, ...],
    features: str | None,
    seconds: float,
    seed: int,
    device: str,
    out: Path | None,
    progress: Progress,
) -> dict[str, Any]:
    """Load the data, compare, write the result."""
    brought = None if features is None else bring(features)
    first, second = (subject.read(text, device=device) for text in (a, b))
    with nullcontext() if out is None else guard.claimed(out):
        result = comparing.compare(
            first,
            second,
            data=data_for(first.source, data),
            kind=kind,
            rounds=rounds,
            images=batch,
            batches=batches,
            conditions=conditions,
            features=brought,
            seconds=seconds,
            seed=seed,
            device=device,
            progress=progress,
        )
        if out is not None:
            write_text(out, json.dumps(result, indent=1) + "\n")
    return result


def profile(
    command: str,
    source: str,
    what: str,
    data: str | None,
    batch: int,
    train: bool,
    device: str,
    out: Path | None,
    seed: int,
    progress: Progress,
) -> dict[str, Any]:
    """Load the data, profile, write the page."""
    named = subject.read(source, device=device)
    result = profiling.profile(
        named,
        what=what,
        data=data_for(named.source, data),
        images=batch,
        train=train,
        device=device,
        out=out,
        seed=seed,
        command=command,
        progress=progress,
    )
    if out is not None:
        profile_page.write(out)
    return result


def data_for(source: Source, name: str | None) -> Data | None:
    """The data of that name at the size of the model's pictures."""
    if name is None:
        return None
    if len(source.shape) != 3:
        raise BadInput(f"{source.name} makes samples of shape {source.shape}; --data takes pictures only")
    return loader.by_name(name, (source.shape[1], source.shape[2]), channels=source.shape[0], skip_bad=True)


def sample(
    model: str,
    count: int,
    out: Path,
    label: int | None,
    batch: int,
    guidance: float,
    steps: int,
    device: str | None,
    seed: int,
    progress: Progress,
) -> None:
    """Sample ``count`` times in batches and write a grid (.png) or the array (.npy).

    Raises HastenError, and writes nothing, when samples are NaN or Inf.
    """
    named = subject.read(model, guidance=guidance, device=device, steps=steps)
    source = named.source
    if out.suffix == ".png" and (len(source.shape) != 3 or source.shape[0] not in (1, 3)):
        raise BadInput(f"--out {out}: samples of shape {source.shape} are no pictures; write to an .npy file")
    labels = source.labels
    if label is not None:
        if labels is None or label not in labels:
            raise BadInput(f"--label {label}: {source.name} has {'no labels' if not labels else f'0 to {max(labels)}'}")
        labels = [label]
    guard.check_room(out.parent, count * math.prod(source.shape) * (1 if out.suffix == ".png" else 4), "the samples")
    with guard.claimed(out):
        samples = _samples(model, named.build(), labels, count, batch, seed, progress)
        if out.suffix == ".png":
            write_grid(samples, out)
        else:
            with replacing(out) as temporary, temporary.open("wb") as file:
                np.save(file, samples.numpy())


def _samples(
    model: str, target: Target, labels: list[int] | None, count: int, batch: int, seed: int, progress: Progress
) -> torch.Tensor:
    """The samples (count, *shape); evaluations of the network are counted in ``progress``."""
    batches = -(-count // batch)
    tell, each, done = console.counted(progress, "sample"), target.table.evaluations, itertools.count()
    network = target.network

    def counted(x: torch.Tensor, time: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        evaluation = next(done)
        tell(
            f"evaluations, for {min(evaluation // each * batch, count)} of {count} samples", evaluation, batches * each
        )
        return network(x, time, labels)

    target.network = counted
    made: list[torch.Tensor] = []
    for case in draw(target.facts.shape, batches, batch, seed).cases:
        first = case.index * batch
        chosen = None if labels is None else torch.tensor([labels[(first + i) % len(labels)] for i in range(batch)])
        made.append(target.sample(Case(case.index, case.seed, case.noise, chosen)).cpu())
        bad = int((~made[-1].isfinite()).flatten(1).any(1).sum())
        if bad:
            raise HastenError(
                f"{model}: {bad} of {batch} samples hold NaN or Inf; nothing is written; lower --guidance, or use "
                "weights that are not broken"
            )
    return torch.cat(made)[:count]
