"""Samples that are dear to make, kept on disk: made once, mapped into memory ever after.

An entry is a folder of two files: ``samples.npy``, which is mapped and not read (opening it costs no memory, and what
is read of it stays in the system's page cache, where all processes share it), and ``about.json``, what its maker has to
say.  An entry is written sample by sample beside its place, and renamed when it is whole: it never needs the memory of
its samples, and no half of it is ever seen.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib import format as npy
from numpy.typing import DTypeLike, NDArray

from hasten.files import cache_folder, temporary

SAMPLES, ABOUT = "samples.npy", "about.json"


class Entry(NamedTuple):
    """``samples`` (count, *shape), mapped from their file where there is one, and what is known ``about`` them."""

    samples: NDArray[Any]
    about: dict[str, Any]


Add = Callable[[NDArray[Any]], None]
Make = Callable[[Add], dict[str, Any]]


class _UnwritableError(Exception):
    """The entry can't be kept: no room, no right, no disk."""


def cached(kind: str, name: str, shape: tuple[int, ...], dtype: DTypeLike, most: int, make: Make) -> Entry:
    """The entry ``<cache>/<kind>/<name>``; made, and kept there, when it is missing or damaged.

    ``make(add)`` calls ``add`` with each sample (*shape) in turn, at most ``most`` of them, and returns what is to be
    known about them (JSON).  An entry is damaged when shape, type or length are not what they should be.  The cache
    only saves time and memory: where nothing can be written, the samples are made each time, and held in memory.
    Whatever ``make`` raises, Ctrl-C too, passes through and leaves nothing behind.
    """
    dtype = np.dtype(dtype)
    try:
        place = cache_folder(kind) / name
    except OSError:
        return _in_memory(shape, dtype, most, make)
    found = _read(place, shape, dtype)
    if found is None:
        with suppress(_UnwritableError):
            _write(place, shape, dtype, most, make)
            found = _read(place, shape, dtype)
    return found or _in_memory(shape, dtype, most, make)


def _read(place: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Entry | None:
    path = place / SAMPLES
    try:
        about = json.loads((place / ABOUT).read_text(encoding="utf-8"))
        samples = npy.open_memmap(path, mode="r")  # refuses pickled objects
        expected = (about.pop("count"), *shape)
        whole = path.stat().st_size == samples.offset + samples.nbytes
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None
    if not whole or samples.shape != expected or samples.dtype != dtype:
        return None
    return Entry(samples.view(np.ndarray), about)  # a plain array over the map: memmap's own indexing is slower


def _write(place: Path, shape: tuple[int, ...], dtype: np.dtype[Any], most: int, make: Make) -> None:
    """Make the entry in a folder beside ``place``, then put it there, in the place of a damaged one."""
    with ExitStack() as stack:
        try:
            made = stack.enter_context(temporary(place, folder=True))
            if shutil.disk_usage(made).free < most * dtype.itemsize * int(np.prod(shape)):
                raise _UnwritableError
        except OSError as error:
            raise _UnwritableError from error
        about = _write_samples(made / SAMPLES, shape, dtype, most, make)
        try:
            with (made / ABOUT).open("w", encoding="utf-8") as file:
                json.dump(about, file)
                file.flush()
                os.fsync(file.fileno())
            if _read(place, shape, dtype) is None:  # else another process was quicker, with the same
                shutil.rmtree(place, ignore_errors=True)
                made.rename(place)
        except OSError as error:
            if not place.is_dir():
                raise _UnwritableError from error


def _write_samples(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], most: int, make: Make) -> dict[str, Any]:
    """Stream the samples into a ``.npy`` file; what is known about them, and their ``count``."""
    count = 0
    try:
        file = path.open("wb", buffering=1 << 20)
    except OSError as error:
        raise _UnwritableError from error

    def write_header(length: int) -> None:  # numpy pads it so that a length of any digits fits
        header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": (length, *shape)}
        npy.write_array_header_1_0(file, header)

    def add(sample: NDArray[Any]) -> None:
        nonlocal count
        if sample.shape != shape or count == most:
            raise ValueError(f"{path}: sample {count} of at most {most} has the shape {sample.shape}, not {shape}")
        try:
            file.write(np.ascontiguousarray(sample, dtype).data)
        except OSError as error:
            raise _UnwritableError from error
        count += 1

    try:
        write_header(most)
        about = make(add)
        try:
            file.seek(0)
            write_header(count)
            file.flush()
            os.fsync(file.fileno())
        except OSError as error:
            raise _UnwritableError from error
    finally:
        with suppress(OSError):  # what could not be flushed was raised above
            file.close()
    return {**about, "count": count}


def _in_memory(shape: tuple[int, ...], dtype: np.dtype[Any], most: int, make: Make) -> Entry:
    samples = np.empty((most, *shape), dtype)
    count = 0

    def add(sample: NDArray[Any]) -> None:
        nonlocal count
        samples[count] = sample
        count += 1

    about = make(add)
    return Entry(samples[:count], about)
