"""Data in memory: samples of any shape with a label each and a fixed held-out split."""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hasten.errors import BadInput
from hasten.files import cache_folder, replacing

HELD_OUT_SHARE = 0.1


@dataclass(frozen=True)
class Data:
    """``samples`` (n, *shape): uint8 pictures, channels first, or float32; ``labels`` (n,) int64; ``held_out`` (n,).

    ``notes``: a line on each thing that was done to the data on the way in, for a person to read.
    """

    name: str
    samples: NDArray[np.uint8] | NDArray[np.float32]
    labels: NDArray[np.int64]
    label_names: tuple[str, ...]
    held_out: NDArray[np.bool_]
    attribution: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.samples)
        if len(self.labels) != count or len(self.held_out) != count:
            raise BadInput(f"{self.name}: {count} samples, {len(self.labels)} labels, {len(self.held_out)} split marks")

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return tuple(self.samples.shape[1:])

    def part(self, held_out: bool) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The training or the held-out part as float32 (pictures in [-1, 1]) and its labels."""
        chosen = self.held_out == held_out
        return as_float(self.samples[chosen]), self.labels[chosen]


def as_float(samples: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.float32]:
    """uint8 [0, 255] to float32 [-1, 1]; floats stay what they are."""
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) / 127.5 - 1.0).astype(np.float32)
    return samples.astype(np.float32)


def split(keys: Sequence[str], share: float = HELD_OUT_SHARE) -> NDArray[np.bool_]:
    """True for about ``share`` of the keys, by the CRC-32 of each alone: the same on every machine, at every size.

    Of two keys or more, one at least is held out.
    """
    places = np.asarray([zlib.crc32(key.encode("utf-8", "surrogateescape")) % 10_000 for key in keys])
    held_out = np.asarray(places < share * 10_000, dtype=np.bool_)
    if len(keys) > 1 and not held_out.any():
        held_out[places.argmin()] = True
    return held_out


def cached(kind: str, name: str, make: Callable[[], dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """The arrays of ``<cache>/<kind>/<name>.npz``; made, and kept there, when it is missing or damaged.

    The cache only saves time: where nothing can be written there, the arrays are made each time.
    """
    try:
        path = cache_folder(kind) / f"{name}.npz"
    except OSError:
        return make()
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error):
        arrays = make()
    with contextlib.suppress(OSError, BadInput), replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # its stub mixes up allow_pickle
    return arrays
