"""A folder of pictures as data: the first sub-folder is the label, whatever the files hold becomes square RGB or grey.

Nothing outside the folder is read (links that leave it are refused), only the decoders of ``FORMATS`` are let at the
files, and a picture of more pixels than Pillow's limit is refused before it is decoded.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image, ImageOps

from hasten.data.array import Data, cached, split
from hasten.errors import BadInput

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tiff", ".tif")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
MOST_SKIPPED = 0.1
MODES = {3: "RGB", 1: "L"}
ORIENTATION = 0x0112


def load(path: Path | str, size: int = 32, channels: int = 3, skip_bad: bool = False) -> Data:
    """The pictures under ``path`` as uint8 (n, channels, size, size), in the order of their paths.

    Each is turned as its EXIF says, laid on white, cut to its central square and resized (Lanczos).  ``channels``: 3 or
    1 (grey).  The first animation frame or page counts.  The result is cached until a name, size or time changes.
    Raises BadInput for fewer than two pictures, for a link that leads out of the folder, and for the first picture that
    can't be read; with ``skip_bad`` only when more than a tenth can't.  ``Data.notes`` counts what was converted.
    """
    root = Path(path)
    if channels not in MODES:
        raise BadInput(f"folder {root}: channels = {channels} is not possible; use 3 (RGB) or 1 (grey)")
    if not root.is_dir():
        raise BadInput(f"data folder {root} is {'not a folder' if root.exists() else 'not there'}; pass a folder")
    paths = sorted(_pictures(root))
    if len(paths) < 2:
        found = f"only one picture ({paths[0]})" if paths else "no pictures"
        raise BadInput(f"folder {root} holds {found}; at least 2 are needed, sought: {', '.join(SUFFIXES)}")

    status = [(name, (stat := (root / name).lstat()).st_size, stat.st_mtime_ns) for name in paths]
    asked = (status, size, channels, skip_bad, PIL.__version__)
    key = hashlib.sha256(repr((str(root.resolve()), asked)).encode("utf-8", "surrogateescape")).hexdigest()[:32]
    arrays = cached("folder", key, lambda: _read_all(root, paths, size, channels, skip_bad))

    kept = [paths[i] for i in arrays["kept"]]
    of = [name.partition("/")[0] if "/" in name else root.resolve().name for name in kept]
    names = tuple(sorted(set(of)))
    labels = np.asarray([names.index(label) for label in of], dtype=np.int64)
    notes = tuple(arrays["notes"].tolist())
    return Data(root.name or "folder", arrays["pictures"], labels, names, split(kept), notes=notes)


def _pictures(root: Path) -> Iterator[str]:
    """The relative paths ("label/name.png") of what looks like a picture; hidden files and folders are passed over."""
    inside = root.resolve()
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in [*folders, *(f for f in files if f.lower().endswith(SUFFIXES) and not f.startswith("."))]:
            path = Path(folder, name)
            if path.is_symlink() and not path.resolve().is_relative_to(inside):
                raise BadInput(f"{path} is a link that leads out of {root}; copy the pictures there instead")
            if name not in folders:
                yield path.relative_to(root).as_posix()


def _read_all(root: Path, paths: list[str], size: int, channels: int, skip_bad: bool) -> dict[str, NDArray[Any]]:
    """``pictures``, which of ``paths`` they are (``kept``), and ``notes``."""
    pictures = np.empty((len(paths), channels, size, size), dtype=np.uint8)
    kept: list[int] = []
    bad: list[str] = []
    converted: Counter[str] = Counter()
    touched = 0
    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        warnings.simplefilter("ignore")  # remarks on metadata; what can't be decoded raises
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            for i, result in enumerate(pool.map(lambda name: _read(root / name, size, channels), paths)):
                if isinstance(result, str):
                    bad.append(f"{root / paths[i]}: {result}")
                    if not skip_bad:
                        raise BadInput(f"{bad[0]}; repair or remove it, or let such files be skipped (--skip-bad)")
                    continue
                pictures[len(kept)], how = result
                kept.append(i)
                converted.update(how)
                touched += bool(how)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    if len(bad) > MOST_SKIPPED * len(paths) or len(kept) < 2:
        raise BadInput(
            f"folder {root}: {len(bad)} of {len(paths)} pictures can't be read, at most {MOST_SKIPPED:.0%} may be "
            f"skipped; repair or remove them, the first is {bad[0]}"
        )
    notes = []
    if touched:
        kinds = ", ".join(f"{count} {kind}" for kind, count in converted.most_common())
        notes.append(f"folder {root}: {touched} of {len(paths)} pictures were converted ({kinds})")
    if bad:
        notes.append(f"folder {root}: {len(bad)} of {len(paths)} pictures were skipped, the first is {bad[0]}")
    return {"pictures": pictures[: len(kept)], "kept": np.asarray(kept), "notes": np.asarray(notes, dtype=np.str_)}


def _read(path: Path, size: int, channels: int) -> tuple[NDArray[np.uint8], list[str]] | str:
    """The picture (channels, size, size) and how it had to be converted; or why it can't be read."""
    if not path.is_file():  # a pipe or a device would block
        return "not a regular file"
    try:
        with Image.open(path, formats=FORMATS) as file:
            file.load()
            how = ["turned by EXIF"] if file.getexif().get(ORIENTATION, 1) != 1 else []
            image = ImageOps.exif_transpose(file)
    except PIL.UnidentifiedImageError:
        return f"not a picture of a known format ({', '.join(FORMATS)})"
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        return f"more than {Image.MAX_IMAGE_PIXELS or 0:,} pixels, a decompression bomb"
    except Exception as error:  # decoders fail on damaged files in any way there is
        return f"damaged ({str(error) or type(error).__name__})"
    if image.mode == "F":
        return "floating-point pixels, whose range is not known"
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)  # Pillow's own conversion clips at 255
        if values.min() < 0 or values.max() > 65535:
            return "32-bit pixels, whose range is not known"
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
        how.append("16-bit")
    if image.mode in ("P", "1"):
        how.append("palette")
    if image.has_transparency_data:
        how.append("alpha")
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        how.append(image.mode)
    image = image.convert(MODES[channels])
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))  # resize(box=...) would let its surroundings bleed in
    image = square.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(image, dtype=np.uint8).reshape(size, size, channels).transpose(2, 0, 1), how
