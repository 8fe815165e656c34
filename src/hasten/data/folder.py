"""A folder of pictures as data: the first sub-folder is the label, whatever the files hold becomes RGB or grey.

Nothing outside the folder is read: links that leave it are refused.  Each picture is decoded once, into a cache that
is mapped into memory; after that, opening a folder costs one look at each file's size and time.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import PIL
from numpy.typing import NDArray

from hasten.data import picture
from hasten.data.array import Data, split
from hasten.data.cache import Add, cached
from hasten.errors import BadInput

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tiff", ".tif")
MOST_SKIPPED = 0.1
ASPECTS = (9 / 16, 2 / 3, 3 / 4, 1.0, 4 / 3, 3 / 2, 16 / 9)  # width to height, of screens, films and cameras
SMALL_BYTES = 3000  # files this small on average take Python longer than their decoder: threads only get in the way
AT_ONCE = 512  # files given to the threads together: bounds what waits to be written
Progress = Callable[[int, int], None]
Item = TypeVar("Item")
Found = TypeVar("Found")


@dataclass(frozen=True)
class _Bucket:
    """The pictures of one shape: which of the folder's could be read, and what was done to them."""

    samples: NDArray[np.uint8]
    paths: list[str]
    skipped: list[str]
    converted: Counter[str]
    touched: int


def load(
    path: Path | str,
    size: int | tuple[int, int] = 32,
    channels: int = 3,
    skip_bad: bool = False,
    *,
    buckets: bool = False,
    multiple: int = 8,
    progress: Progress | None = None,
) -> Data:
    """The pictures under ``path`` as uint8 (n, channels, height, width), in the order of their paths.

    Each is turned as its EXIF says, laid on white, cut to its middle and resized (Lanczos).  ``size``: of squares, or
    (height, width).  ``channels``: 3 or
    1 (grey).  The first animation frame or page counts.  With ``buckets``, pictures are instead cut to the nearest of a
    few shapes of about size * size pixels (:func:`shapes`), and ``Data.buckets`` has the data of each.  The result is
    cached until a name, size or time changes; ``progress(done, files)`` is told of the decoding.
    Raises BadInput for fewer than two pictures, for a link that leads out of the folder, and for the first picture that
    can't be read; with ``skip_bad`` only when more than a tenth can't.  ``Data.notes`` counts what was converted.
    """
    root = Path(path)
    high, wide = (size, size) if isinstance(size, int) else size
    if buckets and high != wide:
        raise BadInput(f"folder {root}: buckets are made around a square, {high}x{wide} was asked for; drop buckets")
    if channels not in picture.MODES:
        raise BadInput(f"folder {root}: channels = {channels} is not possible; use 3 (RGB) or 1 (grey)")
    if not root.is_dir():
        raise BadInput(f"data folder {root} is {'not a folder' if root.exists() else 'not there'}; pass a folder")
    files = sorted(_pictures(root))
    if len(files) < 2:
        found = f"only one picture ({files[0][0]})" if files else "no pictures"
        raise BadInput(f"folder {root} holds {found}; at least 2 are needed, sought: {', '.join(SUFFIXES)}")
    paths = [name for name, _, _ in files]
    known = repr((str(root.resolve()), files, PIL.__version__, picture.VERSION)).encode("utf-8", "surrogateescape")
    key = hashlib.sha256(known).hexdigest()[:32]
    small = sum(file_bytes for _, file_bytes, _ in files) < SMALL_BYTES * len(files)
    threads = 1 if small else os.cpu_count() or 1

    wanted = {(high, wide): paths}
    if buckets:
        key, wanted = f"{key}-{high}-{multiple}", _by_shape(root, key, paths, shapes(high, multiple), threads)
    read, done = [], 0
    for (high, wide), names in wanted.items():
        tell = None if progress is None else (lambda n, before=done: progress(before + n, len(paths)))
        read.append(_decoded(root, key, names, (channels, high, wide), skip_bad, threads, tell))
        done += len(names)
    notes = _notes(root, read, len(paths))

    label_names = tuple(sorted({_label(root, name) for bucket in read for name in bucket.paths}))
    number = {name: i for i, name in enumerate(label_names)}
    made = []
    for bucket in sorted((b for b in read if b.paths), key=lambda b: -len(b.paths)):
        labels = np.asarray([number[_label(root, name)] for name in bucket.paths], dtype=np.int64)
        name = root.name or "folder"
        made.append(Data(name, bucket.samples, labels, label_names, split(bucket.paths), notes=notes))
    return replace(made[0], buckets=tuple(made)) if buckets else made[0]


def shapes(size: int, multiple: int) -> list[tuple[int, int]]:
    """The few (height, width) of about ``size * size`` pixels that pictures are cut to, multiples of ``multiple``."""

    def near(length: float) -> int:
        return max(1, round(length / multiple)) * multiple

    return sorted({(near(size / math.sqrt(aspect)), near(size * math.sqrt(aspect))) for aspect in ASPECTS})


def _label(root: Path, name: str) -> str:
    first, inner, _ = name.partition("/")
    return first if inner else root.resolve().name


