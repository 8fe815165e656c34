"""The quality gate: drift (how far each sample moved) and distance (how far the samples are from the data).

**Drift** of paired samples is ``10 log10(span^2 / mse)`` decibel, ``span`` the range of the reference's values (2 for
pictures in [-1, 1], whose drift is then the PSNR).  The model's own converged samples are the yardstick: the baseline's
drift from them is its discretisation error.

**Distance** is the symmetric nearest-neighbour distance (:mod:`hasten.measure.distance`) in a feature space: the
baseline network's own middle features of the sample at a low noise level, as channel means and deviations over
positions (a denoiser's features tell samples apart as a classifier's do: Baranchuk et al. 2022, arXiv:2112.03126),
standardised by the reference.  Nothing is downloaded, any shape will do, and other :class:`Features` can be brought.

**Second opinion**: the same distance of the samples themselves, cut into frequency bands by average pooling (Burt and
Adelson 1983, doi:10.1109/TCOM.1983.1095851), each band with the same weight.  It sees fine noise, to which features are
blind, and is blind to blur, which features see; so it can veto a verdict and can't make one.

Both distances are shares of the mean distance within the reference.  A perfect model would not be at 0 but where real
samples kept apart are: ``real_distance``.

**Copies** (:mod:`hasten.measure.copies`): what share of the samples are training samples again.

Verdicts: "no measurable loss": no loss seen, and one of 5 % would have been (with 80 % power); "within budget": the
whole interval lies under the budget; "measurable loss": the whole interval lies above 0, or the second opinion's above
the budget, or the candidate copies more training samples than the baseline; else "too few samples to tell".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hasten.errors import BadInput, HastenError
from hasten.measure import copies, distance
from hasten.measure.copies import Copies, Training
from hasten.measure.distance import Array, Loss
from hasten.measure.features import Features, bands, network_features
from hasten.model.target import Target

REFERENCE_SAMPLES = 1024
MIN_PAIRS = 16
DETECTABLE = 0.05
BUDGET = 0.02
IDENTICAL_DB = 150.0  # what float32 can tell apart near 1
TINY = 1e-12

NO_LOSS = "no measurable loss"
WITHIN = "within budget"
LOSS = "measurable loss"
TOO_FEW = "too few samples to tell"
SECOND = "nearest neighbours of the samples themselves, in frequency bands"


@dataclass(frozen=True, eq=False)
class View:
    """Samples (n, *shape) as the two opinions see them: the features (n, d), and the bands (n, d_k).

    Centred and scaled by the reference, in each of them its samples lie 1 apart on average.  ``copied`` (n,): which are
    training samples again, None where no training samples are known.
    """

    samples: torch.Tensor
    features: tuple[Array]
    bands: tuple[Array, ...]
    copied: NDArray[np.bool_] | None

    def __len__(self) -> int:
        return len(self.samples)

    def first(self, n: int) -> View:
        """The view of the first ``n`` samples."""
        copied = None if self.copied is None else self.copied[:n]
        return View(self.samples[:n], (self.features[0][:n],), tuple(band[:n] for band in self.bands), copied)


@dataclass(frozen=True, eq=False)
class Reference:
    """What samples are compared with, computed once by :func:`reference`.

    ``origin`` says what it is made of; ``span`` is the range of its values; ``centers`` and ``scales`` are those of the
    features and of each band; ``own`` is its own view; ``real`` that of real samples kept apart, where there are any.
    """

    origin: str
    features: Features
    span: float
    centers: tuple[Array, ...]
    scales: tuple[Array, ...]
    own: View
    real: View | None
    training: Training | None

    def view(self, samples: torch.Tensor) -> View:
        """``samples`` (n, *shape): made once for the baseline, then compared with many candidates.

        Raises BadInput for another shape, HastenError for numbers that are not finite.
        """
        samples = _checked(samples, tuple(self.own.samples.shape[1:]), "samples")
        seen = _view(samples, (self.features.extract(samples), *bands(samples)), self.centers, self.scales)
        return seen if self.training is None else replace(seen, copied=self.training.copied(samples))


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
    baseline's distance by (95 %); ``real_distance``: that of as many real samples kept
    apart.  ``reason`` says why the verdict is what it is.
    """

    verdict: str
    reason: str
    baseline_distance: float
    candidate_distance: float
    real_distance: float | None
    noise_floor: float
    loss: float | None
    loss_low: float | None
    loss_high: float | None
    detectable: float | None
    drift_db: float
    drift_db_converged: dict[str, float] | None
    second_opinion: SecondOpinion
    copies: Copies | None
    pairs: int
    reference: int
    origin: str
    features: str
    budget: float

    @property
    def losses(self) -> tuple[tuple[float, float] | None, ...]:
        """The intervals of the relative losses by both opinions, None where one is not defined."""
        opinions = ((self.loss_low, self.loss_high), (self.second_opinion.low, self.second_opinion.high))
        return tuple(None if low is None or high is None else (low, high) for low, high in opinions)

    @property
    def lost(self) -> float | None:
        """The larger of the losses by both opinions."""
        return None if self.loss is None else max(self.loss, self.second_opinion.loss or 0.0)

    @property
    def worst(self) -> float | None:
        """The larger of ``lost`` and of what the candidate copies more than the baseline."""
        more = 0.0 if self.copies is None else self.copies.candidate - self.copies.baseline
        return None if self.lost is None else max(self.lost, more)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def reference(
    target: Target,
    samples: torch.Tensor | NDArray[np.float32],
    *,
    origin: str = "data",
    features: Features | None = None,
    real: torch.Tensor | NDArray[np.float32] | None = None,
    count: int = REFERENCE_SAMPLES,
    seed: int = 0,
) -> Reference:
    """A reference of up to ``count`` of ``samples`` (n, *shape), drawn by ``seed``; features of baseline ``target``.

    Samples are what a :class:`Target` makes: float, pictures in [-1, 1].  Without data pass converged samples of the
    baseline from other noise and say so in ``origin``.  ``real``: samples kept apart, to show what the data's own
    distance is; ``samples`` are training data then, and copies of them are looked for.  Raises BadInput for another
    shape or fewer than 16 samples.
    """
    drawn = _checked(_draw(samples, count, seed), target.facts.shape, origin)
    if len(drawn) < MIN_PAIRS:
        raise BadInput(f"{origin}: {len(drawn)} samples are too few for a reference; bring {MIN_PAIRS} at least")
    features = features or network_features(target)
    raw = (features.extract(drawn), *bands(drawn))
    centers = tuple(space.mean(0) for space in raw)
    deviation = raw[0].std(0)
    # What hardly varies in the reference, a feature or a band, must not be blown up.
    scales = [np.maximum(deviation, max(1e-3 * float(deviation.max()), TINY)), *(np.ones(1) for _ in raw[1:])]
    units = [_mean_distance((space - c) / s) for space, c, s in zip(raw, centers, scales, strict=True)]
    least = [TINY, *(max(0.01 * max(units[1:]), TINY) for _ in raw[1:])]
    scales = [scale * max(unit, floor) for scale, unit, floor in zip(scales, units, least, strict=True)]
    own = _view(drawn, raw, centers, tuple(scales))
    low, high = np.quantile(drawn.numpy(), (0.001, 0.999))
    made = Reference(origin, features, max(float(high - low), TINY), centers, tuple(scales), own, None, None)
    if real is None or len(real) < MIN_PAIRS:
        return made
    made = replace(made, training=copies.training(_draw(samples, copies.MOST_TRAINING, seed)))
    return replace(made, real=made.view(_draw(real, count, seed)))


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
    pairs = len(baseline)
    if len(candidate) != pairs or (converged is not None and len(converged) != pairs):
        raise BadInput(f"{pairs} samples of the baseline, {len(candidate)} of the candidate; quality needs pairs")
    if pairs < MIN_PAIRS:
        raise BadInput(f"{pairs} pairs are too few to measure quality; sample {MIN_PAIRS} at least")
    main = _loss(baseline.features, candidate.features, reference.own.features)
    second = _loss(baseline.bands, candidate.bands, reference.own.bands)
    copied = None
    if baseline.copied is not None and candidate.copied is not None:
        copied = copies.compare(
            baseline.copied, candidate.copied, None if reference.real is None else reference.real.copied
        )
    verdict, reason = judge(main, second, budget, copied)
    real = None
    if reference.real is not None and len(reference.real) >= pairs:
        real = distance.nearest(_distances((reference.real.features[0][:pairs],), reference.own.features))[0]
    low, high = main.interval or (None, None)
    second_low, second_high = second.interval or (None, None)
    return Quality(
        verdict=verdict,
        reason=reason,
        baseline_distance=main.baseline,
        candidate_distance=main.candidate,
        real_distance=real,
        noise_floor=main.noise_floor,
        loss=main.relative,
        loss_low=low,
        loss_high=high,
        detectable=main.detectable,
        drift_db=drift_db(baseline.samples, candidate.samples, reference.span),
        drift_db_converged=None
        if converged is None
        else {
            "baseline": drift_db(converged, baseline.samples, reference.span),
            "candidate": drift_db(converged, candidate.samples, reference.span),
        },
        second_opinion=SecondOpinion(
            SECOND, second.baseline, second.candidate, second.relative, second_low, second_high
        ),
        copies=copied,
        pairs=pairs,
        reference=len(reference.own),
        origin=reference.origin,
        features=reference.features.name,
        budget=budget,
    )


