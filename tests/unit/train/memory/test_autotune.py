"""Settings by measurement: the fastest when it is sure, the plain one when it is not, and never a long wait."""

import pytest
import torch

from hasten.train.memory import autotune
from hasten.train.memory.autotune import Setting


@pytest.fixture(autouse=True)
def threads():
    with autotune.threads_kept():
        yield


class Clock:
    """Time passes by what a setting costs, and by what else the machine does."""

    def __init__(self, costs: dict[Setting, float], noise: float = 0.0) -> None:
        self.now, self.costs, self.noise, self.steps = 0.0, costs, noise, 0
        self.rng = torch.Generator().manual_seed(0)

    def __call__(self) -> float:
        return self.now

    def step(self, setting: Setting) -> None:
        self.steps += 1
        chance = float(torch.rand((), generator=self.rng)) * 2 - 1
        self.now += self.costs[setting] * (1 + self.noise * chance)


def network() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 3, 3))


def test_what_there_is_to_choose_from() -> None:
    choices = autotune.settings(network(), None, True)
    assert choices[0] == Setting(torch.get_num_threads(), True)
    assert {choice.channels_last for choice in choices} == {True, False}
    assert {choice.threads for choice in autotune.settings(network(), 3, True)} == {3}
    assert [c.channels_last for c in autotune.settings(torch.nn.Linear(2, 2), 1, True)] == [True]


def test_the_fastest_is_taken_and_applied() -> None:
    choices = [Setting(2, True), Setting(1, True), Setting(2, False), Setting(1, False)]
    clock = Clock(dict(zip(choices, (1.0, 0.8, 1.2, 0.9), strict=True)), noise=0.02)
    module = network()
    chosen, trials = autotune.choose(module, choices, clock.step, 1000.0, clock)
    assert chosen == Setting(1, True)
    assert torch.get_num_threads() == 1
    assert module[1].weight.is_contiguous(memory_format=torch.channels_last)
    assert [trial.threads for trial in trials] == [2, 1, 2, 1]
    assert trials[1].ratio == pytest.approx(0.8, rel=0.05)
    assert trials[1].low <= trials[1].ratio <= trials[1].high < 1


def test_what_is_not_sure_changes_nothing() -> None:
    choices = [Setting(2, True), Setting(1, True)]
    clock = Clock(dict(zip(choices, (1.0, 0.99), strict=True)), noise=0.3)
    assert autotune.choose(network(), choices, clock.step, 1000.0, clock)[0] == choices[0]


def test_it_ends_in_time() -> None:
    choices = [Setting(2, True), Setting(1, True)]
    clock = Clock(dict.fromkeys(choices, 1.0))
    autotune.choose(network(), choices, clock.step, 20.0, clock)
    assert clock.now <= 20.0
    assert clock.steps < 24
    slow = Clock(dict.fromkeys(choices, 30.0))
    autotune.choose(network(), choices, slow.step, 20.0, slow)
    assert slow.steps == 4 + 2 * (autotune.LEAST_ROUNDS - 1)
