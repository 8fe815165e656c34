"""What is sampled: cases whose noise is drawn once, so that every candidate answers the same questions."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import ArrayLike

from hasten.seeds import Purpose, seed_of


@dataclass(frozen=True, eq=False)
class Case:
    """One batch: starting ``noise`` (n, *shape) float32 ~ N(0, I) and ``labels`` (n,) int64 or None."""

    index: int
    seed: int
    noise: torch.Tensor
    labels: torch.Tensor | None = None

    def to(self, device: str) -> Case:
        """The same with noise and labels on ``device``."""
        return replace(
            self, noise=self.noise.to(device), labels=None if self.labels is None else self.labels.to(device)
        )

    def fresh(self, row: int) -> torch.Tensor:
        """The noise that row ``row`` of a stochastic table adds: the same at each call."""
        rng = torch.Generator().manual_seed(seed_of(Purpose.FRESH_NOISE, self.seed, row))
        return torch.randn(self.noise.shape, generator=rng)


@dataclass(frozen=True, eq=False)
class Workload:
    """Cases of one size."""

    cases: tuple[Case, ...]

    @property
    def images_per_case(self) -> int:
        """Samples in one case."""
        return len(self.cases[0].noise)


def draw(
    shape: tuple[int, ...],
    num_cases: int,
    images_per_case: int,
    seed: int,
    labels: ArrayLike | None = None,
) -> Workload:
    """``num_cases`` cases by ``seed``; a sample's label is drawn from ``labels``, so as frequent as it is there."""
    pool = None if labels is None else np.asarray(labels, dtype=np.int64)
    cases = []
    for index in range(num_cases):
        case_seed = seed_of(Purpose.CASE, seed, index)
        rng = torch.Generator().manual_seed(case_seed)
        noise = torch.randn((images_per_case, *shape), generator=rng)
        chosen = None
        if pool is not None:
            picked = torch.randint(len(pool), (images_per_case,), generator=rng).numpy()
            chosen = torch.from_numpy(pool[picked])
        cases.append(Case(index, case_seed, noise, chosen))
    return Workload(tuple(cases))
