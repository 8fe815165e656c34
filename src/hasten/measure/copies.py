"""Which samples copy a training sample: a model that only remembers must not look good.

A sample is a copy when its nearest training sample is under a third as far as its fifty nearest are on average:

    |x - r_1| < 1/3 * mean_{k <= 50} |x - r_k|

(Carlini et al. 2023, arXiv:2301.13188, section 5.2, with the neighbours of the sample itself).  Distances are taken at
half resolution, so that fine noise and a slight blur hide nothing.  It is relative, so it needs no threshold for each
data set, and data that holds near-duplicates shows itself: real samples kept apart then "copy" too, and their share is
what a share of generated ones is to be held against.

A candidate copies more than its baseline when an exact one-sided sign test on the pairs of which only one is a copy
says so at 5 % (McNemar 1947, doi:10.1007/BF02295996), and by more than one sample in twenty.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

import numpy as np
import torch
from numpy.typing import NDArray

from hasten.measure import distance
from hasten.measure.distance import Array
from hasten.measure.features import halved

RATIO = 1.0 / 3.0
NEIGHBOURS = 50
MOST_TRAINING = 20_000
SIGNIFICANCE, SEEN_SHARE = 0.05, 0.05


@dataclass(frozen=True, eq=False)
class Training:
    """Training samples at half resolution, centred: ``points`` (m, d) and their ``center`` (d,)."""

    points: Array
    center: Array

    def copied(self, samples: torch.Tensor) -> NDArray[np.bool_]:
        """Which of ``samples`` (n, *shape) are copies, (n,)."""
        near = []
        for batch in torch.split(samples, 256):
            to_all = distance.distances(_flat(batch) - self.center, self.points)
            nearest = np.partition(to_all, NEIGHBOURS - 1, axis=1)[:, :NEIGHBOURS]
            near.append(nearest.min(1) < RATIO * nearest.mean(1))
        return np.concatenate(near)


@dataclass(frozen=True)
class Copies:
    """Shares of copies among paired samples; ``real``: among real samples kept apart; ``more``: see the module."""

    baseline: float
    candidate: float
    real: float | None
    more: bool


def training(samples: torch.Tensor) -> Training | None:
    """What samples are looked up in; None when there are too few (m, *shape) to have fifty neighbours among many."""
    if len(samples) < 2 * NEIGHBOURS:
        return None
    points = _flat(samples)
    center = points.mean(0)
    return Training(points - center, center)


def compare(baseline: NDArray[np.bool_], candidate: NDArray[np.bool_], real: NDArray[np.bool_] | None) -> Copies:
    """What paired samples (n,) say: ``True`` is a copy."""
    more, fewer = int((candidate & ~baseline).sum()), int((baseline & ~candidate).sum())
    shares = float(baseline.mean()), float(candidate.mean())
    significant = _sign_test(more, more + fewer) <= SIGNIFICANCE
    return Copies(
        *shares, None if real is None else float(real.mean()), significant and shares[1] > shares[0] + SEEN_SHARE
    )


def _sign_test(heads: int, n: int) -> float:
    """How likely ``heads`` or more of ``n`` fair coins are."""
    return float(sum(comb(n, k) for k in range(heads, n + 1)) / 2**n)


def _flat(samples: torch.Tensor) -> Array:
    flat: Array = halved(samples).flatten(1).double().numpy()
    return flat
