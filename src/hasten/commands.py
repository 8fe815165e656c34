"""What a command does beyond one call: names to values, samples to files.  Imported when a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from hasten import artifact
from hasten.data import loader
from hasten.errors import BadInput
from hasten.files import replacing
from hasten.model import source as sources
from hasten.model.grid import write_grid
from hasten.model.workload import Case, draw
from hasten.report import page
from hasten.stages.run import Progress
from hasten.story import optimize as story


def optimize(
    command: str,
    source: str,
    data: str | None,
    out: Path,
    budget: float,
    seconds: float,
    batch: int,
    seed: int,
    resume: bool,
    guidance: float,
    progress: Progress,
) -> dict[str, Any]:
    """Load, optimise, write the report."""
    loaded = sources.load(source, guidance=guidance)
    found = None
    if data is not None:
        if len(loaded.shape) != 3:
            raise BadInput(f"{source} makes samples of shape {loaded.shape}; --data takes pictures only")
        found = loader.by_name(data, loaded.shape[-1], channels=loaded.shape[0])
    result = story.optimize(
        loaded,
        found,
        out=out,
        budget=budget,
        seconds=seconds,
        images_per_case=batch,
        seed=seed,
        resume=resume,
        command=command,
        progress=progress,
    )
    page.write(out)
    return result


def sample(
    model: Path,
    count: int,
    out: Path | None,
    label: int | None,
    batch: int,
    guidance: float,
    seed: int,
    progress: Progress,
) -> None:
    """Sample ``count`` times in batches and write a grid (.png) or the array (.npy)."""
    if out is not None and out.suffix not in (".png", ".npy"):
        raise BadInput(f"--out {out}: the name must end in .png or .npy")
    if artifact.is_artifact(model):
        target, source, _ = artifact.load(model)
    else:
        source = sources.load(model, guidance=guidance)
        target = source.build()
    labels = source.labels
    if label is not None:
        if labels is None or label not in labels:
            raise BadInput(f"--label {label}: {source.name} has {'no labels' if not labels else f'0 to {max(labels)}'}")
        labels = [label]
    made: list[torch.Tensor] = []
    for case in draw(source.shape, -(-count // batch), batch, seed).cases:
        first = case.index * batch
        chosen = None if labels is None else torch.tensor([labels[(first + i) % len(labels)] for i in range(batch)])
        progress("sample", f"{first} of {count}", 0.0)
        made.append(target.sample(Case(case.index, case.seed, case.noise, chosen)))
    samples = torch.cat(made)[:count]
    if out is None:
        return
    if out.suffix == ".png":
        if samples.dim() != 4 or samples.shape[1] not in (1, 3):
            raise BadInput(f"--out {out}: samples of shape {source.shape} are no pictures; write to an .npy file")
        write_grid(samples, out)
    else:
        with replacing(out) as temporary, temporary.open("wb") as file:
            np.save(file, samples.numpy())
