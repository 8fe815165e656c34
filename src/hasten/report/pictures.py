"""The section of samples: before, after and their difference as grids, and the pairs that drifted most, one by one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from hasten.report import charts, grids, words
from hasten.report.result import Result
from hasten.report.svg import both

MOST_CURVES = 4


def section(result: Result, samples: grids.Samples) -> dict[str, Any]:
    """Samples: ``sides`` (grids) or a ``chart``, the ``worst`` pairs, their ``order`` and a ``note``."""
    both_sides = (("before", samples.baseline), ("after", samples.candidate))
    present = {side: array for side, array in both_sides if array is not None and len(array)}
    found: dict[str, Any] = {
        "sides": [], "names": [], "chart": None, "worst": [], "worst_chart": None, "pairs": 0, "middle": None,
        "factor": 1, "order": "", "note": "",
    }  # fmt: skip
    if not present:
        return found | {"note": "This run left no samples."}
    shape = tuple(int(n) for n in next(iter(present.values())).shape[1:])
    drawn = grids.kind(shape)
    if drawn == "nothing":
        return found | {"note": f"Samples of shape {shape} are not drawn."}
    moved = grids.drifts(present["before"], present["after"]) if len(present) > 1 else None
    worst = [] if moved is None else np.argsort(moved, kind="stable")[: grids.MOST_WORST].tolist()
    worst = [index for index in worst if moved is not None and moved[index] < grids.IDENTICAL_DB]
    if moved is not None and len(moved):
        found |= {"pairs": len(moved), "middle": float(np.median(moved))}
    alone = f"Only the {'baseline' if 'before' in present else 'candidate'}'s samples."
    if drawn == "curves":
        alt = f"Curves of a few samples: {' and '.join(present)}."
        first = list(range(min(MOST_CURVES, *map(len, present.values()))))
        order = "From the same noise, one on top of the other." if moved is not None else alone
        found |= {"chart": _curves(alt, samples, first, moved), "order": order}
        if worst:
            found["worst_chart"] = _curves(f"The worst pairs. {alt}", samples, worst[:MOST_CURVES], moved)
        return found
    order = "From the same noise, in the same order: a sample and its counterpart have the same place in every grid."
    return (
        found
        | {"order": order if moved is not None else alone, "note": grids.note(shape)}
        | _grids(result, samples.labels, present, moved, worst)
    )


def _curves(alt: str, samples: grids.Samples, chosen: list[int], moved: NDArray[np.float64] | None) -> Markup:
    """The chart of the ``chosen`` samples."""
    before, after = (None if a is None else a[chosen] for a in (samples.baseline, samples.candidate))
    titles = [_sample(index, samples.labels, moved) for index in chosen]
    return both(alt, lambda width: charts.curves(before, after, titles, width))


def _grids(
    result: Result,
    labels: NDArray[np.int64] | None,
    present: dict[str, NDArray[np.float32]],
    moved: NDArray[np.float64] | None,
    worst: list[int],
) -> dict[str, Any]:
    """The first samples as one grid a side, their difference, and the ``worst`` pairs one by one."""
    room = grids.most(grids.pictures(next(iter(present.values()))[:1]).shape[1:3])
    first = {side: grids.pictures(array[:room]) for side, array in present.items()}
    far = {side: grids.pictures(array[worst[:room]]) for side, array in present.items()}
    factor = 1
    if moved is not None:
        here, there = (grids.difference(pair["before"], pair["after"]) for pair in (first, far))
        factor = grids.amplification(np.concatenate([here, there]))
        first["difference"], far["difference"] = grids.brighter(here, factor), grids.brighter(there, factor)
    title = {"before": "Before", "after": "After", "difference": f"Difference \u00d7 {factor}"}
    told = {"before": result.baseline, "after": result.candidate}
    count = len(next(iter(first.values())))
    names = [_sample(index, labels, moved) for index in range(count)]
    sides = []
    for side, tiles in first.items():
        grid = grids.grid(tiles)
        alt = f"{title[side]}: {grid.count} samples, {grid.columns} in a row"
        if labels is not None:
            alt += ", labels " + " ".join(str(label) for label in labels[:count].tolist())
        variant = told.get(side)
        label = f"amplified {factor}\u00d7" if side == "difference" else words.label(variant.label) if variant else ""
        sides.append({"side": side, "label": label, "alt": alt, "grid": grid})
    pairs = [
        {
            "name": _sample(index, labels, None),
            "drift": _drift(moved, index),
            "sides": [
                {
                    "side": side,
                    "grid": grids.grid(tiles[place : place + 1]),
                    "alt": f"{title[side]}: {_sample(index, labels, None)}",
                }
                for side, tiles in far.items()
            ],
        }
        for place, index in enumerate(worst[:room])
    ]
    return {"sides": sides, "names": [f"All {count} samples", *names], "worst": pairs, "factor": factor}


def _sample(index: int, labels: NDArray[np.int64] | None, moved: NDArray[np.float64] | None) -> str:
    """What a sample is called: its place, its label and how far it moved, where they are known."""
    label = "" if labels is None else f", label {labels[index]}"
    return f"sample {index + 1}{label}" + ("" if moved is None else f": drift {_drift(moved, index)}")


def _drift(moved: NDArray[np.float64] | None, index: int) -> str:
    if moved is None:
        return ""
    return words.decibel(float(moved[index])) if math.isfinite(moved[index]) else "not finite"
