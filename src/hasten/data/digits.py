"""scikit-learn's 1,797 handwritten digits, 8x8, one channel: small real data for tests."""

from __future__ import annotations

import numpy as np

from hasten.data.array import Data, split
from hasten.errors import BadInput, MissingExtra

SIZE = 8


def load(size: int = SIZE) -> Data:
    """All digits as uint8 (1797, 1, 8, 8) with labels 0 to 9 (Alpaydin and Kaynak 1998, UCI, CC BY 4.0)."""
    if size != SIZE:
        raise BadInput(f"digits are {SIZE}x{SIZE}, size {size} was asked for; use size = {SIZE}")
    try:
        from sklearn.datasets import load_digits  # here, so that a wrong size is answered without its second of import
    except ImportError as error:
        raise MissingExtra("scikit-learn", "demo") from error
    bunch = load_digits()
    samples = np.round(bunch.images * (255.0 / 16.0)).astype(np.uint8)[:, None]
    keys = [f"digit-{i}" for i in range(len(samples))]
    return Data("digits", samples, bunch.target.astype(np.int64), tuple("0123456789"), split(keys))