def judge(loss: Loss, second: Loss, budget: float, copied: Copies | None = None) -> tuple[str, str]:
    """The verdict and its reason, as the module's docstring defines them."""
    if copied is not None and copied.more:
        shares = f"{copied.candidate:.0%} of the samples are copies of training samples"
        return LOSS, f"{shares}, {copied.baseline:.0%} of the baseline's"
    if loss.interval is None or loss.detectable is None:
        return TOO_FEW, "the baseline's own distance can't be told from 0, so that no share of it means anything"
    low, high = loss.interval
    if second.interval is not None and second.interval[0] > budget:
        return LOSS, f"the second opinion sees a loss of at least {second.interval[0]:.1%}"
    if low <= 0.0 and loss.detectable <= DETECTABLE:
        return NO_LOSS, f"a loss of {loss.detectable:.1%} would have been seen"
    if high <= budget:
        return WITHIN, f"the loss is at most {high:.1%}, the budget {budget:.1%}"
    if low > 0.0:
        return LOSS, f"the loss is at least {low:.1%}"
    return TOO_FEW, f"a loss under {loss.detectable:.1%} would not have been seen; {DETECTABLE:.0%} or less is needed"


def pairs_needed(quality: Quality, wanted: float = DETECTABLE) -> int | None:
    """About how many pairs in all make ``detectable`` as small as ``wanted``, a tenth to spare; None if undefined."""
    if quality.detectable is None:
        return None
    return math.ceil(1.1 * quality.pairs * max(quality.detectable / wanted, 0.0) ** 2)


