"""The schedule's audit names what each known schedule is known for."""

from __future__ import annotations

import pytest

from hasten.diffusion import schedule
from hasten.train.losses.audit import audit


def test_figures_are_the_schedules() -> None:
    line = audit(schedule.edm(), "edm", "edm")
    # log-SNR is -2 log s: mean 2.4, deviation 2.4, 1.645 of them to either side
    assert "log-SNR -1.5 to 6.3 in training (median 2.4)" in line
    assert "terminal SNR 0.00016" in line
    assert line.endswith(": fine")


@pytest.mark.parametrize(
    ("given", "prediction", "advice"),
    [
        (schedule.cosine(), "v_prediction", "fine"),
        (schedule.cosine(), "epsilon", "use v_prediction"),
        (schedule.scaled_linear(), "epsilon", "never sees"),
        (schedule.linear(), "epsilon", "almost pure noise"),
        (schedule.flow(), "flow", "fine"),
    ],
    ids=["cosine v", "cosine epsilon", "scaled linear", "linear", "flow"],
)
def test_advice(given: schedule.Schedule, prediction: str, advice: str) -> None:
    line = audit(given, prediction)  # type: ignore[arg-type]
    assert advice in line
    assert "\n" not in line
