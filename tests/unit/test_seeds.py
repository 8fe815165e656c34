"""The numbers that seed all others stay as they are: samples, checkpoints and artifacts follow from them."""

from __future__ import annotations

import numpy as np
import pytest

from hasten.seeds import Purpose, Stream, seed_of, stream


@pytest.mark.parametrize(
    ("purpose", "number"),
    [
        (Purpose.SEARCH, 71), (Purpose.CONFIRM, 72), (Purpose.REFERENCE, 73), (Purpose.MORE, 74), (Purpose.TIMED, 71),
        (Purpose.PAIRS, 72), (Purpose.ATTRIBUTION, 8), (Purpose.CASE, 700_021), (Purpose.FRESH_NOISE, 7064),
        (Purpose.BATCH, 7_000_021), (Purpose.ROUNDING, 7_000_021 + 2**40), (Purpose.VALIDATION, 30_018),
        (Purpose.TRIAL, 7), (Purpose.FEATURES, 20_008), (Purpose.MIDDLE_LAYER, 20_009), (Purpose.ARTIFACT, 70_008),
        (Purpose.ANSWERS, 80_028), (Purpose.CALIBRATION, 90_008),
    ],
)  # fmt: skip
def test_a_seed_is_the_number_it_has_always_been(purpose: Purpose, number: int) -> None:
    assert seed_of(purpose, 7) == number
    assert seed_of(purpose, 7, 5) == number + 5


def test_a_stream_is_numpy_s_of_seed_place_and_purpose() -> None:
    places = ((7, 3), (7, 3, 2), (7, 3, 0xA06), (7, 4))
    draws = {words: np.random.default_rng(words).integers(1 << 30) for words in places}
    assert stream(Stream.ORDER, 7, 3).integers(1 << 30) == draws[7, 3]
    assert stream(Stream.ORDER, 7, 3, 2).integers(1 << 30) == draws[7, 3, 2]
    assert stream(Stream.AUGMENTATION, 7, 3).integers(1 << 30) == draws[7, 3, 0xA06]
    assert len(set(draws.values())) == 4
