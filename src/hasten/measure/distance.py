"""The relative loss of one set of samples against another, both measured by their distance to a reference.

**Distance.**  The symmetric nearest-neighbour (Chamfer) distance between generated P and reference R,

    C(P, R) = (mean_p min_r |p - r| + mean_r min_p |r - p|) / 2

whose first half rises when samples leave the data (as improved precision falls) and whose second half when a part of
the data is no longer made (as recall falls): Fan et al. 2017, arXiv:1612.00603, eq. 1; Kynkäänniemi et al. 2019,
arXiv:1904.06991.  The second half falls with the number of samples, so only sets of one size are compared; real samples
kept apart, as many, say how near one can come.  It is no squared distance like FID, KID or the energy distance: those
are near 0 for a good model, and a share of them can't be told from noise with the few hundred samples that a run can
afford (measured: with 512 pairs they would have seen a loss of 45 %, this one of 0.9 %; LOG.md).

**Loss.**  ``(D_c - D_b) / D_b``.  Baseline and candidate start from the same noise, so that most of what varies cancels
in the difference.  The covariance of ``(D_b, D_c)`` is the jackknife's over pairs plus that over the reference (Arvesen
1969, doi:10.1214/aoms/1177697287): closed-form, and unlike in a bootstrap no sample is drawn twice.  The
interval is Fieller's (1954): every ``q`` for which ``D_c - D_b - q D_b`` is not significant.  Each end holds with 95 %,
both together with 90 %.  A loss is seen when the lower end is above 0: a one-sided test at 5 %.

**Detectable.**  ``(z_0.95 + z_0.80) * se(D_c - D_b) / D_b``: the true loss that this test sees in 80 % of such runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]

Z_TEST = NormalDist().inv_cdf(0.95)
Z_POWER = NormalDist().inv_cdf(0.80)


@dataclass(frozen=True, eq=False)
class Loss:
    """Two distances to one reference, and how they vary together.

    ``over_pairs`` and ``over_reference``: the covariance (2, 2) of (baseline, candidate) that comes of which pairs and
    which reference samples were drawn.
    """

    baseline: float
    candidate: float
    over_pairs: Array
    over_reference: Array

    @property
    def defined(self) -> bool:
        """Whether the baseline's distance can be told from 0, so that a share of it means something."""
        return self.baseline > Z_TEST * math.sqrt(self.over_pairs[0, 0] + self.over_reference[0, 0])

    @property
    def relative(self) -> float | None:
        """(candidate - baseline) / baseline; 0.01 is 1 % worse."""
        return (self.candidate - self.baseline) / self.baseline if self.defined else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Fieller's interval of the relative loss; each end holds with 95 %."""
        if not self.defined:
            return None
        ((vb, covariance), (_, vd)), z2 = self._of_difference, Z_TEST**2
        b, d = self.baseline, self.candidate - self.baseline
        a, half, c = b * b - z2 * vb, d * b - z2 * covariance, d * d - z2 * vd
        root = math.sqrt(max(half * half - a * c, 0.0))
        return float((half - root) / a), float((half + root) / a)

    @property
    def detectable(self) -> float | None:
        """The smallest true loss whose interval lies above 0 in 80 % of such runs."""
        return (Z_TEST + Z_POWER) * math.sqrt(self._of_difference[1, 1]) / self.baseline if self.defined else None

    @property
    def noise_floor(self) -> float:
        """What other seeds change the baseline's distance by (95 %): 1.96 * sqrt(2) * its standard error over pairs."""
        return 1.96 * math.sqrt(2.0 * self.over_pairs[0, 0])

    @property
    def _of_difference(self) -> Array:
        """The covariance of (baseline, candidate - baseline)."""
        turn = np.asarray([[1.0, 0.0], [-1.0, 1.0]])
        covariance: Array = turn @ (self.over_pairs + self.over_reference) @ turn.T
        return covariance


def distances(x: Array, y: Array) -> Array:
    """``|x_i - y_j|``, (n, m), of the rows of ``x`` (n, d) and ``y`` (m, d).

    By the binomial formula, so take vectors whose common mean was subtracted.
    """
    squares = (x * x).sum(1)[:, None] + (y * y).sum(1)[None, :] - 2.0 * (x @ y.T)
    found: Array = np.sqrt(np.maximum(squares, 0.0))
    return found


def compare(baseline: Array, candidate: Array) -> Loss:
    """The loss of a candidate whose n >= 2 samples share their noise with the baseline's, row by row.

    ``baseline`` and ``candidate``: distances (n, m) of the samples to the m >= 2 of the reference.
    """
    b, b_pairs, b_reference = nearest(baseline)
    c, c_pairs, c_reference = nearest(candidate)
    return Loss(b, c, jackknife(b_pairs, c_pairs), jackknife(b_reference, c_reference))


def nearest(cross: Array) -> tuple[float, Array, Array]:
    """The distance C of ``cross`` (n, m), and C without each sample (n,) and without each reference sample (m,)."""
    to_reference, without_sample = _half(cross), _half(cross.T)
    value = (to_reference.mean + without_sample.mean) / 2.0
    leave_sample = (to_reference.without_row + without_sample.without_column) / 2.0
    leave_reference = (to_reference.without_column + without_sample.without_row) / 2.0
    return value, leave_sample, leave_reference


@dataclass(frozen=True, eq=False)
class _Half:
    """The mean over rows of each row's least entry, and that mean without each row and without each column."""

    mean: float
    without_row: Array
    without_column: Array


def _half(cross: Array) -> _Half:
    rows, columns = cross.shape
    two = np.argpartition(cross, 1, axis=1)[:, :2]
    least = np.take_along_axis(cross, two, axis=1)
    order = np.argsort(least, axis=1)
    first, second = np.take_along_axis(least, order, axis=1).T
    place = np.take_along_axis(two, order, axis=1)[:, 0]
    total = first.sum()
    # without the column that a row is nearest to, its second nearest counts
    without_column = np.full(columns, total)
    np.add.at(without_column, place, second - first)
    return _Half(float(total / rows), (total - first) / (rows - 1), without_column / rows)


def jackknife(*without: Array) -> Array:
    """The covariance (k, k) of k estimates from their values (n,) with each of n samples left out."""
    values = np.stack(without)
    centred = values - values.mean(1, keepdims=True)
    n = values.shape[1]
    covariance: Array = (n - 1) / n * centred @ centred.T
    return covariance
