"""Held-out figures of a run: the denoising loss by noise level, and how far samples are from held-out data.

The loss is the mean square error of the network's own output, unweighted, on the same held-out samples and noise each
time.  The distance is that of :mod:`hasten.measure.distance` in the samples' frequency bands
(:mod:`hasten.measure.features`): it needs no network, so that it means the same all through a run and in every other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from hasten.data.array import Data
from hasten.diffusion import solvers
from hasten.measure import distance
from hasten.measure.features import bands
from hasten.model.source import Source
from hasten.model.target import Target, TorchNetwork
from hasten.model.workload import draw
from hasten.seeds import Purpose, seed_of
from hasten.train.losses.objective import Ask, Objective

LEVELS = (0.1, 0.3, 1.0, 3.0, 10.0)  # s = sigma / alpha
BATCH = 64
SAMPLER, GRID, EVALUATIONS = "unipc", "logsnr", 10


@dataclass(frozen=True)
class Validation:
    """``losses`` by s; ``loss``, their mean; ``distance`` of samples to held-out data, 0 for the data themselves, and
    None where too few are held out to say."""

    losses: dict[float, float]
    loss: float
    distance: float | None


class Validator:
    """Held-out samples of ``data``, ``count`` at most, with one noise, drawn once."""

    def __init__(self, source: Source, data: Data, count: int, seed: int) -> None:
        clean, labels = data.part(held_out=True, most=count, seed=seed)
        self.source, self.data, self.seed = source, data, seed_of(Purpose.VALIDATION, seed)
        self.clean, self.labels = torch.from_numpy(clean), torch.from_numpy(labels)
        self.noise = torch.randn(self.clean.shape, generator=torch.Generator().manual_seed(self.seed))
        self.space = bands(self.clean)

    def validate(self, target: Target, objective: Objective, *, sample: bool = True) -> Validation:
        """The figures of ``target``, whose table is replaced.  ``sample``: whether the distance is wanted too."""
        assert isinstance(target.network, TorchNetwork)
        losses = {s: self._loss(target.network, objective, s) for s in LEVELS}
        mean = float(np.mean(list(losses.values())))
        return Validation(losses, mean, self._distance(target) if sample and len(self.clean) >= 16 else None)

    @torch.inference_mode()
    def _loss(self, ask: Ask, objective: Objective, s: float) -> float:
        t = objective.schedule.t(np.full(BATCH, s))
        errors = []
        labels = self.labels if self.source.num_labels is not None else None
        for first in range(0, len(self.clean), BATCH):
            part = slice(first, first + BATCH)
            clean = self.clean[part].to(self.source.device)
            chosen = None if labels is None else labels[part].to(self.source.device)
            examples = objective.at(clean, chosen, t[: len(clean)], self.noise[part])
            errors.append(examples.errors(ask(examples.x, examples.time, examples.labels)) / examples.weights)
        return torch.cat(errors).mean().item()

    def _distance(self, target: Target) -> float:
        target.table = solvers.sampler(target.schedule, SAMPLER, GRID, EVALUATIONS)
        labels = None if self.source.num_labels is None else self.labels.tolist()
        made = [
            target.sample(case)
            for case in draw(self.source.shape, -(-len(self.clean) // BATCH), BATCH, self.seed, labels).cases
        ]
        return spread(bands(torch.cat(made)[: len(self.clean)]), self.space)


def spread(samples: tuple[NDArray[np.floating], ...], reference: tuple[NDArray[np.floating], ...]) -> float:
    """The symmetric nearest-neighbour distance of ``samples`` to ``reference``, as a share of the mean distance within
    the reference, averaged over the bands."""
    found = []
    for ours, theirs in zip(samples, reference, strict=True):
        centre = theirs.mean(0)
        within = distance.distances(theirs - centre, theirs - centre).mean()
        if within > 0:
            found.append(distance.nearest(distance.distances(ours - centre, theirs - centre))[0] / within)
    return float(np.mean(found))
