"""Why a comparison can't be believed, or is to be read with care.

A **reason** makes it UNDECIDED, a **warning** only stands beside the verdict.

* Noise.  A side that varies by more than a fifth over rounds (its 10 % to 90 % range, as a share of its median) must be
  beaten by more than it varies: a neighbour who is busy for a part of the run may slow one plan more than another.
* Drift.  The baseline's own seconds trend over rounds, as on a chip that heats up: Mann's test (Mann 1945,
  doi:10.2307/1907187; Kendall's S, normal approximation) at 1 %, and a change of 5 % or more by Theil and Sen's slope
  (Sen 1968, doi:10.1080/01621459.1968.10480934).  Within a round it moves one plan against another by the slope at
  most; a verdict that is nearer to 1 than that is none.
* Clock.  The processor's frequency at the end is more than 5 % off that of the beginning.
* Timer.  Its cost, or its tick, is too large a share of a sample: :class:`hasten.measure.clock.TooShort`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import NormalDist

import numpy as np

from hasten.measure.stats import FEWEST_ROUNDS, Interval

NOISY = 0.2
DRIFT_SIGNIFICANCE, DRIFT_SHARE = 0.01, 0.05
CLOCK_SHARE = 0.05


@dataclass(frozen=True)
class Drift:
    """A trend of the logarithm of seconds: by ``per_round``, and by ``total`` from the first round to the last."""

    per_round: float
    total: float


def drift(seconds: Sequence[float]) -> Drift | None:
    """The trend of ``seconds`` (n,) over rounds, None where there is none of significance and size."""
    n = len(seconds)
    if n < FEWEST_ROUNDS:
        return None
    logs = np.log(np.asarray(seconds, dtype=np.float64)).tolist()
    slopes = [(logs[j] - logs[i]) / (j - i) for i, j in combinations(range(n), 2)]
    s = sum((slope > 0) - (slope < 0) for slope in slopes)
    deviations = (abs(s) - 1) / math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    per_round = float(np.median(slopes))
    trend = Drift(per_round, per_round * (n - 1))
    significant = 2 * (1 - NormalDist().cdf(deviations)) < DRIFT_SIGNIFICANCE
    return trend if significant and abs(trend.total) >= math.log1p(DRIFT_SHARE) else None


def reason(interval: Interval | None, sides: Mapping[str, Sequence[float]], rounds: int) -> str:
    """Why the verdict is UNDECIDED, empty when it isn't.

    ``sides``: seconds by round of the baseline, then of the candidate, by name.  ``rounds``: how many were asked for.
    """
    if interval is None or interval.n < FEWEST_ROUNDS:
        done = interval.n if interval else 0
        late = f", the time was up before the other {rounds - done}" if done < rounds else ""
        return f"too few rounds: {done}, at least {FEWEST_ROUNDS} are needed{late}"
    holds_one = interval.low <= 1.0 <= interval.high
    nearest = 0.0 if holds_one else min(abs(math.log(interval.low)), abs(math.log(interval.high)))
    name, varied = max(((name, _varied(seconds)) for name, seconds in sides.items()), key=lambda found: found[1])
    if varied > NOISY and nearest < math.log1p(varied):
        return f"noisy machine: {name} varied by {100 * varied:.0f} % over rounds"
    if holds_one:
        return f"the interval {interval.low:.3f} to {interval.high:.3f} holds 1"
    name, seconds = next(iter(sides.items()))
    trend = drift(seconds)
    if trend is not None and nearest < abs(trend.per_round):
        return f"drift could explain it: {_drifted(name, trend)}, {100 * abs(trend.per_round):.1f} % a round"
    return ""


def warnings(
    baseline: str, seconds: Sequence[float], clock_mhz: tuple[float, float] | None, device: str
) -> tuple[str, ...]:
    """What is to be kept in mind: a trend of the baseline's ``seconds`` by round, or of the clock of ``device``."""
    doubts = []
    trend = drift(seconds)
    if trend is not None:
        doubts.append(f"drift: {_drifted(baseline, trend)}; something heats up, or another load comes or goes")
    if clock_mhz is not None and abs(clock_mhz[1] / clock_mhz[0] - 1.0) > CLOCK_SHARE:
        doubts.append(f"frequency drift: {device} from {clock_mhz[0]:.0f} to {clock_mhz[1]:.0f} MHz over the rounds")
    return tuple(doubts)


def _varied(seconds: Sequence[float]) -> float:
    low, middle, high = np.quantile(seconds, [0.1, 0.5, 0.9]).tolist()
    return float((high - low) / middle)


def _drifted(name: str, trend: Drift) -> str:
    way = "slower" if trend.total > 0 else "faster"
    return f"{name} became {100 * abs(math.expm1(trend.total)):.0f} % {way} over the rounds"
