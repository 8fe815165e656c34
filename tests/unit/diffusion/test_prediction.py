from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from diffusers import EDMEulerScheduler

from hasten.diffusion.prediction import PREDICTIONS, coefficients, from_sample, input_scale, to_sample

RNG = np.random.default_rng(0)
CLEAN, NOISE = RNG.standard_normal((2, 4, 5))
S = [1e-3, 0.05, 0.7, 3.0, 80.0]
SCALES = (
    [(1 / np.sqrt(1 + s * s), s / np.sqrt(1 + s * s)) for s in S]
    + [(1.0, s) for s in S]
    + [(1 / (1 + s), s / (1 + s)) for s in S]
)


@pytest.mark.parametrize("sigma_data", [0.5, 1.3])
@pytest.mark.parametrize(("first", "second"), list(itertools.product(PREDICTIONS, PREDICTIONS)))
def test_every_pair_round_trips(first: str, second: str, sigma_data: float) -> None:
    """clean -> first -> clean -> second -> clean -> first, over every scale."""
    for alpha, sigma in SCALES:
        x, rest = alpha * CLEAN + sigma * NOISE, (alpha, sigma, sigma_data)
        one = from_sample(first, x, CLEAN, *rest)
        back = to_sample(first, x, one, *rest)
        again = to_sample(second, x, from_sample(second, x, back, *rest), *rest)
        for sample in (back, again):
            np.testing.assert_allclose(sample, CLEAN, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(from_sample(first, x, again, *rest), one, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("alpha", "sigma"), SCALES)
def test_outputs_are_what_their_names_say(alpha: float, sigma: float) -> None:
    x = alpha * CLEAN + sigma * NOISE
    assert from_sample("sample", x, CLEAN, alpha, sigma) == pytest.approx(CLEAN)
    assert from_sample("epsilon", x, CLEAN, alpha, sigma) == pytest.approx(NOISE, rel=1e-6, abs=1e-9)
    assert from_sample("flow", x, CLEAN, alpha, sigma) == pytest.approx(NOISE - CLEAN, rel=1e-6, abs=1e-9)
    velocity = alpha * NOISE - sigma * CLEAN
    assert from_sample("v_prediction", x, CLEAN, alpha, sigma) == pytest.approx(velocity, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("sigma", S)
@pytest.mark.parametrize("sigma_data", [0.5, 1.3])
def test_edm_is_diffusers_preconditioning(sigma: float, sigma_data: float) -> None:
    theirs = EDMEulerScheduler(sigma_data=sigma_data)
    x, output = torch.from_numpy(CLEAN + sigma * NOISE), torch.from_numpy(NOISE)
    level = torch.tensor(sigma, dtype=torch.float64)
    wanted = theirs.precondition_outputs(x, output, level)
    assert torch.allclose(to_sample("edm", x, output, 1.0, sigma, sigma_data), wanted, rtol=1e-6)
    inputs = theirs.precondition_inputs(x, level)
    assert torch.allclose(input_scale("edm", 1.0, sigma, sigma_data) * x, inputs, rtol=1e-6)
    assert torch.allclose(input_scale("edm", 0.3, 0.3 * sigma, sigma_data) * 0.3 * x, inputs, rtol=1e-6)
    scaled = to_sample("edm", 0.3 * x, output, 0.3, 0.3 * sigma, sigma_data)  # the same sample in another convention
    assert torch.allclose(scaled, wanted, rtol=1e-6)


def test_tensors_broadcast_and_keep_their_type() -> None:
    alpha, sigma = torch.rand(2, 3, 1, 1) + 0.1
    for prediction in PREDICTIONS:
        result = to_sample(prediction, torch.ones(3, 2, 2), torch.ones(3, 2, 2), alpha, sigma)
        assert (result.shape, result.dtype) == ((3, 2, 2), torch.float32)
        assert torch.as_tensor(input_scale(prediction, alpha, sigma)).dtype == torch.float32


def test_at_no_noise_the_sample_is_clean() -> None:
    for prediction in PREDICTIONS:
        assert to_sample(prediction, CLEAN, CLEAN if prediction == "sample" else NOISE, 1.0, 0.0) == pytest.approx(
            CLEAN
        )


def test_unknown_type() -> None:
    with pytest.raises(ValueError, match="unknown prediction type 'eps'; known: sample, epsilon"):
        coefficients("eps", 1.0, 1.0)
