"""Measuring for a memory budget ends in its time: what only makes it truer is left out then."""

import pytest
import torch

from hasten.train import choices, inputs, network, recipe, training
from hasten.train.memory import recompute


@pytest.mark.parametrize(("seconds", "measured"), [(0.0, [4, 4]), (1000.0, [4, 4, 32])])
def test_more_samples_are_measured_as_far_as_the_time_goes(monkeypatch, seconds: float, measured: list[int]) -> None:
    values = {
        "data": {"name": "digits", "size": 8},
        "model": {"block_out_channels": [8, 16], "attention_levels": [1], "attention_head_dim": 8},
        "train": {"steps": 6, "batch_size": 32, "warmup_steps": 1},
    }
    read = recipe.check(values, "", "test")
    data, _ = inputs.dataset(read)
    run = training.prepare(read, data, None, network.source_of(read, data), {})
    seen: list[int] = []
    ask = training.Training.ask
    monkeypatch.setattr(training.Training, "ask", lambda self, x, *rest: seen.append(len(x)) or ask(self, x, *rest))
    grown: list[int] = []

    def grown_bytes(_device: torch.device, steps) -> int:
        steps()
        grown.append(seen[-1])
        return 1_000_000 + 10_000 * seen[-1]

    monkeypatch.setattr(recompute, "grown_bytes", grown_bytes)
    monkeypatch.setattr(choices, "MEASURED", 4)
    monkeypatch.setattr(choices, "SECONDS", seconds)
    found = choices.costs(run, inputs.loader(read, data).batch(0))
    assert grown == measured
    assert [block.name for block in found.blocks]
    assert found.seconds > 0