def _pictures(root: Path) -> Iterator[tuple[str, int, int]]:
    """Relative path ("label/name.png"), bytes and time of what looks like a picture; hidden ones are passed over."""
    inside, folders = root.resolve(), [""]
    while folders:
        prefix = folders.pop()
        try:
            with os.scandir(root / prefix) as scan:
                entries = [entry for entry in scan if not entry.name.startswith(".")]
        except OSError as error:
            raise BadInput(f"{root / prefix} can't be listed ({error.strerror}); check the folder") from error
        for entry in entries:
            try:
                is_folder = entry.is_dir()
            except OSError:  # a link to itself
                is_folder = False
            if not is_folder and not entry.name.lower().endswith(SUFFIXES):
                continue
            is_link = entry.is_symlink()
            if is_link and not _resolved(entry.path).is_relative_to(inside):
                raise BadInput(f"{entry.path} is a link that leads out of {root}; copy the pictures there instead")
            if not is_folder:
                status = entry.stat(follow_symlinks=is_link and Path(entry.path).exists())
                yield prefix + entry.name, status.st_size, status.st_mtime_ns
            elif not is_link:
                folders.append(f"{prefix}{entry.name}/")


def _resolved(path: str) -> Path:
    """Where a link leads; of one that leads to itself, where it lies."""
    try:
        return Path(path).resolve()
    except (OSError, RuntimeError):
        return Path(path).parent.resolve()


def _by_shape(
    root: Path, key: str, paths: list[str], known: list[tuple[int, int]], threads: int
) -> dict[tuple[int, int], list[str]]:
    """The pictures of each shape: the one whose proportions are nearest; the extents are cached."""

    def make(add: Add) -> dict[str, Any]:
        with closing(_each(lambda name: picture.extent(root / name), paths, threads)) as results:
            for found in results:
                add(np.asarray(found or (1, 1)))  # what can't be read is told when it is decoded
        return {}

    extents = cached("folder", f"{key}-extents", (2,), np.int32, len(paths), make).samples.astype(np.float64)
    aspects = np.log([wide / high for high, wide in known])
    nearest = np.abs(np.log(extents[:, :1] / extents[:, 1:]) - aspects).argmin(axis=1)
    chosen = {shape: [paths[i] for i in np.flatnonzero(nearest == n)] for n, shape in enumerate(known)}
    return {shape: names for shape, names in chosen.items() if names}


def _decoded(
    root: Path,
    key: str,
    paths: list[str],
    shape: tuple[int, int, int],
    skip_bad: bool,
    threads: int,
    progress: Callable[[int], None] | None,
) -> _Bucket:
    """All of ``paths`` in one shape, from the cache where they are there."""

    def make(add: Add) -> dict[str, Any]:
        bad: dict[int, str] = {}
        converted: Counter[str] = Counter()
        touched = 0
        with closing(_each(lambda name: picture.read(root / name, shape), paths, threads)) as results:
            for i, result in enumerate(results):
                if progress is not None and (i + 1) % AT_ONCE == 0:
                    progress(i + 1)
                if isinstance(result, str):
                    bad[i] = result
                    if not skip_bad:
                        _refuse(f"{root / paths[i]}: {result}")
                    continue
                pixels, how = result
                add(pixels)
                converted.update(how)
                touched += bool(how)
        if progress is not None:
            progress(len(paths))
        return {"bad": bad, "converted": converted, "touched": touched}

    name = f"{key}-{'x'.join(map(str, shape))}"
    samples, about = cached("folder", name, shape, np.uint8, len(paths), make)
    bad = {int(i): why for i, why in about["bad"].items()}
    skipped = [f"{root / paths[i]}: {why}" for i, why in bad.items()]
    if skipped and not skip_bad:
        _refuse(skipped[0])
    kept = [name for i, name in enumerate(paths) if i not in bad]
    return _Bucket(samples, kept, skipped, Counter(about["converted"]), about["touched"])


def _refuse(bad: str) -> None:
    raise BadInput(f"{bad}; repair or remove it, or write skip_bad = true in [data] of the recipe")


def _each(call: Callable[[Item], Found], items: Sequence[Item], threads: int) -> Generator[Found]:
    """``call`` of each item, in order; few results wait, and when the caller stops, nothing goes on."""
    with picture.strict():
        if threads == 1:
            yield from map(call, items)
            return
        with ThreadPoolExecutor(threads) as pool:
            try:
                for start in range(0, len(items), AT_ONCE):
                    yield from pool.map(call, items[start : start + AT_ONCE])
            finally:
                pool.shutdown(wait=False, cancel_futures=True)


def _notes(root: Path, read: list[_Bucket], total: int) -> tuple[str, ...]:
    """A line on what was converted and one on what was skipped; raises BadInput when that is too much."""
    skipped = [line for bucket in read for line in bucket.skipped]
    kept = sum(len(bucket.paths) for bucket in read)
    if len(skipped) > MOST_SKIPPED * total or kept < 2:
        raise BadInput(
            f"folder {root}: {len(skipped)} of {total} pictures can't be read, at most {MOST_SKIPPED:.0%} may be "
            f"skipped; repair or remove them, the first is {skipped[0]}"
        )
    notes = []
    touched = sum(bucket.touched for bucket in read)
    if touched:
        converted = sum((bucket.converted for bucket in read), Counter[str]())
        kinds = ", ".join(f"{count} {kind}" for kind, count in converted.most_common())
        notes.append(f"folder {root}: {touched} of {total} pictures were converted ({kinds})")
    if skipped:
        notes.append(f"folder {root}: {len(skipped)} of {total} pictures were skipped, the first is {skipped[0]}")
    return tuple(notes)
