"""Augmentation of a batch of pictures, drawn anew for each: mirrored, turned, shifted; moves pixels, makes none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from hasten.errors import BadInput


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
        return self.flip or self.turn or self.shift != 0

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

    def apply(self, samples: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """Augmented ``samples`` (n, c, h, w), a copy of the same type; all that is random comes from ``rng``."""
        count, _, high, wide = samples.shape
        moved = samples.copy()
        if self.flip or self.turn:
            chosen = rng.random(count) < 0.5
            moved[chosen] = moved[chosen, :, :, ::-1]
        if self.turn:
            chosen = rng.random(count) < 0.5
            moved[chosen] = moved[chosen, :, ::-1]
            chosen = rng.random(count) < 0.5
            moved[chosen] = moved[chosen].swapaxes(2, 3)
        if self.shift:
            around = (self.shift, self.shift)
            padded = np.pad(moved, ((0, 0), (0, 0), around, around), mode="edge")
            down, right = rng.integers(0, 2 * self.shift, (2, count), endpoint=True)
            moved = sliding_window_view(padded, (high, wide), (2, 3))[np.arange(count), :, down, right]
        return moved
