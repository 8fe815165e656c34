"""How far samples are from the data, how far they moved from the baseline's, and what a run could have seen.

**Distance.**  With ``k(x, y) = -|x - y|`` the energy distance of generated P to reference R is (Székely and Rizzo 2013,
doi:10.1016/j.jspi.2013.03.018, eq. 2.5; it is the squared MMD of that kernel, Sejdinovic et al. 2013, arXiv:1207.6076)

    D(P) = E k(p, p') + E k(r, r') - 2 E k(p, r)  >= 0,  0 only when P = R

estimated by U-statistics (each mean leaves a sample's pair with itself out), so that its value does not depend on how
many samples there are.  Like FID and KID (Bińkowski et al. 2018, arXiv:1801.01401) it is a squared distance.

**Loss.**  ``loss = (D_c - D_b) / D_b``.  Baseline and candidate start from the same noise, so most of what their
distances vary by cancels.  The covariance of ``(D_b, D_c)`` is the jackknife's over pairs plus the jackknife's over the
reference (Arvesen 1969, doi:10.1214/aoms/1177697287); the interval of the ratio is Fieller's (1954): all ``q`` for which
``D_c - D_b - q D_b`` is not significant.  Each end holds with 95 %, so both with 90 %; a loss is seen when the lower
end is above 0, a one-sided test at 5 %.

**Detectable.**  ``(z_0.95 + z_0.80) * se(D_c - D_b) / D_b``: the loss that this test sees in 80 % of such runs.

**Second opinion.**  The same statistic on the samples themselves, cut into frequency bands by average pooling (Burt and
Adelson 1983).  The sliced energy distance over all directions is the energy distance times a constant, so that no
projection needs to be drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hasten.errors import BadInput
from hasten.model.target import Target

Array = NDArray[np.floating[Any]]

FEATURE_S = 0.1
FEATURE_SEED = 20_001
FEATURE_BATCH = 64
REFERENCE_SAMPLES = 1024
CONFIDENCE = 0.95
POWER = 0.80
DETECTABLE = 0.05
BUDGET = 0.02
MIN_PAIRS = 16
IDENTICAL_DB = 150.0  # what float32 can tell apart on samples of order 1
Z_CONFIDENCE = NormalDist().inv_cdf(CONFIDENCE)
Z_POWER = NormalDist().inv_cdf(POWER)

NO_LOSS = "no measurable loss"
WITHIN = "within budget"
LOSS = "measurable loss"
TOO_FEW = "too few samples to tell"


@dataclass(frozen=True)
class Features:
    """A fixed map from samples (n, *shape) float32 on the host to vectors (n, d), and what a report calls it."""

    name: str
    extract: Callable[[torch.Tensor], NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class View:
    """What the distances see of ``samples`` (n, *shape): a matrix (n, d_k) a space, the features' first."""

    samples: torch.Tensor
    spaces: tuple[Array, ...]

    def __len__(self) -> int:
        return len(self.samples)


@dataclass(frozen=True, eq=False)
class Reference:
    """What samples are compared with, computed once.

    ``origin`` says what it is made of; ``span`` is the range of values that drift is relative to; ``within`` holds the
    distances among the reference itself, a matrix (m, m) a space.
    """

    origin: str
    features: Features
    center: Array
    scale: Array
    own: View
    within: tuple[Array, ...]
    span: float

    def view(self, samples: torch.Tensor) -> View:
        """What the distances need of ``samples`` (n, *shape); make it once for the baseline, not once a candidate."""
        samples = samples.float().cpu()
        if samples.shape[1:] != self.own.samples.shape[1:]:
            raise BadInput(
                f"samples of shape {tuple(samples.shape[1:])}: the reference's is {tuple(self.own.samples.shape[1:])}"
            )
        if not torch.isfinite(samples).all():
            ...
        return View(samples, ((self.features.extract(samples) - self.center) / self.scale, *bands(samples)))
