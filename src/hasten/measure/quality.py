"""The quality gate: drift (how far each sample moved) and distance (how far the samples are from the data).

**Drift** of paired samples is ``10 log10(span^2 / mse)`` decibel, ``span`` the range of the reference's values (2 for
pictures in [-1, 1], whose drift is then the PSNR).  The model's own converged samples are the yardstick: the baseline's
drift from them is its discretisation error.

**Distance** is the energy distance (:mod:`hasten.measure.distance`) in a feature space: the baseline network's own
middle features of the sample at a low noise level, as channel means and deviations over positions (a denoiser's
features tell samples apart as a classifier's do: Baranchuk et al. 2022, arXiv:2112.03126), standardised by the
reference.  Nothing is downloaded, any shape will do, and a person can bring other :class:`Features`.

**Second opinion**: the energy distance of the samples themselves, cut into frequency bands by average pooling (Burt and
Adelson 1983, doi:10.1109/TCOM.1983.1095851), each band with the same weight.  Averaged over all directions the sliced
energy distance is this one times a constant, so that no projection needs to be drawn.

Both distances are shares of the mean distance within the reference: 0 for the data itself.

Verdicts: "no measurable loss": no loss seen, and one of 5 % would have been (with 80 % power); "within budget": the
whole interval lies under the budget; "measurable loss": the whole interval lies above 0; else "too few samples to tell".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hasten.errors import BadInput, HastenError
from hasten.measure import distance
from hasten.measure.distance import Array, Loss
from hasten.model.target import Target

FEATURE_S = 0.1
FEATURE_SEED = 20_001
FEATURE_BATCH = 64
REFERENCE_SAMPLES = 1024
BANDS = 4
MIN_PAIRS = 16
DETECTABLE = 0.05
BUDGET = 0.02
IDENTICAL_DB = 150.0  # what float32 can tell apart near 1

NO_LOSS = "no measurable loss"
WITHIN = "within budget"
LOSS = "measurable loss"
TOO_FEW = "too few samples to tell"


@dataclass(frozen=True)
class Features:
    """A fixed map from samples (n, *shape) float32 on the host to vectors (n, d), and its name in reports."""

    name: str
    extract: Callable[[torch.Tensor], Array]


@dataclass(frozen=True, eq=False)
class View:
    """Samples (n, *shape) as the distances see them: standardised features (n, d), and bands (n, d_k)."""

    samples: torch.Tensor
    features: Array
    bands: tuple[Array, ...]

    def __len__(self) -> int:
        return len(self.samples)


@dataclass(frozen=True, eq=False)
class Reference:
    """What samples are compared with, computed once by :func:`reference`.

    ``origin`` says what it is made of; ``span`` is the range of its values; ``means`` and ``scales`` standardise the
    features and centre the bands; ``units`` are the mean distances within it, of the features and of each band.
    """

    origin: str
    features: Features
    span: float
    means: tuple[Array, ...]
    scale: Array
    units: tuple[float, ...]
    own: View

    def view(self, samples: torch.Tensor) -> View:
        """``samples`` (n, *shape) as the distances see them: made once for the baseline, then compared with many.

        Raises BadInput for another shape, HastenError for numbers that are not finite.
        """
        samples = _checked(samples, tuple(self.own.samples.shape[1:]), "samples")
        features = (self.features.extract(samples) - self.means[0]) / self.scale
        parts = zip(bands(samples), self.means[1:], strict=True)
        return View(samples, features, tuple(band - mean for band, mean in parts))


@dataclass(frozen=True)
class SecondOpinion:
    """The loss by the samples themselves; its interval as in :class:`Quality`."""

    name: str
    baseline: float
    candidate: float
    loss: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Quality:
    """What a comparison found; the fields of ``result.json``.

    Losses are relative (0.01 is 1 % worse, negative is better) and None where the baseline can't be told from the
    reference; ``loss_low`` and ``loss_high`` hold with 95 % each.  ``noise_floor``: what other seeds change the
    baseline's distance by (95 %).  ``reason`` says why the verdict is what it is.
    """

    verdict: str
    reason: str
    baseline_distance: float
    candidate_distance: float
    noise_floor: float
    loss: float | None
    loss_low: float | None
    loss_high: float | None
    detectable: float | None
    drift_db: float
    drift_db_converged: dict[str, float] | None
    second_opinion: SecondOpinion
    pairs: int
    reference: int
    origin: str
    features: str
    budget: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def reference(
    target: Target,
    samples: torch.Tensor | NDArray[np.float32],
    *,
    origin: str = "data",
    features: Features | None = None,
    count: int = REFERENCE_SAMPLES,
    seed: int = 0,
) -> Reference:
    """A reference of up to ``count`` of ``samples`` (n, *shape), drawn by ``seed``; features of the baseline ``target``.

    Samples are what a :class:`Target` makes: float, pictures in [-1, 1].  Without data pass converged samples of the
    baseline from other noise and say so in ``origin``.  Raises BadInput for another shape or fewer than 16 samples.
    """
    everything = torch.as_tensor(np.asarray(samples))
    chosen = np.sort(np.random.default_rng(seed).permutation(len(everything))[:count])
    drawn = _checked(everything[torch.from_numpy(chosen)], target.facts.shape, origin)
    if len(drawn) < MIN_PAIRS:
        raise BadInput(f"{origin}: {len(drawn)} samples are too few for a reference; bring {MIN_PAIRS} at least")
    features = features or network_features(target)
    raw = (features.extract(drawn), *bands(drawn))
    means = tuple(part.mean(0) for part in raw)
    deviation = raw[0].std(0)
    # A feature that hardly varies in the reference must not be blown up.
    scale = np.maximum(deviation, max(1e-3 * float(deviation.max()), 1e-12))
    low, high = np.quantile(drawn.numpy(), (0.001, 0.999))
    own = View(drawn, (raw[0] - means[0]) / scale, tuple(p - m for p, m in zip(raw[1:], means[1:], strict=True)))
    m = len(drawn)
    units = [float(distance.distances(part, part).sum() / (m * (m - 1))) for part in (own.features, *own.bands)]
    # Nor must a band that is next to empty in the reference.
    floor = max(0.01 * max(units[1:]), 1e-12)
    units = [max(units[0], 1e-12), *(max(unit, floor) for unit in units[1:])]
    return Reference(origin, features, max(float(high - low), 1e-12), means, scale, tuple(units), own)


def compare(
    reference: Reference,
    baseline: View,
    candidate: View,
    *,
    converged: torch.Tensor | None = None,
    budget: float = BUDGET,
) -> Quality:
    """How a candidate's samples compare with the baseline's, row by row from the same noise.

    ``converged`` (n, *shape): the baseline network's samples from that noise with many more steps.  ``budget``: the
    relative loss that is still accepted, 0.02 for 2 %.  Raises BadInput when the numbers of samples differ.
    """
    if len(baseline) != len(candidate) or (converged is not None and len(converged) != len(baseline)):
        raise BadInput(f"{len(baseline)} samples of the baseline, {len(candidate)} of the candidate; pairs are needed")
    if len(baseline) < MIN_PAIRS:
        raise BadInput(f"{len(baseline)} pairs are too few to measure quality; sample {MIN_PAIRS} at least")
    main, second = _loss(reference, baseline, candidate, 0), _loss(reference, baseline, candidate, 1)
    ...
