"""Augmentation of a batch of pictures, drawn anew for each: mirrored, turned, shifted.

Each new picture reads each of its pixels from one place of the old one, so all of it is one gather.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hasten.errors import BadInput

Samples = TypeVar("Samples", bound=NDArray[Any])


@dataclass(frozen=True)
class Augment:
    """What may happen to a picture; nothing by default.

    ``flip``: left and right are swapped in half of them.  ``turn``: each of the square's eight symmetries alike, for
    pictures without an up, such as those of a microscope.  ``shift``: moved by up to so many pixels in each direction,
    uniformly, the edge's pixels repeated.
    """

    flip: bool = False
    turn: bool = False
    shift: int = 0

    def __bool__(self) -> bool:
        return self.flip or self.turn or self.shift > 0

    def check(self, shape: tuple[int, ...], name: str) -> None:
        """Raises BadInput when samples of ``shape`` can't be augmented so."""
        if not self:
            return
        if len(shape) != 3:
            raise BadInput(
                f"data {name} has samples of shape {shape}, no pictures to flip or shift; drop flip and shift"
            )
        if self.turn and shape[1] != shape[2]:
            raise BadInput(f"data {name} has pictures of {shape[1]}x{shape[2]}, only square ones can turn; drop turn")
        if not 0 <= self.shift < min(shape[1:]):
            raise BadInput(f"shift = {self.shift} is out of range for data {name}; 0 to {min(shape[1:]) - 1} pixels")

    def apply(self, samples: Samples, rng: np.random.Generator) -> Samples:
        """Augmented ``samples`` (n, c, h, w), a copy of the same type; all that is random comes from ``rng``."""
        count, channels, high, wide = samples.shape
        down, right = rng.integers(-self.shift, self.shift, (2, count, 1), endpoint=True)
        rows = np.clip(np.arange(high) + down, 0, high - 1)
        columns = np.clip(np.arange(wide) + right, 0, wide - 1)
        if self.flip or self.turn:
            columns = np.where(rng.random((count, 1)) < 0.5, columns[:, ::-1], columns)
        places = rows[:, :, None] * wide + columns[:, None, :]
        if self.turn:
            places = np.where(rng.random((count, 1, 1)) < 0.5, places[:, ::-1], places)
            places = np.where(rng.random((count, 1, 1)) < 0.5, places.swapaxes(1, 2), places)
        flat = samples.reshape(count, channels, high * wide)
        moved = np.take_along_axis(flat, places.reshape(count, 1, high * wide), axis=2)
        return moved.reshape(samples.shape)  # type: ignore[return-value]
