from __future__ import annotations

import numpy as np
import pytest

from hasten.diffusion import loss
from hasten.diffusion.prediction import PREDICTIONS, to_sample

S = np.geomspace(0.01, 80.0, 9)
SNR = 1.0 / S**2


def test_none_is_one() -> None:
    assert np.array_equal(loss.none("epsilon", S, 5.0), np.ones(9))


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_is_the_papers(gamma: float) -> None:
    least = np.minimum(SNR, gamma)
    assert loss.min_snr("sample", S, gamma) == pytest.approx(least)
    assert loss.min_snr("epsilon", S, gamma) == pytest.approx(least / SNR)
    assert loss.min_snr("v_prediction", S, gamma) == pytest.approx(least / (SNR + 1.0))
    assert loss.min_snr("flow", S, gamma) == pytest.approx(least / (np.sqrt(SNR) + 1.0) ** 2)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("s", S)
def test_every_type_weighs_the_same_error_of_the_clean_sample_alike(prediction: str, s: float) -> None:
    alpha, sigma = 1 / np.sqrt(1 + s * s), s / np.sqrt(1 + s * s)
    clean_error = to_sample(prediction, 0.0, 0.01, alpha, sigma)  # of an output that is off by 0.01
    weighted = loss.min_snr(prediction, np.array([s]), 5.0)[0] * 0.01**2
    assert weighted == pytest.approx(min(1 / s**2, 5.0) * clean_error**2)
