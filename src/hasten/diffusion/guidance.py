"""Classifier-free guidance on two predictions of the clean sample (Ho and Salimans 2022, arXiv:2207.12598, eq. 6).

    D = D_unconditional + scale * (D_conditional - D_unconditional)

At one ``x_t`` every prediction type is an affine function of the clean sample with the same weights for both, so that
guiding the clean samples is guiding the network's outputs.  ``scale`` is their ``1 + w``: 1 is no guidance.
"""

from __future__ import annotations

from typing import Any


def guided(conditional: Any, unconditional: Any, scale: float) -> Any:
    """The guided clean-sample prediction, of the shape of both."""
    return unconditional + scale * (conditional - unconditional)
