"""One line on what a noise schedule lets training see, before an hour goes into it.

A schedule whose last ``s = sigma / alpha`` is small never shows pure noise, though sampling starts there (Lin et al.
2023, arXiv:2305.08891, section 3.1); one that ends at no signal at all leaves epsilon nothing to be learnt from.
"""

from __future__ import annotations

import numpy as np

from hasten.diffusion.levels import LEVELS
from hasten.diffusion.prediction import Prediction
from hasten.diffusion.schedule import Schedule

NOISE_S = 50.0  # 34 dB: less than a thousandth of the variance is signal; Stable Diffusion 1 ends at 14.6
NO_SIGNAL_S = 1e3
EASY_S, WASTED = 20.0, 0.2  # of so much noise little is left to learn, and it can be a fifth of the levels
PLACES = (np.arange(1000) + 0.5) / 1000


def audit(
    schedule: Schedule,
    prediction: Prediction,
    levels: str = "uniform",
    mean: float | None = None,
    std: float | None = None,
) -> str:
    """The terminal signal-to-noise ratio, the log-SNR that nine tenths of training see, and advice or ``fine``.

    ``levels``, with its ``mean`` and ``std``, is one of LEVELS; log-SNR is ``-2 log s``, natural.
    """
    s = schedule.s(LEVELS[levels](schedule, PLACES, mean, std))
    last = float(schedule.s(1.0))
    low, middle, high = np.quantile(-2.0 * np.log(s), (0.05, 0.5, 0.95))
    seen = f"terminal SNR {last**-2:.2g}, log-SNR {low:.1f} to {high:.1f} in training (median {middle:.1f})"
    return f"{seen}: {_advice(schedule, prediction, s, last)}"


def _advice(schedule: Schedule, prediction: Prediction, s: np.ndarray, last: float) -> str:
    hidden, easy = float(np.mean(s > NO_SIGNAL_S)), float(np.mean(s > EASY_S))
    if prediction == "epsilon" and last > NO_SIGNAL_S:
        return (
            f"epsilon can't learn the clean sample where no signal is left (s up to {last:.0f}, {hidden:.1%} of the "
            "levels); use v_prediction"
        )
    if schedule.kind != "ve" and last < NOISE_S:
        return f"sampling starts from pure noise, which training never sees (s up to {last:.1f}); end at less signal"
    if easy > WASTED:
        return (
            f"{easy:.0%} of the levels are almost pure noise, s over {EASY_S:.0f}; use a cosine schedule or edm levels"
        )
    return "fine"
