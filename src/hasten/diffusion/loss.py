"""Weights of the training loss by noise level, given for the mean square error of the network's own output.

Min-SNR-gamma (Hang et al. 2023, arXiv:2303.09556, section 3.4) weighs the error of the clean sample with
``min(1 / s**2, gamma)``, ``s = sigma / alpha``.  Where ``x_0 = a * x_t + b * output``
(:mod:`hasten.diffusion.prediction`), an error of the output is ``b`` times as large an error of the clean sample, so
the weight of the output's error is ``min(1 / s**2, gamma) * b**2``: with ``snr = 1 / s**2`` this is their
``min(snr, gamma) / snr`` for epsilon and ``min(snr, gamma) / (snr + 1)`` for v.

P2 (Choi et al. 2022, arXiv:2204.00227, eq. 8) weighs the error of epsilon, of whatever network, with
``1 / (k + snr)^gamma``, k = 1; an error of the clean sample is one of epsilon times ``s``.  EDM (Karras et al. 2022,
arXiv:2206.00364, table 1) weighs the clean sample's with ``(s^2 + sigma_data^2) / (s sigma_data)^2``, which is 1 for
the output of an EDM network.

``learned``, uncertainty by noise level (Karras et al. 2024, arXiv:2312.02696, eq. 21), is a loss with parameters of
its own, on top of ``none``: :class:`hasten.train.losses.uncertainty.Uncertainty`.
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
    return np.asarray(np.minimum(1.0 / s**2, gamma) * _output_scale(prediction, s) ** 2)


def p2(prediction: Prediction, s: Array, gamma: float = 1.0) -> Array:
    """P2 weights with k = 1 at ``s`` (n,) > 0; ``gamma`` 1 (or 0.5) is theirs, 0 is plain epsilon loss."""
    return np.asarray((1.0 + 1.0 / s**2) ** -gamma * _output_scale(prediction, s) ** 2 / s**2)


def edm(prediction: Prediction, s: Array, gamma: float = 5.0, sigma_data: float = 0.5) -> Array:
    """EDM's weights at ``s`` (n,) > 0 for data of standard deviation ``sigma_data``; ``gamma`` is not used."""
    b = _output_scale(prediction, s, sigma_data)
    return np.asarray((s**2 + sigma_data**2) / (s * sigma_data) ** 2 * b**2)


def _output_scale(prediction: Prediction, s: Array, sigma_data: float = 0.5) -> Array:
    """How large an error of the clean sample an output's error of 1 is."""
    alpha = 1.0 / np.sqrt(1.0 + s * s)
    return np.asarray(coefficients(prediction, alpha, s * alpha, sigma_data)[1])


WEIGHTINGS: dict[str, Weighting] = {"none": none, "min_snr": min_snr, "p2": p2, "edm": edm, "learned": none}
