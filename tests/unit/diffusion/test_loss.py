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


def test_p2_is_the_papers_for_epsilon() -> None:
    assert loss.p2("epsilon", S, 1.0) == pytest.approx(1.0 / (1.0 + SNR))
    assert loss.p2("epsilon", S, 0.0) == pytest.approx(1.0)


def test_edm_is_one_for_its_own_network_and_the_papers_for_a_clean_sample() -> None:
    assert loss.edm("edm", S) == pytest.approx(1.0)
    assert loss.edm("sample", S) == pytest.approx((S**2 + 0.25) / (S * 0.5) ** 2)


@pytest.mark.parametrize("name", ["p2", "edm"])
def test_a_weighting_is_of_the_clean_sample_whatever_is_predicted(name: str) -> None:
    plain = loss.WEIGHTINGS[name]("sample", S, 1.0)
    alpha = 1.0 / np.sqrt(1.0 + S * S)
    for prediction in PREDICTIONS:
        clean_error = to_sample(prediction, 0.0, 1.0, alpha, S * alpha)
        assert loss.WEIGHTINGS[name](prediction, S, 1.0) == pytest.approx(plain * clean_error**2)
