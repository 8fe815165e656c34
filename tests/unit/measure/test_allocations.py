from __future__ import annotations

import mmap

import pytest
import torch
from torch import nn

from hasten.measure.allocations import Resident, Tracker, thinned

KIB = 1024


class Net(nn.Module):
    """Of an input of 1 KiB: two parts of 4 KiB, alive together, then one of 1 KiB."""

    def __init__(self):
        super().__init__()
        self.wide, self.sum = Wide(), nn.Identity()

    def forward(self, x):
        first = self.wide(x)
        second = first + 1.0
        return self.sum((first + second)[:, :256].clone())


class Wide(nn.Module):
    def forward(self, x):
        return x.repeat(1, 4)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_the_peak_and_what_held_it_by_hand(context):
    net, x = Net(), torch.zeros(1, 256)
    tracker = Tracker(net, {"inputs": [x]})
    with context(), tracker.following():
        result = net(x)
    found = tracker.found()
    assert found.peak_bytes == 14 * KIB  # input, first, second, their sum, and the part of it that is copied
    held = {holder.owner: holder.bytes for holder in found.holders}
    assert held == {"inputs": KIB, "wide": 4 * KIB, "Net": 9 * KIB}
    assert found.timeline[0][1] == KIB
    assert found.timeline[-1][1] == 2 * KIB  # the sum itself is gone, its copied part is there
    assert result.numel() == 256
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in net.modules())


def test_a_view_holds_its_whole_storage_and_is_counted_once():
    x = torch.zeros(256)
    tracker = Tracker(None, {"inputs": [x]})
    with tracker.following():
        part = (x + 1.0)[:1]
        part.view(1, 1).add_(1.0)
    assert tracker.found().peak_bytes == 2 * KIB
    assert tracker.found().timeline[-1][1] == 2 * KIB
    del part
    assert tracker.found().timeline[-1][1] == KIB


def test_phases_have_their_own_peaks_and_gradients_their_name():
    layer, x = nn.Linear(16, 16, bias=False), torch.ones(1, 16)
    tracker = Tracker(layer, {"weights": layer.parameters(), "inputs": [x]})
    with tracker.following():
        tracker.enter("forward")
        loss = layer(x).sum()
        tracker.enter("backward")
        loss.backward()
    tracker.relabel("gradients", [layer.weight.grad])
    found = tracker.found()
    assert found.phase_peaks["backward"] > found.phase_peaks["forward"]
    assert found.peak_phase == "backward"
    assert {holder.owner: holder.bytes for holder in found.holders}["gradients"] == KIB


def test_resident_memory_shows_what_was_touched():
    with Resident(0.001) as resident:
        mapped = mmap.mmap(-1, 64 * KIB * KIB)  # pages of its own: an allocator may hand out ones that are resident
        mapped.write(b"\1" * len(mapped))
    assert resident.peak_bytes - resident.timeline[0][1] > 32 * KIB * KIB
    mapped.close()  # it was still there when the block ended, and memory was read once more


def test_thinning_keeps_extremes():
    points = [(float(i), 0) for i in range(10_000)]
    points[1234] = (1234.0, 99)
    kept = thinned(points, 100)
    assert len(kept) <= 102
    assert (1234.0, 99) in kept
