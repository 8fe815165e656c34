"""A gate: conditions on a comparison that a CI job can rely on.

    speed>=1.5,quality<=2%,memory<=1.1,drift>=30

``speed``: A's seconds over B's.  ``quality``: the relative rise of the distance, worst of both opinions.  ``memory``:
B's peak over A's.  ``drift``: dB.  A figure with an interval holds when the whole interval does, fails when none of it
does, and is undecided in between.  Imports no torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from hasten.errors import BadInput, did_you_mean

HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"
EXIT = {HOLDS: 0, FAILS: 3, UNDECIDED: 4}
OPERATORS = {"speed": ">=", "quality": "<=", "memory": "<=", "drift": ">="}


@dataclass(frozen=True)
class Figures:
    """What is judged.  ``speed``: low and high of the speed-up and why it is in doubt (empty when not); ``quality``:
    the intervals of the relative losses, one an opinion; None for what was not measured.
    """

    speed: tuple[float | None, float | None, str]
    memory: float | None
    quality: tuple[tuple[float, float] | None, ...] | None
    drift: float | None


@dataclass(frozen=True)
class Answer:
    """One condition, judged."""

    condition: str
    verdict: str
    reason: str


@dataclass(frozen=True)
class Condition:
    """``figure`` must be at least or at most ``value``, as :data:`OPERATORS` says."""

    figure: str
    value: float

    def __str__(self) -> str:
        shown = f"{100 * self.value:g}%" if self.figure == "quality" else f"{self.value:g}"
        return f"{self.figure}{OPERATORS[self.figure]}{shown}"

    def judge(self, figures: Figures) -> Answer:
        """Whether it holds, and by which figure."""
        if self.figure == "speed":
            low, high, doubt = figures.speed
            if low is None or high is None:
                return Answer(str(self), UNDECIDED, doubt)
            words = f"{low:.3g}x to {high:.3g}x"
            # an interval that holds 1 is no doubt here; a noisy machine is
            if doubt and not low <= 1.0 <= high:
                return Answer(str(self), UNDECIDED, doubt)
            return Answer(str(self), _within(self.value, math.inf, low, high), words)
        if self.figure == "quality":
            known = [interval for interval in figures.quality or () if interval is not None]
            if not figures.quality or figures.quality[0] is None:
                return Answer(str(self), UNDECIDED, "the baseline's own distance can't be told from 0")
            low, high = max(interval[0] for interval in known), max(interval[1] for interval in known)
            return Answer(str(self), _within(-math.inf, self.value, low, high), f"loss {low:+.2%} to {high:+.2%}")
        value = figures.memory if self.figure == "memory" else figures.drift
        if value is None:
            return Answer(str(self), UNDECIDED, f"{self.figure} was not measured")
        span = (-math.inf, self.value) if OPERATORS[self.figure] == "<=" else (self.value, math.inf)
        return Answer(str(self), _within(*span, value, value), f"{value:.3g}{' dB' if self.figure == 'drift' else 'x'}")


def parse(text: str) -> tuple[Condition, ...]:
    """The conditions in ``text``, separated by commas.  Raises BadInput that shows how to write one."""
    conditions = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = re.fullmatch(r"([a-z]+)\s*(>=|<=)\s*(-?\d+(?:\.\d+)?)(%|x)?", part)
        if match is None:
            raise BadInput(f"gate {part!r} is no condition; write speed>=1.5,quality<=2%,memory<=1.1,drift>=30")
        figure, operator, number, unit = match.groups()
        if figure not in OPERATORS:
            raise BadInput(f"gate {part!r}: {figure!r} is not known{did_you_mean(figure, OPERATORS)}")
        if operator != OPERATORS[figure]:
            raise BadInput(f"gate {part!r}: write {figure}{OPERATORS[figure]}{number}")
        if (unit == "%") != (figure == "quality"):
            raise BadInput(f"gate {part!r}: quality is in percent, the others are not")
        conditions.append(Condition(figure, float(number) / (100 if unit == "%" else 1)))
    if not conditions:
        raise BadInput("the gate is empty; write speed>=1.5,quality<=2%,memory<=1.1,drift>=30")
    return tuple(conditions)


def exit_status(verdicts: Iterable[str]) -> int:
    """0 when all hold, 3 when one does not, else 4."""
    given = set(verdicts)
    return EXIT[next((verdict for verdict in (FAILS, UNDECIDED) if verdict in given), HOLDS)]


def _within(lowest: float, highest: float, low: float, high: float) -> str:
    """Whether the interval [low, high] lies within [lowest, highest]."""
    if lowest <= low and high <= highest:
        return HOLDS
    return FAILS if high < lowest or low > highest else UNDECIDED
