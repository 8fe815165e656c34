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
    grid = grids.grid(grids.pictures((levels / 127.5 - 1).astype(np.float32)))
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
    assert decoded(grids.grid(grids.pictures(samples)))[0, :, 0].tolist() == [255, 0, 128, 255]
    assert grids.not_finite(samples) == 1
    assert grids.not_finite(None) == 0


def test_big_samples_are_few_and_never_none() -> None:
    assert [grids.most(shape) for shape in ((512, 512), (1200, 1200), (32, 32))] == [4, 1, 64]


def test_drifts_are_those_of_each_pair() -> None:
    before = np.zeros((4, 3, 2, 2), np.float32)
    after = before + np.asarray([0.0, 0.2, 2.0, np.nan], np.float32)[:, None, None, None]
    assert grids.drifts(before, after).tolist() == pytest.approx([150.0, 20.0, 0.0, -np.inf])


def test_differences_are_amplified_to_be_seen() -> None:
    before = np.full((1, 10, 10, 3), 100, np.uint8)
    after = before.copy()
    after[0, 0, :2] = (90, 110, 100)
    far = grids.difference(before, after)
    assert far[0, 0, 0].tolist() == [10, 10, 0]
    assert (grids.difference(after, before) == far).all()
    factor = grids.amplification(far)
    assert factor == 16  # 10 * 16 is the last power of two under white
    assert grids.brighter(far, factor)[0, 0, 0].tolist() == [160, 160, 0]
    assert grids.brighter(far, 32)[0, 0, 0].tolist() == [255, 255, 0]
    assert grids.amplification(np.zeros_like(far)) == 64
    assert grids.amplification(np.full_like(far, 255)) == 1


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
        assert grids.grid(grids.pictures(np.zeros((3, *shape), np.float32))).count == 3
        assert bool(grids.note(shape)) == (shape != (3, 8, 8))


def test_a_volume_shows_its_middle() -> None:
    volume = np.full((1, 2, 5, 4, 4), -1.0, np.float32)
    volume[0, 0, 2] = 1.0
    assert (decoded(grids.grid(grids.pictures(volume))) == 255).all()
