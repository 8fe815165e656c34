"""Samples as PNG grids in data URIs, and what to draw of samples that are no pictures.

A picture is (1 | 3, h, w) in [-1, 1].  Of other shapes a picture is taken where that says something: the first channel
of (c, h, w), the middle slice of a volume (c, d, h, w), a heat map of many channels (c, l).  Curves, (l,) and a few
channels (c, l), are left to ``charts``; other shapes are not drawn.
"""

from __future__ import annotations

import base64
import math
import zipfile
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hasten.errors import BadInput
from hasten.report.terminal import plain

UNREADABLE = (
    *(OSError, ValueError, EOFError, TypeError, AttributeError, KeyError, SyntaxError, MemoryError, OverflowError),
    *(RuntimeError, zipfile.BadZipFile, zlib.error),
)
MOST_TILES = 64
MOST_PIXELS = 1_100_000
MOST_WORST = 6
MOST_AMPLIFIED = 64
GUTTER = 1
CURVE_CHANNELS = 8
SPAN = 2.0  # of pictures, which are in [-1, 1]
IDENTICAL_DB = 150.0


@dataclass(frozen=True)
class Samples:
    """``baseline`` and ``candidate`` (n, *shape) from the same noise, ``labels`` (n,); None where there are none."""

    baseline: NDArray[np.float32] | None = None
    candidate: NDArray[np.float32] | None = None
    labels: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Grid:
    """One grid: the PNG as a data URI, its size and a tile's (h, w) in pixels, how many samples in how many columns."""

    uri: str
    width: int
    height: int
    tile: tuple[int, int]
    count: int
    columns: int
    pixelated: bool


def read(path: Path) -> Samples:
    """The samples in ``path``; none when there is no such file.  Raises BadInput when it can't be read or disagrees."""
    if not path.exists():
        return Samples()
    if not path.is_file():
        raise BadInput(plain(f"{path} is no regular file; remove it or run hasten optimize again"))
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            found: dict[str, NDArray[Any]] = {
                name: arrays[name] for name in ("baseline", "candidate", "labels") if name in arrays
            }
        pairs = [found[name].astype(np.float32) for name in ("baseline", "candidate") if name in found]
    except UNREADABLE as error:
        what = plain(f"{path} can't be read as arrays ({error})")
        raise BadInput(f"{what}; remove it or run hasten optimize again") from error
    if len({a.shape for a in pairs}) > 1 or any(a.ndim < 1 for a in pairs):
        shapes = " and ".join(str(a.shape) for a in pairs)
        raise BadInput(f"{path} holds arrays of shapes {shapes}, not equal (n, *shape); run hasten optimize again")
    labels = found.get("labels")
    if labels is not None and pairs and labels.shape != pairs[0].shape[:1]:
        raise BadInput(f"{path} holds {len(pairs[0])} samples and labels of shape {labels.shape}; run it again")
    taken = dict(zip((name for name in ("baseline", "candidate") if name in found), pairs, strict=True))
    return Samples(taken.get("baseline"), taken.get("candidate"), labels)


def kind(shape: tuple[int, ...]) -> str:
    """``pictures``, ``curves`` or ``nothing``: how samples of ``shape`` are drawn."""
    if any(n < 1 for n in shape):
        return "nothing"
    if len(shape) in (3, 4) or (len(shape) == 2 and shape[0] > CURVE_CHANNELS):
        return "pictures"
    return "curves" if shape and len(shape) <= 2 and shape[-1] > 1 else "nothing"


def note(shape: tuple[int, ...]) -> str:
    """What part of a sample a tile shows, when it is not the whole; empty for (1 | 3, h, w)."""
    if len(shape) == 4:
        return f"Each tile is the middle slice of the first channel of a volume of shape {shape}."
    if len(shape) == 3 and shape[0] not in (1, 3):
        return f"Each tile is the first of {shape[0]} channels."
    return f"Each tile is a heat map of {shape[0]} channels by {shape[1]} points." if len(shape) == 2 else ""


def pictures(samples: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(n, *shape) of a ``pictures`` kind as uint8 (n, h, w, 3); clipped to [-1, 1], what is not finite becomes 0."""
    if samples.ndim == 5:
        samples = samples[:, :1, samples.shape[2] // 2]
    elif samples.ndim == 4 and samples.shape[1] not in (1, 3):
        samples = samples[:, :1]
    elif samples.ndim == 3:
        samples = samples[:, None]
    finite = np.nan_to_num(samples, nan=0.0, posinf=1.0, neginf=-1.0).clip(-1.0, 1.0)
    levels = np.rint((finite + 1.0) * 127.5).astype(np.uint8).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(np.broadcast_to(levels, (*levels.shape[:3], 3)))


def most(shape: tuple[int, ...]) -> int:
    """How many pictures (h, w) there is room for in one grid."""
    return max(1, min(MOST_TILES, MOST_PIXELS // (shape[0] * shape[1])))


def grid(tiles: NDArray[np.uint8]) -> Grid:
    """Pictures (n, h, w, 3) row by row, in a grid as square as it gets; the gutters are transparent."""
    count, height, width = tiles.shape[:3]
    columns = max(1, min(count, round(math.sqrt(count * height / width))))
    rows = math.ceil(count / columns)
    canvas = np.zeros((rows * (height + GUTTER) - GUTTER, columns * (width + GUTTER) - GUTTER, 4), np.uint8)
    for index, tile in enumerate(tiles):
        top, left = (index // columns) * (height + GUTTER), (index % columns) * (width + GUTTER)
        canvas[top : top + height, left : left + width, :3] = tile
        canvas[top : top + height, left : left + width, 3] = 255
    buffer = BytesIO()
    Image.fromarray(canvas).save(buffer, format="PNG", optimize=True)
    uri = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    pixelated = canvas.shape[1] < 800
    return Grid(uri, canvas.shape[1], canvas.shape[0], (height, width), count, columns, pixelated)


def drifts(before: NDArray[np.float32], after: NDArray[np.float32]) -> NDArray[np.float64]:
    """(n,) decibels, ``10 log10(4 / mse)`` of each pair: less has moved more, and -inf is not finite."""
    return np.asarray([_drift(b, a) for b, a in zip(before, after, strict=True)])


def _drift(before: NDArray[np.float32], after: NDArray[np.float32]) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        error = float(np.square(after.astype(np.float64) - before).mean())
    if not math.isfinite(error):
        return -math.inf
    return IDENTICAL_DB if error == 0.0 else min(10.0 * math.log10(SPAN * SPAN / error), IDENTICAL_DB)


def amplification(differences: NDArray[np.uint8]) -> int:
    """The power of two that makes differences as bright as they get with at most one value in 200 cut off."""
    strong = max(float(np.percentile(differences, 99.5)), 1.0)
    return min(MOST_AMPLIFIED, 1 << int(math.log2(255.0 / strong)))


def difference(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """How far two pictures are from each other, value by value: black is equal."""
    return np.maximum(before, after) - np.minimum(before, after)


def brighter(differences: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """``differences`` times ``factor``, cut off at white."""
    return np.minimum(differences.astype(np.uint16) * factor, 255).astype(np.uint8)


def not_finite(samples: NDArray[np.float32] | None) -> int:
    """How many samples hold a NaN or an infinity."""
    return 0 if samples is None else int((~np.isfinite(samples)).reshape(len(samples), -1).any(axis=1).sum())
