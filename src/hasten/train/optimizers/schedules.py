"""Learning rates: factors on the recipe's rate, as pure functions of the step, and one that follows a held-out loss.

``factor = floor + (1 - floor) * shape(step - warmup_steps)``, before which a linear warm-up leads to the shape's start.

===================================  ==================================================================================
constant, linear                     1; a line to 0
cosine, cosine_restarts              half a cosine to 0, once or every ``cycle_steps`` (Loshchilov and Hutter 2017,
                                     arXiv:1608.03983, eq. 5)
triangular, triangular2, exp_range   up and down within each ``cycle_steps``; the peak stays, halves with each cycle, or
                                     falls as a power of ``gamma`` (Smith 2017, arXiv:1506.01186, section 3)
one_cycle                            from 1 / 25 up to 1, then down to nothing, by cosines (Smith and Topin 2018,
                                     arXiv:1708.07120)
wsd                                  1, then down in the last ``decay_share`` (Haegele et al. 2024, arXiv:2405.18392)
inverse_sqrt                         1, then ``sqrt(reference / step)`` (Karras et al. 2024, arXiv:2312.02696, eq. 67)
===================================  ==================================================================================
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

ONE_CYCLE_RISE, ONE_CYCLE_START, ONE_CYCLE_END = 0.3, 1 / 25, 1 / 25e4  # torch's own


@dataclass(frozen=True)
class LearningRate:
    """A schedule over ``steps`` steps, of which the first ``warmup_steps`` warm up.

    ``floor`` in [0, 1): the share of the rate that the shape's zero stands for.  ``cycle_steps``: the length of the
    first cycle, or the step from which ``inverse_sqrt`` falls; all steps, or a tenth of them, when None.  Each
    restart's cycle is ``cycle_mult`` times as long.  ``gamma``: None for one that leaves a tenth at the end.
    ``name``: a key of SHAPES; ``plateau`` is constant, with a :class:`Plateau`'s factor on top.  Raises ValueError.
    """

    name: str
    steps: int
    warmup_steps: int = 0
    floor: float = 0.0
    cycle_steps: int | None = None
    cycle_mult: float = 1.0
    gamma: float | None = None
    decay_share: float = 0.2
    decay: Literal["sqrt", "linear"] = "sqrt"

    def __post_init__(self) -> None:
        if self.name not in SHAPES:
            raise ValueError(f"unknown learning rate schedule {self.name!r}; known: {', '.join(SHAPES)}")
        if self.cycle_mult < 1 or (self.cycle_steps is not None and self.cycle_steps < 1):
            raise ValueError(f"a cycle of {self.cycle_steps} steps, times {self.cycle_mult}: both must be at least 1")

    @property
    def length(self) -> int:
        """The steps after the warm-up, at least 1."""
        return max(self.steps - self.warmup_steps, 1)

    @property
    def cycle(self) -> int:
        """The steps of the first cycle."""
        return self.cycle_steps or self.length

    def factor(self, step: int) -> float:
        """What the learning rate is multiplied by at ``step`` (0 based), in [0, 1]."""
        shape = SHAPES[self.name]
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps * (self.floor + (1.0 - self.floor) * shape(self, 0))
        return self.floor + (1.0 - self.floor) * shape(self, step - self.warmup_steps)


def constant(rate: LearningRate, done: int) -> float:
    """1 at every step."""
    return 1.0


def linear(rate: LearningRate, done: int) -> float:
    """From 1 to 0."""
    return 1.0 - min(done / rate.length, 1.0)


def cosine(rate: LearningRate, done: int) -> float:
    """Half a cosine from 1 to 0."""
    return _cosine(min(done / rate.length, 1.0))


def cosine_restarts(rate: LearningRate, done: int) -> float:
    """Half a cosine in each cycle."""
    start, length = 0.0, float(rate.cycle)
    if rate.cycle_mult == 1.0:
        return _cosine(done % rate.cycle / rate.cycle)
    while done >= start + length:
        start, length = start + length, length * rate.cycle_mult
    return _cosine((done - start) / length)


def triangular(rate: LearningRate, done: int) -> float:
    """0 at a cycle's ends, 1 in its middle."""
    return 1.0 - abs(2.0 * (done % rate.cycle) / rate.cycle - 1.0)


def triangular2(rate: LearningRate, done: int) -> float:
    """:func:`triangular`, half as high with every cycle."""
    return triangular(rate, done) * 0.5 ** (done // rate.cycle)


def exp_range(rate: LearningRate, done: int) -> float:
    """:func:`triangular` times ``gamma ** done``."""
    gamma = 0.1 ** (1.0 / rate.length) if rate.gamma is None else rate.gamma
    return triangular(rate, done) * float(gamma**done)


def one_cycle(rate: LearningRate, done: int) -> float:
    """Up for the first three tenths, then down."""
    last = rate.length - 1.0
    peak = ONE_CYCLE_RISE * rate.length - 1.0
    if done < peak:
        return 1.0 - (1.0 - ONE_CYCLE_START) * _cosine(done / peak)
    return ONE_CYCLE_END + (1.0 - ONE_CYCLE_END) * _cosine(min((done - peak) / max(last - peak, 1.0), 1.0))


def wsd(rate: LearningRate, done: int) -> float:
    """1, then down to 0 within the last ``decay_share`` of the steps."""
    decay_steps = max(rate.decay_share * rate.length, 1.0)
    place = min(max((done - (rate.length - decay_steps)) / decay_steps, 0.0), 1.0)
    return 1.0 - (math.sqrt(place) if rate.decay == "sqrt" else place)


def inverse_sqrt(rate: LearningRate, done: int) -> float:
    """1 up to the reference step, then as one over the root of the steps."""
    reference = rate.cycle_steps or max(rate.length // 10, 1)
    return 1.0 / math.sqrt(max(done / reference, 1.0))


def _cosine(place: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * place))


SHAPES: dict[str, Callable[[LearningRate, int], float]] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "cosine_restarts": cosine_restarts,
    "triangular": triangular,
    "triangular2": triangular2,
    "exp_range": exp_range,
    "one_cycle": one_cycle,
    "wsd": wsd,
    "inverse_sqrt": inverse_sqrt,
    "plateau": constant,
}


@dataclass
class Plateau:
    """A factor that falls by ``by`` after more than ``patience`` held-out losses in a row without a better one.

    Better is lower by a share of ``threshold``.  A loss that is not finite is not better.
    """

    patience: int = 5
    by: float = 0.5
    threshold: float = 1e-3
    floor: float = 0.0
    factor: float = 1.0
    best: float | None = None
    bad: int = 0

    def update_(self, loss: float) -> float:
        """Take the newest held-out loss; returns the factor from now on."""
        if math.isfinite(loss) and (self.best is None or loss < self.best * (1.0 - self.threshold)):
            self.best, self.bad = loss, 0
        else:
            self.bad += 1
        if self.bad > self.patience:
            self.factor, self.bad = max(self.factor * self.by, self.floor), 0
        return self.factor

    def state(self) -> dict[str, float | int | None]:
        """What changes, as plain numbers."""
        return {"factor": self.factor, "best": self.best, "bad": self.bad}

    def restore_(self, values: Mapping[str, float | int | None]) -> None:
        """The inverse of :meth:`state`."""
        self.factor, self.best, self.bad = float(values["factor"] or 0.0), values["best"], int(values["bad"] or 0)
