from __future__ import annotations

import pytest
import torch

from hasten.measure import roofline
from hasten.measure.clock import Clock
from hasten.measure.roofline import Peaks, bound_seconds, peaks

MACHINE = Peaks(float32_flops_per_second=3e11, copy_bytes_per_second=2e10)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HASTEN_CACHE", str(tmp_path))


def test_the_bound_is_the_scarcer_of_the_two():
    assert bound_seconds(3e11, 1e9, MACHINE) == pytest.approx(1.0)
    assert bound_seconds(3e9, 4e10, MACHINE) == pytest.approx(2.0)


def test_the_rates_are_those_of_the_best_product_and_of_the_copy_read_and_written(monkeypatch):
    seconds = iter([2.0, 0.5, 4.0, 0.25])  # products of the three sizes, then the copy
    monkeypatch.setattr(roofline, "_best", lambda clock, call, budget: call() is not None and next(seconds))
    monkeypatch.setattr(roofline, "_lower_peak", lambda clock, product, float32: None)
    assert peaks("cpu") == Peaks(2 * 1536**3 / 0.5, 2 * roofline.COPY_BYTES / 0.25)


def test_a_lower_precision_has_a_peak_only_where_it_beats_float32(monkeypatch):
    hands = [0]
    clock = Clock(read_ns=lambda: hands[0])
    made = []

    def product(seconds):
        def of(size, device):
            def call():
                made.append(size)
                hands[0] += round(seconds * (size / 1024) ** 3 * 1e9)

            return call

        return of

    monkeypatch.setattr(roofline, "SECONDS_EACH", 0.0)
    monkeypatch.setattr(roofline, "MATMUL_SIZES", (1024,))
    rate = 2 * 1024**3 / 0.1
    assert roofline._lower_peak(clock, product(0.1), rate / 2) == pytest.approx(rate)
    assert roofline._lower_peak(clock, product(0.1), rate * 2) is None
    fast = 2e-6  # then the small one is too short for this timer, which is quick enough
    assert roofline._lower_peak(clock, product(fast), 1.0) == pytest.approx(2 * 1024**3 / fast)
    made.clear()
    assert roofline._lower_peak(clock, product(5.0), 1.0) is None  # emulated: no time is lost on large products
    assert set(made) == {roofline.TRIED_SIZE}


def test_a_kernel_that_this_build_lacks_is_none():
    def product(size, device):
        raise RuntimeError("not implemented for 'CPU'")

    assert roofline._lower_peak(Clock(), product, 1.0) is None


def test_sixteen_bit_work_is_bound_by_its_own_peak_where_there_is_one():
    machine = Peaks(1e9, 1e9, bf16_flops_per_second=4e9)
    assert bound_seconds(2e9, 0.0, machine, half_flops=1e9) == pytest.approx(1.25)
    assert bound_seconds(2e9, 0.0, Peaks(1e9, 1e9), half_flops=1e9) == pytest.approx(2.0)


def test_measured_peaks_are_those_of_a_machine_and_leave_its_threads_alone(monkeypatch):
    monkeypatch.setattr(roofline, "SECONDS_EACH", 0.1)
    threads = torch.get_num_threads()
    found = peaks("cpu")
    assert torch.get_num_threads() == threads
    assert 1e9 < found.float32_flops_per_second < 1e14
    assert 1e8 < found.copy_bytes_per_second < 1e12
    lower = (found.bf16_flops_per_second, found.int8_flops_per_second)
    assert all(rate is None or rate > found.float32_flops_per_second for rate in lower)


def test_they_are_kept_for_an_environment_and_measured_anew_for_another(monkeypatch, tmp_path):
    answers = iter([Peaks(i, i + 1.0) for i in (1.0, 3.0, 5.0, 7.0, 9.0, 11.0)])
    monkeypatch.setattr(roofline, "_measure", lambda device: next(answers))
    assert peaks("cpu", "this machine") == Peaks(1.0, 2.0)
    assert peaks("cpu", "this machine") == Peaks(1.0, 2.0)
    assert peaks("cpu", "another") == Peaks(3.0, 4.0)
    assert peaks("cpu") == Peaks(5.0, 6.0)
    for path in tmp_path.rglob("*.json"):
        path.write_text('{"float32_flops_per_second": 1')
    assert peaks("cpu", "this machine") == Peaks(7.0, 8.0)
    for path in tmp_path.rglob("*.json"):
        path.write_text('{"float32_flops_per_second": 0.0, "copy_bytes_per_second": 0.0}')
    assert peaks("cpu", "this machine") == Peaks(9.0, 10.0)
    for path in tmp_path.rglob("*.json"):  # as an earlier version left it
        path.write_text('{"float32_flops_per_second": 5.0, "copy_bytes_per_second": 5.0}')
    assert peaks("cpu", "this machine") == Peaks(11.0, 12.0)
    assert peaks("cpu", "this machine") == Peaks(11.0, 12.0)
