"""The relative loss of one set of samples against another, both measured by their distance to a reference.

**Distance.**  With ``|.|`` the Euclidean norm, the energy distance of generated P to reference R is (Székely and Rizzo
2013, doi:10.1016/j.jspi.2013.03.018, eq. 5; it is a squared MMD: Sejdinovic et al. 2013, arXiv:1207.6076)

    D(P) = 2 E|p - r| - E|p - p'| - E|r - r'|  >= 0,  0 only when P = R

estimated by U-statistics: no sample is paired with itself, so the expected value does not depend on how many there are
(that of a plug-in Fréchet distance does).  Like FID and KID (Bińkowski et al. 2018, arXiv:1801.01401) it is squared.

**Loss.**  ``(D_c - D_b) / D_b``.  Baseline and candidate start from the same noise, so that most of what varies cancels
in the difference.  The covariance of ``(D_b, D_c)`` is the jackknife's over pairs plus that over the reference (Arvesen
1969, doi:10.1214/aoms/1177697287): closed-form, and unlike in a bootstrap no copy of a sample meets itself.  The
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
    return np.sqrt(np.maximum(squares, 0.0))


def compare(baseline: tuple[Array, Array], candidate: tuple[Array, Array], reference: Array) -> Loss:
    """The loss of a candidate whose n >= 3 samples share their noise with the baseline's, row by row.

    ``baseline`` and ``candidate``: distances among the samples (n, n) and to the reference (n, m); ``reference``: those
    among the reference (m, m).  Diagonals are not looked at.
    """
    b, b_pairs, b_reference = energy(*baseline, reference)
    c, c_pairs, c_reference = energy(*candidate, reference)
    return Loss(b, c, jackknife(b_pairs, c_pairs), jackknife(b_reference, c_reference))


def energy(among: Array, cross: Array, reference: Array) -> tuple[float, Array, Array]:
    """The energy distance, and what it is without each sample (n,) and without each reference sample (m,)."""
    n, m = cross.shape
    p, r = among.sum(1) - np.diagonal(among), reference.sum(1) - np.diagonal(reference)
    x, y = cross.sum(1), cross.sum(0)
    within_p, within_r, between = p.sum() / (n * (n - 1)), r.sum() / (m * (m - 1)), x.sum() / (n * m)
    without_sample = 2.0 * (x.sum() - x) / ((n - 1) * m) - (p.sum() - 2.0 * p) / ((n - 1) * (n - 2)) - within_r
    without_reference = 2.0 * (y.sum() - y) / (n * (m - 1)) - within_p - (r.sum() - 2.0 * r) / ((m - 1) * (m - 2))
    return float(2.0 * between - within_p - within_r), without_sample, without_reference


def jackknife(*without: Array) -> Array:
    """The covariance (k, k) of k estimates from their values (n,) with each of n samples left out."""
    values = np.stack(without)
    centred = values - values.mean(1, keepdims=True)
    n = values.shape[1]
    covariance: Array = (n - 1) / n * centred @ centred.T
    return covariance
