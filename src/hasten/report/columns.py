"""Columns of figures by step, as curves show them: smoothed, and in few enough points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Column = NDArray[np.float64]


def column(values: Sequence[float | None]) -> Column:
    """The values (n,), NaN where one is missing."""
    return np.array([math.nan if value is None else float(value) for value in values], dtype=np.float64)


def running_mean(values: Column, window: int) -> Column:
    """The mean (n,) of each value and the ``window - 1`` before it, over those that are not NaN."""
    known = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(known)])
    first = np.maximum(np.arange(len(values)) + 1 - window, 0)
    ends = np.arange(len(values)) + 1
    number = counts[ends] - counts[first]
    return np.where(number > 0, (sums[ends] - sums[first]) / np.maximum(number, 1), math.nan)


@dataclass(frozen=True)
class Binned:
    """A curve of few points: ``x``, the ``mean``, the ``low``est and the ``high``est (m,) of each stretch of lines."""

    x: Column
    mean: Column
    low: Column
    high: Column


def binned(x: Column, y: Column, most: int) -> Binned:
    """``y`` over ``x`` (n,) in at most ``most`` stretches of equally many values; those that are not finite are left
    out."""
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    if len(x) <= most:
        return Binned(x, y, y, y)
    edges = np.arange(most + 1) * len(x) // most
    first, sizes = edges[:-1], np.diff(edges)
    return Binned(
        np.add.reduceat(x, first) / sizes,
        np.add.reduceat(y, first) / sizes,
        np.minimum.reduceat(y, first),
        np.maximum.reduceat(y, first),
    )
