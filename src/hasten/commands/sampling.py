"""Samples to files, all of them finite or none.  Imported when the command runs: it needs torch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from hasten import guard
from hasten.errors import BadInput, HastenError
from hasten.files import replacing
from hasten.model.grid import write_grid
from hasten.model.workload import Case, draw
from hasten.subject import Subject

Tell = Callable[[str, int, int], None]


def sample(named: Subject, count: int, out: Path, label: int | None, batch: int, seed: int, tell: Tell) -> None:
    """Sample ``count`` times in batches and write a grid (.png) or the array (.npy).

    Raises HastenError, and writes nothing, when samples are NaN or Inf.
    """
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
        samples = _samples(named, labels, count, batch, seed, tell)
        if out.suffix == ".png":
            write_grid(samples, out)
        else:
            with replacing(out) as temporary, temporary.open("wb") as file:
                np.save(file, samples.numpy())


def _samples(named: Subject, labels: list[int] | None, count: int, batch: int, seed: int, tell: Tell) -> torch.Tensor:
    """The samples (count, *shape); evaluations of the network are told."""
    batches = -(-count // batch)
    target, done = named.build(), itertools.count()
    each, network = target.table.evaluations, target.network

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
                f"{named.text}: {bad} of {batch} samples hold NaN or Inf; nothing is written; lower --guidance, or use "
                "weights that are not broken"
            )
    return torch.cat(made)[:count]
