"""Samples of any shape with a label each and a fixed held-out split; in memory, or mapped from a file."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hasten.errors import BadInput

HELD_OUT_SHARE = 0.1


@dataclass(frozen=True)
class Data:
    """``samples`` (n, *shape): uint8 pictures, channels first, or floats; ``labels`` (n,) int64; ``held_out`` (n,).

    ``samples`` may be mapped from a file, and then can't be written to.  ``notes``: a line on each thing that was done
    to the data on the way in, for a person to read.  ``buckets``: data whose samples differ in shape, each shape as
    Data of its own; the first of them is this one, the shape with the most samples, so that all who need one shape
    find it here.  Samples are then numbered through all buckets in turn.  ``again``: the name or path by which
    :func:`hasten.data.loader.by_name` finds it again; empty for arrays of one's own.
    """

    name: str
    samples: NDArray[np.uint8] | NDArray[np.floating[Any]]
    labels: NDArray[np.int64]
    label_names: tuple[str, ...]
    held_out: NDArray[np.bool_]
    attribution: str = ""
    notes: tuple[str, ...] = ()
    buckets: tuple[Data, ...] = ()
    again: str = ""

    def __post_init__(self) -> None:
        count = len(self.samples)
        if len(self.labels) != count or len(self.held_out) != count:
            raise BadInput(f"{self.name}: {count} samples, {len(self.labels)} labels, {len(self.held_out)} split marks")

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return tuple(self.samples.shape[1:])

    def ids(self, held_out: bool) -> NDArray[np.int64]:
        """Which samples (m,) are the training or the held-out part, in order."""
        return np.flatnonzero(self.held_out == held_out)

    def take(self, ids: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """These samples (m, *shape) as float32, pictures in [-1, 1], and their labels (m,); nothing else is read."""
        return as_float(self.samples[ids]), self.labels[ids]

    def part(
        self, held_out: bool, most: int | None = None, seed: int = 0
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The training or the held-out part as float32 (pictures in [-1, 1]) and its labels, all of it in memory.

        With ``most``, of a larger part so many, one from each of as many equal stretches, drawn by ``seed``: so labels
        that lie together stay as frequent as they are.
        """
        ids = self.ids(held_out)
        if most is not None and most < len(ids):
            edges = np.arange(most + 1) * len(ids) // most
            ids = ids[np.random.default_rng(seed).integers(edges[:-1], edges[1:])]
        return self.take(ids)

    def digest(self) -> str:
        """What the data are, as 64 hexadecimal digits: SHA-256 of samples, labels and split, without a copy of them."""
        found = hashlib.sha256()
        for data in self.buckets or (self,):
            for values in (data.samples, data.labels, data.held_out):
                found.update(f"{values.dtype.str}{values.shape}".encode())
                found.update(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
        return found.hexdigest()


def as_float(samples: NDArray[np.uint8] | NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """uint8 [0, 255] to float32 [-1, 1]; floats keep their values.  Always a copy."""
    floats = samples.astype(np.float32)
    if samples.dtype == np.uint8:
        floats /= 127.5
        floats -= 1.0
    return floats


def split(keys: Sequence[str], share: float = HELD_OUT_SHARE) -> NDArray[np.bool_]:
    """True for about ``share`` of the keys, by the CRC-32 of each alone: the same on every machine, at every size.

    Of two keys or more, one at least is held out.
    """
    places = np.asarray([zlib.crc32(key.encode("utf-8", "surrogateescape")) % 10_000 for key in keys])
    held_out = np.asarray(places < share * 10_000, dtype=np.bool_)
    if len(keys) > 1 and not held_out.any():
        held_out[places.argmin()] = True
    return held_out
