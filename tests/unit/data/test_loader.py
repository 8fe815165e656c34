"""Data by name, and which samples a step takes."""

import numpy as np
import pytest
from PIL import Image

from hasten.data.loader import batch_indices, by_name
from hasten.errors import BadInput


def test_names_and_folders(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HASTEN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "pictures").mkdir()
    for i in range(3):
        Image.new("RGB", (8, 8)).save(tmp_path / "pictures" / f"{i}.png")
    assert by_name("digits", 8).name == "digits"
    for data in (by_name(str(tmp_path / "pictures"), 4), by_name("folder", 4, tmp_path / "pictures")):
        assert data.samples.shape == (3, 3, 4, 4)
    assert by_name(str(tmp_path / "pictures"), 4, channels=1).shape == (1, 4, 4)


def test_what_is_none_of_these() -> None:
    with pytest.raises(BadInput, match="'emojis' is no folder and no known name; did you mean 'emoji'"):
        by_name("emojis", 32)
    with pytest.raises(BadInput, match="needs a path"):
        by_name("folder", 32)
    with pytest.raises(BadInput, match="digits are 8x8"):
        by_name("digits", 32)


def test_digits_are_squares() -> None:
    assert by_name("digits", (8, 8)).shape == (1, 8, 8)
    with pytest.raises(BadInput, match="digits are squares, 16x32"):
        by_name("digits", (16, 32))


def test_an_epoch_takes_each_sample_once() -> None:
    epoch = np.concatenate([batch_indices(step, 8, 43, seed=3) for step in range(5)])
    assert len(set(epoch.tolist())) == 40
    assert set(epoch.tolist()) <= set(range(43))
    again = np.concatenate([batch_indices(step, 8, 43, seed=3) for step in range(5, 10)])
    assert again.tolist() != epoch.tolist()
    assert batch_indices(7, 8, 43, seed=3).tolist() == again[16:24].tolist()
    assert batch_indices(7, 8, 43, seed=4).tolist() != again[16:24].tolist()
