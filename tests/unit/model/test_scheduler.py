"""A folder's own scheduler: what diffusers is told of its configuration."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from hasten.errors import BadInput
from hasten.model import source as sources


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"clip_sample": True, "clip_sample_range": "x"}, "clip_sample_range = 'x'"),
        ({"clip_sample": 3}, "clip_sample"),
        ({"thresholding": True, "dynamic_thresholding_ratio": 2.0}, "dynamic_thresholding_ratio = 2.0"),
        ({"steps_offset": "many"}, "DDIM"),
        ({"\x1b[2J": list(range(3000))}, None),
        ({"_class_name": "PNDMScheduler", "clip_sample": True}, None),
    ],
)
def test_a_scheduler_is_told_what_it_knows_and_its_bounds_are_checked(
    keys: dict[str, Any], words: str | None, tiny_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"][1] = keys.get("_class_name", index["scheduler"][1])
    (folder / "model_index.json").write_text(json.dumps(index))
    made = sources.load(folder, steps=4)
    with pytest.raises(BadInput, match=re.escape(words)) if words else contextlib.nullcontext():
        assert made.table.evaluations
    assert capfd.readouterr().err == ""