def join(views: Sequence[View]) -> View:
    """The views of batches of samples as one."""
    return View(
        torch.cat([view.samples for view in views]),
        (np.concatenate([view.features[0] for view in views]),),
        tuple(np.concatenate(parts) for parts in zip(*(view.bands for view in views), strict=True)),
        None if views[0].copied is None else np.concatenate([view.copied for view in views if view.copied is not None]),
    )


def drift_db(a: torch.Tensor, b: torch.Tensor, span: float = 2.0) -> float:
    """``10 log10(span^2 / mse)`` of paired samples (n, *shape), the mse over all pairs; 150 when they are the same."""
    mse = (a.double() - b.double()).square().mean().item()
    return IDENTICAL_DB if mse == 0.0 else min(10.0 * math.log10(span * span / mse), IDENTICAL_DB)


def _checked(samples: torch.Tensor, shape: tuple[int, ...], what: str) -> torch.Tensor:
    if tuple(samples.shape[1:]) != shape:
        raise BadInput(f"{what}: shape {tuple(samples.shape[1:])}, but the model's samples have {shape}; bring its own")
    bad = int((~torch.isfinite(samples)).flatten(1).any(1).sum())
    if bad:
        raise HastenError(f"{what}: {bad} of {len(samples)} hold NaN or Inf; their quality can't be measured")
    return samples.detach().float().cpu()


def _draw(samples: torch.Tensor | NDArray[np.float32], count: int, seed: int) -> torch.Tensor:
    # In the order drawn, not sorted: compare() takes the first of them, and data is often sorted by what it shows.
    order = np.random.default_rng(seed).permutation(len(samples))[:count]
    return torch.as_tensor(samples[order])


def _view(samples: torch.Tensor, raw: tuple[Array, ...], centers: tuple[Array, ...], scales: tuple[Array, ...]) -> View:
    features, *parts = [(space - c) / s for space, c, s in zip(raw, centers, scales, strict=True)]
    return View(samples, (features,), tuple(parts), None)


def _distances(x: tuple[Array, ...], y: tuple[Array, ...]) -> Array:
    """The mean over spaces of the distances (n, m) in each."""
    each = [distance.distances(a, b) for a, b in zip(x, y, strict=True)]
    total: Array = np.sum(each, axis=0) / len(each)
    return total


def _mean_distance(x: Array) -> float:
    return float(distance.distances(x, x).sum() / (len(x) * (len(x) - 1)))


def _loss(baseline: tuple[Array, ...], candidate: tuple[Array, ...], own: tuple[Array, ...]) -> Loss:
    return distance.compare(_distances(baseline, own), _distances(candidate, own))
