"""From a name to data, and from a step to its batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hasten.data.array import Data
from hasten.errors import BadInput, did_you_mean

NAMES = ("emoji", "digits", "folder")


def by_name(name: str, size: int, path: Path | str | None = None, channels: int = 3, skip_bad: bool = False) -> Data:
    """Data at ``size`` pixels: ``emoji``, ``digits``, ``folder`` (at ``path``), or a folder's own path as the name.

    ``channels`` and ``skip_bad`` are for folders.  Raises BadInput for a name that is none of these.
    """
    if name == "emoji":
        from hasten.data import emoji

        return emoji.load(size)
    if name == "digits":
        from hasten.data import digits

        return digits.load(size)
    if name == "folder" and path is None:
        raise BadInput("data = 'folder' needs a path; add it")
    where = Path(name if path is None else path)
    if path is None and not where.is_dir():
        raise BadInput(f"data {name!r} is no folder and no known name{did_you_mean(name, NAMES)}")
    from hasten.data import folder

    return folder.load(where, size, channels, skip_bad)


def batch_indices(step: int, batch_size: int, count: int, seed: int) -> NDArray[np.int64]:
    """Which samples (batch_size,) step ``step`` takes: a permutation by (seed, epoch), its remainder dropped."""
    epoch, place = divmod(step, count // batch_size)
    order = np.random.default_rng((seed, epoch)).permutation(count)
    return order[place * batch_size : (place + 1) * batch_size]
