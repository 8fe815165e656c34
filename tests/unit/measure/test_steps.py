from __future__ import annotations

import pytest
import torch

from hasten.measure.clock import Clock
from hasten.measure.steps import profile_steps


class Hands:
    def __init__(self) -> None:
        self.ns = 0
        self.clock = Clock(read_ns=lambda: self.ns)

    def move(self, seconds: float) -> None:
        self.ns += round(seconds * 1e9)


def test_steps_split_a_sample_into_network_and_loop():
    hands = Hands()

    class Target:
        def __init__(self):
            self.asked = 0
            self.network = self.answer

        def answer(self, x, factor):
            self.asked += 1
            hands.move(0.1 * factor)
            return x

        def sample(self, case):
            for factor in (1, 2, 3):
                hands.move(0.05)
                case = self.network(case, factor)
            return case

    target = Target()
    network = target.network
    found = profile_steps(target, torch.zeros(1), clock=hands.clock)
    assert found.network_seconds == pytest.approx((0.1, 0.2, 0.3))
    assert found.outside_seconds == pytest.approx(0.15)
    assert found.seconds == pytest.approx(0.75)
    assert (found.first_seconds, found.steady_seconds) == pytest.approx((0.1, 0.25))
    assert found.overhead == pytest.approx(1.0)
    assert target.network == network
    assert target.asked == 6


def test_steps_leave_the_target_as_it_was_when_a_sample_raises():
    class Target:
        network = None

        def sample(self, case):
            raise RuntimeError("no")

    target = Target()
    with pytest.raises(RuntimeError):
        profile_steps(target, torch.zeros(1))
    assert target.network is None
