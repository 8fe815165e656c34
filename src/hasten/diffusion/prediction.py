"""What a network predicts, turned into a prediction of the clean sample and back.

With ``x_t = alpha * x_0 + sigma * eps`` each type is a linear combination of ``x_t`` and the clean sample ``x_0``:

====================  ==============================================  =========================================
type                  what the network returns                        reference
====================  ==============================================  =========================================
``sample``            ``x_0``                                         Ho et al. 2020, arXiv:2006.11239
``epsilon``           ``eps``                                         Ho et al. 2020, eq. 14
``v_prediction``      ``alpha * eps - sigma * x_0``                   Salimans and Ho 2022, arXiv:2202.00512, D
``flow``              ``eps - x_0``                                   Lipman et al. 2022, arXiv:2210.02747
``edm``               ``F`` with ``x_0 = c_skip x + c_out F``         Karras et al. 2022, arXiv:2206.00364, eq. 7
====================  ==============================================  =========================================

So ``x_0 = a * x_t + b * output``, and :func:`coefficients` is the one place that knows ``a`` and ``b``.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

Prediction = Literal["sample", "epsilon", "v_prediction", "flow", "edm"]
PREDICTIONS: tuple[str, ...] = get_args(Prediction)


def coefficients(prediction: Prediction, alpha: Any, sigma: Any, sigma_data: float = 0.5) -> tuple[Any, Any]:
    """``(a, b)`` with ``x_0 = a * x_t + b * output``.  ``alpha``, ``sigma``: floats, arrays or tensors, alpha > 0.

    Raises ValueError for an unknown prediction type.
    """
    if prediction == "sample":
        return 0.0 * alpha, 0.0 * alpha + 1.0
    if prediction == "epsilon":
        return 1.0 / alpha, -sigma / alpha
    if prediction == "v_prediction":
        norm = alpha * alpha + sigma * sigma
        return alpha / norm, -sigma / norm
    if prediction == "flow":
        return 1.0 / (alpha + sigma), -sigma / (alpha + sigma)
    if prediction == "edm":  # on x / alpha, whose noise level is s = sigma / alpha
        s2 = (sigma / alpha) ** 2
        total = s2 + sigma_data**2
        return sigma_data**2 / total / alpha, (sigma / alpha) * sigma_data / total**0.5
    raise ValueError(f"unknown prediction type {prediction!r}; known: {', '.join(PREDICTIONS)}")


def to_sample(prediction: Prediction, x: Any, output: Any, alpha: Any, sigma: Any, sigma_data: float = 0.5) -> Any:
    """The clean-sample prediction from the network's ``output`` at ``x``; scales broadcast against ``x``."""
    a, b = coefficients(prediction, alpha, sigma, sigma_data)
    return a * x + b * output


def from_sample(prediction: Prediction, x: Any, sample: Any, alpha: Any, sigma: Any, sigma_data: float = 0.5) -> Any:
    """The inverse of :func:`to_sample`: what a network of this type would have returned.  Needs sigma > 0."""
    a, b = coefficients(prediction, alpha, sigma, sigma_data)
    return (sample - a * x) / b


def input_scale(prediction: Prediction, alpha: Any, sigma: Any, sigma_data: float = 0.5) -> Any:
    """What ``x_t`` is multiplied with before the network sees it: ``c_in`` of EDM (eq. 8), else 1."""
    if prediction == "edm":
        return 1.0 / alpha / ((sigma / alpha) ** 2 + sigma_data**2) ** 0.5
    return 1.0
