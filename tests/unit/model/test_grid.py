"""Samples as one picture."""

import numpy as np
import torch
from PIL import Image

from hasten.model.grid import write_grid


def read(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_places_and_values(tmp_path) -> None:
    samples = torch.linspace(-1, 1, 5).reshape(5, 1, 1, 1).expand(5, 3, 2, 2)
    write_grid(samples, tmp_path / "g.png", columns=3, zoom=1)
    grid = read(tmp_path / "g.png")
    assert grid.shape == (4, 6, 3)
    assert grid[0, ::2, 0].tolist() == [0, 64, 128]
    assert grid[2, ::2, 0].tolist() == [191, 255, 255]  # the last place is empty, so white


def test_rows_are_heights_and_channels_are_colours(tmp_path) -> None:
    sample = torch.full((1, 3, 2, 5), -1.0)
    sample[0, 1, 1, 4] = 7.0  # clipped
    write_grid(sample, tmp_path / "g.png", zoom=2)
    grid = read(tmp_path / "g.png")
    assert grid.shape == (4, 10, 3)
    assert grid[3, 9].tolist() == [0, 255, 0]
    assert grid.sum() == 4 * 255


def test_grey_and_what_is_no_picture(tmp_path) -> None:
    write_grid(torch.ones(2, 1, 2, 2), tmp_path / "g.png")
    assert read(tmp_path / "g.png").shape == (6, 12, 3)
    for shape in [(2, 3), (2, 2, 4, 4), (0, 3, 4, 4)]:
        write_grid(torch.zeros(shape), tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
