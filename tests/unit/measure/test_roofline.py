from __future__ import annotations

import pytest
import torch

from hasten.measure import roofline
from hasten.measure.roofline import Peaks, bound_seconds, peaks, refuse_above_peak

MACHINE = Peaks(float32_flops_per_second=3e11, copy_bytes_per_second=2e10)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HASTEN_CACHE", str(tmp_path))


def test_the_bound_is_the_scarcer_of_the_two():
    assert bound_seconds(3e11, 1e9, MACHINE) == pytest.approx(1.0)
    assert bound_seconds(3e9, 4e10, MACHINE) == pytest.approx(2.0)


def test_a_claim_above_the_peak_is_refused_and_one_below_is_not():
    assert refuse_above_peak(3.1e12, 1.0, MACHINE) == (
        "claims 3.1 TFLOP/s, above this machine's measured peak of 0.3 TFLOP/s"
    )
    assert refuse_above_peak(2.9e11, 1.0, MACHINE) is None
    assert refuse_above_peak(1e12, 1.0, MACHINE, multiple=4.0) is None
    assert "claims 60 GFLOP/s" in str(refuse_above_peak(6e10, 1.0, Peaks(5e10, 1e9)))


def test_the_rates_are_those_of_the_best_product_and_of_the_copy_read_and_written(monkeypatch):
    seconds = iter([2.0, 0.5, 4.0, 0.25])  # products of the three sizes, then the copy
    monkeypatch.setattr(roofline, "_best", lambda clock, call, budget: call() is not None and next(seconds))
    assert peaks("cpu") == Peaks(2 * 1536**3 / 0.5, 2 * roofline.COPY_BYTES / 0.25)


def test_measured_peaks_are_those_of_a_machine_and_leave_its_threads_alone(monkeypatch):
    monkeypatch.setattr(roofline, "SECONDS_EACH", 0.1)
    threads = torch.get_num_threads()
    found = peaks("cpu")
    assert torch.get_num_threads() == threads
    assert 1e9 < found.float32_flops_per_second < 1e14
    assert 1e8 < found.copy_bytes_per_second < 1e12


def test_they_are_kept_for_an_environment_and_measured_anew_for_another(monkeypatch, tmp_path):
    answers = iter([Peaks(1.0, 2.0), Peaks(3.0, 4.0), Peaks(5.0, 6.0), Peaks(7.0, 8.0), Peaks(9.0, 10.0)])
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
