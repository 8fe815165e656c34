"""Numbers as a person reads them."""

from __future__ import annotations

import pytest

from hasten.report import words


@pytest.mark.parametrize(
    ("word", "value", "text"),
    [
        (words.number, 0.0312, "0.0312"),
        (words.number, 19.6, "19.6"),
        (words.number, 9.999, "10.0"),
        (words.number, 4495.4, "4,495"),
        (words.number, -0.5, "−0.500"),
        (words.number, 0, "0"),
        (words.number, None, "not measured"),
        (words.seconds, 0.4103, "410 ms"),
        (words.seconds, 0.99999, "1.00 s"),
        (words.seconds, 41.0, "41.0 s"),
        (words.seconds, 271.0, "4 min 31 s"),
        (words.seconds, 3725.0, "1 h 2 min"),
        (words.seconds, 3e-5, "30.0 µs"),
        (words.seconds, None, "not measured"),
        (words.size, 812e6, "812 MB"),
        (words.size, 1024, "1.02 kB"),
        (words.size, 20, "20 B"),
        (words.size, 1234e12, "1,234 TB"),
        (words.size, 0, "0 B"),
        (words.size, 999.9e6, "1.00 GB"),
        (words.size, 4.2e9, "4.20 GB"),
        (words.parameters, 3.77e6, "3.77 M"),
        (words.parameters, 512, "512"),
        (words.share, 0.61, "61 %"),
        (words.share, 0.031, "3.1 %"),
        (words.share, None, "not measured"),
        (words.change, -0.01, "−1.0 %"),
        (words.change, 0.012, "+1.2 %"),
        (words.change, -0.0001, "0.0 %"),
        (words.change, 12.5, "+1,250 %"),
        (words.times, 19.6, "19.6×"),
        (words.near_one, 1.0007, "1.001"),
        (words.decibel, 31.24, "31.2 dB"),
    ],
)
def test_words(word: object, value: float | None, text: str) -> None:
    assert callable(word)
    assert word(value).replace("\u00a0", " ") == text


def test_labels_are_cut_in_one_line() -> None:
    assert words.cut("a\n b   c", 10) == "a b c"
    assert words.cut("abcdefghij", 5) == "abcd…"
    assert words.label([]) == "no technique"
    assert words.label(["a", "b"]) == "a, b"
