"""Clock rates and allocator peaks; CUDA's functions are stood in for, so that this runs without a GPU."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from hasten.measure import clock as clocks
from hasten.measure import device
from hasten.measure.clock import Clock
from hasten.measure.pair import Rounds, compare

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


def test_the_cpus_clock_is_the_mean_over_those_we_may_use(tmp_path, monkeypatch):
    monkeypatch.setattr(device, "CPUFREQ", tmp_path)
    monkeypatch.setattr(device, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(device.os, "sched_getaffinity", lambda _: {1, 2}, raising=False)
    assert device.clock_mhz(CPU) is None
    rows = [
        f"processor\t: {i}\nmodel name\t: X\ncpu MHz\t\t: {1000.5 * (i + 1)}\ncache size\t: 1 KB\n" for i in range(3)
    ]
    (tmp_path / "cpuinfo").write_text("\n".join(rows))
    assert device.clock_mhz(CPU) == pytest.approx(1000.5 * 2.5)
    for i, khz in enumerate((9_000_000, 2_000_000, 3_000_000)):
        (tmp_path / f"cpu{i}" / "cpufreq").mkdir(parents=True)
        (tmp_path / f"cpu{i}" / "cpufreq" / "scaling_cur_freq").write_text(f"{khz}\n")
    assert device.clock_mhz(CPU) == pytest.approx(2500.0)


def test_this_machines_clock_is_plausible_or_unknown():
    found = device.clock_mhz(CPU)
    assert found is None or 100 < found < 10_000


class NVMLError_NotSupported(Exception):
    """Named as the driver's library names its own."""


@pytest.mark.parametrize(
    "error", [ModuleNotFoundError("nvidia-ml-py"), RuntimeError("no driver"), NVMLError_NotSupported("a slice")]
)
def test_a_gpu_that_does_not_tell_is_none(monkeypatch, error):
    def refuse(_):
        raise error

    monkeypatch.setattr(torch.cuda, "clock_rate", refuse)
    assert device.clock_mhz(CUDA) is None


def test_an_error_of_another_kind_is_not_swallowed(monkeypatch):
    def broken(_):
        raise ZeroDivisionError

    monkeypatch.setattr(torch.cuda, "clock_rate", broken)
    with pytest.raises(ZeroDivisionError):
        device.clock_mhz(CUDA)


def test_the_cpu_has_no_allocator_of_ours():
    device.reset_peak(CPU)
    assert device.allocated_bytes(CPU) is None
    assert device.peak_allocated_bytes(CPU) is None


class Gpu:
    """An allocator and a frequency, in place of torch.cuda's functions."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ns = self.held = self.peak = self.synchronized = 0
        self.mhz = [2000]
        for name, call in {
            "memory_allocated": lambda _: self.held,
            "max_memory_allocated": lambda _: self.peak,
            "reset_peak_memory_stats": lambda _: setattr(self, "peak", self.held),
            "synchronize": lambda _: setattr(self, "synchronized", self.synchronized + 1),
            "clock_rate": lambda _: self.mhz.pop(0) if len(self.mhz) > 1 else self.mhz[0],
        }.items():
            monkeypatch.setattr(torch.cuda, name, call)

    def allocate(self, num_bytes: int) -> None:
        self.held += num_bytes
        self.peak = max(self.peak, self.held)

    def builder(self, weights: int, working: int):
        gpu = self

        class Works:
            def sample(self, case):
                gpu.ns += 1_000_000_000
                gpu.allocate(working)
                gpu.held -= working
                return torch.zeros(1, 1)

        def build():
            gpu.allocate(weights)
            return Works()

        return build


@dataclass
class Load:
    cases: tuple[int, ...] = (0,)
    images_per_case: int = 1


def test_on_cuda_each_plan_has_its_own_peak_and_frequencies_are_noted(monkeypatch):
    monkeypatch.setattr(clocks, "TICK_SECONDS", 0.0)
    gpu = Gpu(monkeypatch)
    gpu.mhz = [1980, 1900, 1500]
    clock = Clock("cuda", read_ns=lambda: gpu.ns)
    before = gpu.synchronized
    found = compare(gpu.builder(1000, 50), gpu.builder(300, 70), Load(), Rounds(9, clock=clock))
    assert {o.plan: o.peak_bytes for o in found.observations} == {"baseline": 1050, "candidate": 370}
    assert gpu.synchronized - before == 2 * 18
    assert found.clock_mhz == (1980.0, 1500.0)
    assert found.warnings == ("frequency drift: cuda from 1980 to 1500 MHz over the rounds",)


def test_a_gpu_that_does_not_tell_its_frequency_is_measured_all_the_same(monkeypatch):
    def missing(_):
        raise ModuleNotFoundError("nvidia-ml-py")

    gpu = Gpu(monkeypatch)
    monkeypatch.setattr(torch.cuda, "clock_rate", missing)
    found = compare(gpu.builder(1, 1), gpu.builder(1, 1), Load(), Rounds(9, clock=Clock("cuda", lambda: gpu.ns)))
    assert found.clock_mhz is None
    assert found.warnings == ()
