"""A gate holds, fails, or says that the measurement can't tell."""

from __future__ import annotations

import pytest

from hasten.errors import BadInput
from hasten.gate import FAILS, HOLDS, UNDECIDED, Figures, exit_status, parse

FIGURES = Figures(speed=(1.4, 1.7, ""), memory=1.2, quality=((-0.01, 0.015), (-0.03, 0.01)), drift=31.0)


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("speed>=1.3", HOLDS),
        ("speed>=1.5", UNDECIDED),
        ("speed>=1.8", FAILS),
        ("quality<=2%", HOLDS),
        ("quality<=1%", UNDECIDED),
        ("quality<=-2%", FAILS),
        ("memory<=1.5", HOLDS),
        ("memory<=1.1x", FAILS),
        ("drift>=30", HOLDS),
        ("drift>=40", FAILS),
    ],
)
def test_one_condition(text: str, verdict: str) -> None:
    (condition,) = parse(text)
    answer = condition.judge(FIGURES)
    assert answer.verdict == verdict
    assert answer.reason
    assert parse(answer.condition) == (condition,)


def test_the_worse_opinion_counts() -> None:
    worse = Figures((1.4, 1.7, ""), None, ((-0.01, 0.015), (0.03, 0.05)), None)
    assert parse("quality<=2%")[0].judge(worse).verdict == FAILS
    undefined = Figures((1.4, 1.7, ""), None, (None, (-0.01, 0.01)), None)
    assert parse("quality<=2%")[0].judge(undefined).verdict == UNDECIDED


@pytest.mark.parametrize(
    ("speed", "verdict"),
    [
        ((None, None, "too few rounds"), UNDECIDED),
        ((1.6, 1.9, "noisy machine"), UNDECIDED),
        ((0.98, 1.02, "the interval holds 1"), FAILS),
    ],
)
def test_a_speed_in_doubt(speed: tuple[float | None, float | None, str], verdict: str) -> None:
    assert parse("speed>=1.5")[0].judge(Figures(speed, None, None, None)).verdict == verdict


def test_what_was_not_measured_is_undecided() -> None:
    nothing = Figures((1.4, 1.7, ""), None, None, None)
    assert {c.judge(nothing).verdict for c in parse("memory<=1,quality<=2%,drift>=30")} == {UNDECIDED}


def test_exit_status() -> None:
    assert [exit_status(v) for v in ([], [HOLDS], [HOLDS, UNDECIDED], [UNDECIDED, FAILS, HOLDS])] == [0, 0, 4, 3]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("fast", "no condition"),
        ("sped>=2", "did you mean 'speed'"),
        ("speed<=2", "write speed>=2"),
        ("quality<=2", "in percent"),
        ("speed>=200%", "in percent"),
    ],
)
def test_bad_gates_are_one_line(text: str, words: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse(text)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
