"""A model folder holds what it was given, in float16 where that can."""

from __future__ import annotations

import torch

from hasten.model import source as sources
from hasten.model.config import read_folder
from hasten.model.folder import save_folder


def test_what_float16_can_not_hold_stays_in_float32(tiny_folder, tmp_path) -> None:
    source, spec = sources.load(tiny_folder), read_folder(tiny_folder)
    weights = {name: value.clone() for name, value in source.module().state_dict().items()}
    weights["conv_in.weight"][0, 0, 0, 0] = 70_000.0
    save_folder(tmp_path / "model", dict(spec.network_config), weights, spec.scheduler, spec.extra)
    found = sources.load(tmp_path / "model").module().state_dict()
    assert found["conv_in.weight"][0, 0, 0, 0] == 70_000.0
    assert torch.equal(found["conv_in.weight"], weights["conv_in.weight"])
    assert torch.equal(found["conv_out.weight"], weights["conv_out.weight"].half().float())
