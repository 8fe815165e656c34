"""What can't fit in memory is refused before it is read."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
import torch

from hasten import guard
from hasten.diffusion import schedule
from hasten.errors import BadInput
from hasten.files import size
from hasten.model import source as sources

WEIGHTS = Path("unet", "diffusion_pytorch_model.safetensors")


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def test_weights_that_are_larger_than_the_memory(folder: Path) -> None:
    count = guard.free_memory_bytes() // 2  # twice as much in float32
    header = json.dumps({"x": {"dtype": "F16", "shape": [count], "data_offsets": [0, 2 * count]}}).encode()
    with (folder / WEIGHTS).open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 2 * count)  # a hole, which takes no room on the disk
    began = time.perf_counter()
    with pytest.raises(BadInput) as caught:
        sources.load(folder)
    assert time.perf_counter() - began < 2
    assert f"{folder}: {size(4 * count)[:3]}" in str(caught.value)
    assert "of memory are needed at least" in str(caught.value)


def test_samples_that_are_larger_than_the_memory(folder: Path) -> None:
    path = folder / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sample_size": 65_536}))
    with pytest.raises(BadInput, match=r"550 GB of memory are needed at least"):
        sources.load(folder)
    with pytest.raises(BadInput, match=r"Conv2d: two samples of shape \(3, 65536, 65536\): 206 GB of memory are"):
        sources.load(
            torch.nn.Conv2d(3, 3, 1), schedule=schedule.linear(), prediction="sample", shape=(3, 65_536, 65_536)
        )
