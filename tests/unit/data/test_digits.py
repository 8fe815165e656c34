"""The digits that tests train on."""

import numpy as np
import pytest

from hasten.data import digits
from hasten.errors import BadInput


def test_all_of_them_in_full_range() -> None:
    data = digits.load()
    assert data.samples.shape == (1797, 1, 8, 8)
    assert (data.samples.min(), data.samples.max()) == (0, 255)
    assert np.bincount(data.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert 0.07 < data.held_out.mean() < 0.13


def test_another_size_is_refused() -> None:
    with pytest.raises(BadInput, match="use size = 8"):
        digits.load(32)
