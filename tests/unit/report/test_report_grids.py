"""The grids, read back pixel by pixel."""

from __future__ import annotations

import base64
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from hasten.report import grids


def decoded(grid: grids.Grid) -> np.ndarray:
    head, _, body = grid.uri.partition(",")
    assert head == "data:image/png;base64"
    with Image.open(BytesIO(base64.b64decode(body))) as image:
        return np.asarray(image)


@pytest.mark.parametrize("channels", [1, 3])
def test_every_sample_is_in_its_place(channels: int) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (7, channels, 5, 6))
    grid = grids.grid((levels / 127.5 - 1).astype(np.float32))
    pixels = decoded(grid)
    assert (grid.count, grid.columns) == (7, 2)
    assert pixels.shape == (grid.height, grid.width, 4)
    for index, tile in enumerate(levels):
        top, left = (index // 2) * 6, (index % 2) * 7
        shown = pixels[top : top + 5, left : left + 6]
        assert (shown[..., :3] == tile.transpose(1, 2, 0)).all()
        assert (shown[..., 3] == 255).all()
    assert (pixels[..., 3] == 255).sum() == 7 * 5 * 6  # gutters and the empty place are transparent


def test_what_is_out_of_range_or_not_finite() -> None:
    samples = np.asarray([[[[5.0, -5.0, np.nan, np.inf]]]], np.float32)
    assert decoded(grids.grid(samples))[0, :, 0].tolist() == [255, 0, 128, 255]
    assert grids.not_finite(samples) == 1
    assert grids.not_finite(None) == 0


def test_big_samples_are_few_and_never_none() -> None:
    assert grids.grid(np.zeros((20, 3, 512, 512), np.float32)).count == 4
    assert grids.grid(np.zeros((2, 1, 1200, 1200), np.float32)).count == 1
    assert grids.grid(np.zeros((100, 3, 32, 32), np.float32)).count == 64


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        ((3, 8, 8), "pictures"),
        ((4, 8, 8), "pictures"),
        ((2, 5, 8, 8), "pictures"),
        ((80, 100), "pictures"),
        ((2, 100), "curves"),
        ((100,), "curves"),
        ((1,), "nothing"),
        ((), "nothing"),
        ((3, 0, 8), "nothing"),
        ((1, 2, 3, 4, 5), "nothing"),
    ],
)
def test_kinds(shape: tuple[int, ...], kind: str) -> None:
    assert grids.kind(shape) == kind
    if kind == "pictures":
        assert grids.grid(np.zeros((3, *shape), np.float32)).count == 3
        assert bool(grids.note(shape)) == (shape != (3, 8, 8))


def test_a_volume_shows_its_middle() -> None:
    volume = np.full((1, 2, 5, 4, 4), -1.0, np.float32)
    volume[0, 0, 2] = 1.0
    assert (decoded(grids.grid(volume)) == 255).all()
