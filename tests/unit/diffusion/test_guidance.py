from __future__ import annotations

import numpy as np
import pytest

from hasten.diffusion.guidance import guided
from hasten.diffusion.prediction import PREDICTIONS, from_sample, to_sample


def test_scale_one_is_conditional_and_zero_unconditional() -> None:
    conditional, unconditional = np.array([1.0, 2.0]), np.array([0.5, -1.0])
    assert guided(conditional, unconditional, 1.0) == pytest.approx(conditional)
    assert guided(conditional, unconditional, 0.0) == pytest.approx(unconditional)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_guiding_clean_samples_is_guiding_outputs(prediction: str) -> None:
    """Ho and Salimans guide epsilon: (1 + w) eps_c - w eps_u."""
    x, conditional, unconditional = np.random.default_rng(0).standard_normal((3, 6))
    outputs = [from_sample(prediction, x, clean, 0.6, 0.8) for clean in (conditional, unconditional)]
    theirs = to_sample(prediction, x, 4.0 * outputs[0] - 3.0 * outputs[1], 0.6, 0.8)
    assert guided(conditional, unconditional, 4.0) == pytest.approx(theirs)
