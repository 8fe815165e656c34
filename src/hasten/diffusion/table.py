"""A sampler is a table, and one short loop runs every table.

A linear solver makes the input of its k-th evaluation, and its result, as a linear combination of the starting noise,
the earlier predictions of the clean sample ``D_j``, and fresh noise.  Written as a recurrence over rows ``k = 0..N``:

    x_k = state[k] * x_{k-1} + sum_{j<k} (predictions[k, j] * D_j + clipped[k, j] * clip(D_j)) + fresh[k] * z_k,
    x_{-1} = starting noise,
    D_k = network's clean-sample prediction at (x_k, times[k]),  k < N;                 x_N is the result

The recurrence is the dense form with the oldest part carried in ``x``; so a row names only the predictions it really
needs, and the loop drops the others.  :class:`Rows` turns a solver written as in its paper into such a table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hasten.diffusion.schedule import Schedule
from hasten.errors import BadInput

Array = NDArray[np.float64]
NEGLIGIBLE = 1e-11


@dataclass(frozen=True)
class Clip:
    """Bounds a clean-sample prediction to ``most`` either way; with a ``ratio`` to that quantile of its sizes, within 1
    and ``most``, and scales it to 1 (dynamic thresholding: Saharia et al. 2022, arXiv:2205.11487, section 2.3)."""

    most: float
    ratio: float | None = None

    def __call__(self, x: Any) -> Any:
        """``x`` (n, *shape), a tensor, bounded."""
        if self.ratio is None:
            return x.clip(-self.most, self.most)
        flat = x.abs().flatten(1).float()
        bound = flat.quantile(self.ratio, dim=1).clip(1.0, self.most).to(x.dtype)
        bound = bound.reshape(-1, *(1 for _ in x.shape[1:]))
        return x.clip(-bound, bound) / bound


@dataclass(frozen=True, eq=False)
class Table:
    """``times`` (N,) in inner t; ``state`` and ``fresh`` (N+1,); ``predictions`` (N+1, N), zero where j >= k.

    ``clipped``, of the same shape, weighs what ``clip`` makes of predictions; None where nothing is clipped.
    """

    name: str
    times: Array
    state: Array
    predictions: Array
    fresh: Array
    clipped: Array | None = None
    clip: Clip | None = None

    def __post_init__(self) -> None:
        n = len(self.times)
        if self.state.shape != (n + 1,) or self.fresh.shape != (n + 1,) or self.predictions.shape != (n + 1, n):
            raise BadInput(f"sampler table {self.name}: {n} times, but the other columns have other lengths")
        if (self.clipped is None) != (self.clip is None):
            raise BadInput(f"sampler table {self.name}: clipped and clip belong together")
        if self.clipped is not None and self.clipped.shape != (n + 1, n):
            raise BadInput(f"sampler table {self.name}: {n} times, but clipped has another length")
        if not all(np.isfinite(column).all() for column in (self.times, self.state, self.predictions, self.fresh)):
            raise BadInput(f"sampler table {self.name}: a number is not finite")
        if np.any(np.triu(self.predictions)):
            raise BadInput(f"sampler table {self.name}: a row uses a prediction that does not exist yet")

    @property
    def evaluations(self) -> int:
        """How many times the network is asked."""
        return len(self.times)

    @property
    def stochastic(self) -> bool:
        """Whether a row adds fresh noise."""
        return bool(np.any(self.fresh))

    def needed(self, row: int) -> list[int]:
        """The earlier predictions that this row or a later one still needs."""
        return _used(self.predictions, row)

    def needed_clipped(self, row: int) -> list[int]:
        """The same of those clipped."""
        return [] if self.clipped is None else _used(self.clipped, row)

    @property
    def fullest(self) -> int:
        """How many evaluations it takes until as many predictions are kept as ever will be."""
        kept = [len(self.needed(row)) + len(self.needed_clipped(row)) for row in range(self.evaluations + 1)]
        return kept.index(max(kept))

    def first(self, evaluations: int) -> Table:
        """Its first ``evaluations``, all where it has fewer: what the next one would be asked about is the result."""
        n = min(evaluations, self.evaluations)
        return replace(
            self,
            times=self.times[:n],
            state=self.state[: n + 1],
            predictions=self.predictions[: n + 1, :n],
            fresh=self.fresh[: n + 1],
            clipped=None if self.clipped is None else self.clipped[: n + 1, :n],
        )


def run(
    table: Table, denoise: Callable[[Any, float], Any], noise: Any, fresh: Callable[[int], Any] | None = None
) -> Any:
    """Run ``table`` from ``noise`` ~ N(0, I), any shape.

    ``denoise(x, t)`` returns the clean-sample prediction; ``fresh(k)`` the k-th row's noise, needed only by stochastic
    tables.  Works on tensors and arrays alike.
    """
    x: Any = noise
    kept: dict[int, Any] = {}
    bounded: dict[int, Any] = {}
    for row in range(table.evaluations + 1):
        x = table.state[row].item() * x
        for j in kept:
            weight = table.predictions[row, j].item()
            if weight:
                x = x + weight * kept[j]
        for j in bounded:
            weight = table.clipped[row, j].item()  # type: ignore[index]
            if weight:
                x = x + weight * bounded[j]
        if table.fresh[row]:
            if fresh is None:
                raise ValueError(f"table {table.name} adds noise in row {row}: pass fresh")
            x = x + table.fresh[row].item() * fresh(row)
        if row < table.evaluations:
            kept = {j: kept[j] for j in table.needed(row + 1) if j != row}  # gone before the network needs memory
            bounded = {j: bounded[j] for j in table.needed_clipped(row + 1) if j != row}
            kept[row] = denoise(x, table.times[row].item())
            if row in table.needed_clipped(row + 1):
                bounded[row] = table.clip(kept[row])  # type: ignore[misc]
    return x


def _used(weights: Array, row: int) -> list[int]:
    used: list[int] = np.flatnonzero(weights[row:, :row].any(axis=0)).tolist()
    return used


class Rows:
    """Collects rows from a solver that is written with vectors over (starting noise, D_0.., z_0..)."""

    def __init__(self, name: str, schedule: Schedule, times: Array, evaluations: int) -> None:
        if not (len(times) >= 2 and np.all(np.diff(times) < 0) and times[0] <= 1 and times[-1] >= 0):
            raise BadInput(f"sampler {name}: times must fall strictly, from at most 1 to at least 0")
        self.name, self.schedule = name, schedule
        self.count = evaluations
        self.times: list[float] = []
        self.rows: list[Array] = []
        self.start = self._unit(0) * schedule.sigma(times[0])

    def _unit(self, place: int) -> Array:
        vector = np.zeros(2 + 2 * self.count)
        vector[place] = 1.0
        return vector

    def evaluate(self, x: Array, t: float) -> Array:
        """The network asked at (x, t): the vector of its prediction."""
        self.rows.append(x)
        self.times.append(float(t))
        return self._unit(len(self.rows))

    def noise(self) -> Array:
        """Fresh noise for the row that comes next."""
        return self._unit(1 + self.count + len(self.rows))

    def table(self, x: Array) -> Table:
        """The table whose result is ``x``.

        A row is written as the last one scaled to the same share of starting noise, plus a rest.  The rest holds no
        old fresh noise for any solver whose rows are a Markov chain or deterministic; others raise ValueError.
        """
        n = self.count
        if len(self.rows) != n:
            raise ValueError(f"{self.name}: {len(self.rows)} evaluations made, {n} declared")
        state, predictions, fresh = np.zeros(n + 1), np.zeros((n + 1, n)), np.zeros(n + 1)
        previous = self._unit(0)
        for k, row in enumerate([*self.rows, x]):
            state[k] = row[0] / previous[0] if previous[0] else 0.0
            rest = row - state[k] * previous
            rest[np.abs(rest) < NEGLIGIBLE * np.abs(row).max()] = 0.0
            predictions[k, :k], fresh[k] = rest[1 : 1 + k], rest[1 + n + k]
            if np.any(rest[1 + n : 1 + n + k]):
                raise ValueError(f"{self.name}: row {k} needs the fresh noise of an earlier row")
            previous = row
        return Table(self.name, np.asarray(self.times), state, predictions, fresh)
