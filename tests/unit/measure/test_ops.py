from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from hasten.measure import ops
from hasten.measure.roofline import Peaks


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_work_stands_at_the_operator_that_does_it_and_at_its_callers(context):
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), nn.Flatten(), nn.Linear(8 * 256, 16))
    x = torch.rand(4, 3, 16, 16)

    def call():
        with context():
            net(x)

    found = ops.ops(call, 2, Peaks(1e9, 1e9))
    rows = {row.name: row for row in found.rows}
    convolution, linear = 2 * (4 * 8 * 256) * 27, 2 * 4 * 8 * 256 * 16
    assert rows["aten::conv2d"].flops == rows["aten::convolution"].flops == convolution
    assert rows["aten::linear"].flops == rows["aten::addmm"].flops == linear
    assert rows["aten::silu"].bytes == 2 * 4 * 4 * 8 * 256
    assert rows["aten::silu"].bound_seconds == pytest.approx(2 * 4 * 4 * 8 * 256 / 1e9)
    assert rows["aten::conv2d"].calls == 1
    assert rows["aten::conv2d"].inclusive_seconds >= rows["aten::convolution"].inclusive_seconds
    assert all(row.exclusive_seconds <= row.inclusive_seconds + 1e-9 for row in found.rows)
    assert rows["aten::empty"].flops is None  # no work was counted for it
    assert found.overhead > 0


def test_the_trace_names_modules_and_leaves_no_hooks(tmp_path):
    net = nn.Sequential(nn.Linear(2, 2), nn.SiLU())
    path = tmp_path / "trace.json"
    ops.trace(lambda: net(torch.zeros(1, 2)), net, path, torch.device("cpu"))
    names = {event.get("name") for event in json.loads(path.read_text())["traceEvents"]}
    assert {"Sequential", "0", "1", "aten::addmm"} <= names
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in net.modules())
