"""Weights of the training loss by noise level, given for the mean square error of the network's own output.

Min-SNR-gamma (Hang et al. 2023, arXiv:2303.09556, section 3.4) weighs the error of the clean sample with
``min(1 / s**2, gamma)``, ``s = sigma / alpha``.  Where ``x_0 = a * x_t + b * output``
(:mod:`hasten.diffusion.prediction`), an error of the output is ``b`` times as large an error of the clean sample, so
the weight of the output's error is ``min(1 / s**2, gamma) * b**2``: with ``snr = 1 / s**2`` this is their
``min(snr, gamma) / snr`` for epsilon and ``min(snr, gamma) / (snr + 1)`` for v.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hasten.diffusion.prediction import Prediction, coefficients
from hasten.diffusion.schedule import Array

Weighting = Callable[[Prediction, Array, float], Array]


def none(prediction: Prediction, s: Array, gamma: float = 5.0) -> Array:
    """1 at every ``s`` (n,)."""
    return np.ones_like(s)


def min_snr(prediction: Prediction, s: Array, gamma: float = 5.0) -> Array:
    """Min-SNR-``gamma`` weights at noise-to-signal ratios ``s`` (n,) > 0.

    ``v_prediction`` is that of a variance preserving schedule; the others depend on ``s`` alone.
    """
    alpha = 1.0 / np.sqrt(1.0 + s * s)
    _, b = coefficients(prediction, alpha, s * alpha)
    return np.asarray(np.minimum(1.0 / s**2, gamma) * b**2)


WEIGHTINGS: dict[str, Weighting] = {"none": none, "min_snr": min_snr}
