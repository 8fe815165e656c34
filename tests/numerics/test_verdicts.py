"""What compare() concludes on simulated machines: its own rounds, orders, clock and doubts; only time is made up.

Work passes through a world whose load may change at any moment, so a neighbour hits whichever plan happens to run.
"""

from __future__ import annotations

import gc
import math
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from hasten.measure import device, pair
from hasten.measure.clock import Clock
from hasten.measure.pair import Comparison, Rounds, compare
from hasten.measure.stats import Verdict

RUNS = 200
SAMPLE = torch.zeros(1, 1)


@dataclass
class Load:
    cases: tuple[int, ...] = (0,)
    images_per_case: int = 1


Slowdown = Callable[[float, str], float]  # of a moment in seconds and a plan: how many times as long work takes


class World:
    """A clock, 1 % of noise on each sample, and a load that is looked up ten times a sample."""

    def __init__(self, rng: np.random.Generator, slowdown: Slowdown, noise: float = 0.01) -> None:
        self.now, self.rng, self.slowdown, self.noise, self.ran = 0.0, rng, slowdown, noise, 0
        self.clock = Clock(read_ns=lambda: round(self.now * 1e9), warm=0)

    def builder(self, name: str, seconds: float) -> Callable[[], object]:
        world = self

        class Works:
            def sample(self, case: int) -> torch.Tensor:
                world.ran += 1
                left = seconds * math.exp(world.noise * world.rng.standard_normal())
                while left > 0.0:
                    part = min(left, 0.01)
                    world.now += part * world.slowdown(world.now, name)
                    left -= part
                return SAMPLE

        return Works


def quiet(rng: np.random.Generator, length: float) -> Slowdown:
    """Nothing but the noise of each sample."""
    return lambda now, plan: 1.0


def neighbour_for_a_third(rng: np.random.Generator, length: float) -> Slowdown:
    """From a random moment on, for a third of the run, everything takes twice as long."""
    start = rng.uniform(0.0, 2 / 3 * length)
    return lambda now, plan: 2.0 if start < now < start + length / 3 else 1.0


def neighbour_who_hits_the_candidate_more(rng: np.random.Generator, length: float) -> Slowdown:
    """The same, but he competes for what only the candidate needs much of."""
    start = rng.uniform(0.0, 2 / 3 * length)
    return lambda now, plan: {"baseline": 1.1, "candidate": 1.6}[plan] if start < now < start + length / 3 else 1.0


def short_bursts(rng: np.random.Generator, length: float) -> Slowdown:
    """Fifteen bursts of about half a sample, each threefold."""
    starts = rng.uniform(0.0, length, 15)
    return lambda now, plan: 3.0 if ((now - 0.05 < starts) & (starts < now)).any() else 1.0


def waves(rng: np.random.Generator, length: float) -> Slowdown:
    """Load that comes and goes with the period of a round or nearly so: neighbouring rounds are anything but alike."""
    period, phase = rng.uniform(0.15, 0.5), rng.uniform(0.0, 1.0)
    return lambda now, plan: 1.0 + 0.05 * math.sin(2 * math.pi * (now / period + phase))


def wandering(rng: np.random.Generator, length: float) -> Slowdown:
    """A random walk of the machine's speed, in steps of 2 % a sample: rounds depend strongly on each other."""
    walk = np.exp(np.cumsum(0.02 * rng.standard_normal(1000)))
    return lambda now, plan: float(walk[int(now / 0.1)])


def heating(rng: np.random.Generator, length: float) -> Slowdown:
    """The chip throttles: 12 % slower by the end, bit by bit."""
    return lambda now, plan: 1.0 + 0.12 * now / length


WORLDS = [
    quiet,
    neighbour_for_a_third,
    neighbour_who_hits_the_candidate_more,
    short_bursts,
    waves,
    wandering,
    heating,
]


@pytest.fixture(autouse=True)
def nothing_but_the_simulation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "clock_mhz", lambda _: None)
    monkeypatch.setattr(
        pair, "settled", nullcontext
    )  # the garbage collector takes 0.5 ms a sample, and nothing is timed
    monkeypatch.setattr(gc, "collect", lambda: 0)


def run(world: World, ratio: float, rounds: int, seed: int, narrow: float | None = None) -> Comparison:
    return compare(
        world.builder("baseline", 0.1),
        world.builder("candidate", 0.1 * ratio),
        Load(),
        Rounds(rounds, 0, seed, clock=world.clock, narrow=narrow),
    )


def verdicts(slowdown: Callable[[np.random.Generator, float], Slowdown], ratio: float, rounds: int) -> Counter[Verdict]:
    found: Counter[Verdict] = Counter()
    for seed in range(RUNS):
        rng = np.random.default_rng([seed, rounds])
        found[run(World(rng, slowdown(rng, 0.2 * rounds)), ratio, rounds, seed).verdict] += 1
    return found


@pytest.mark.parametrize("slowdown", WORLDS)
@pytest.mark.parametrize("rounds", [9, 15])
def test_a_baseline_against_itself_is_flagged_in_at_most_19_of_200_runs(slowdown, rounds):
    assert RUNS - verdicts(slowdown, 1.0, rounds)[Verdict.UNDECIDED] <= 19


@pytest.mark.parametrize("slowdown", WORLDS)
@pytest.mark.parametrize("narrow", [0.01, 0.05])
def test_rounds_that_end_once_the_ratio_is_known_flag_no_more_of_them(slowdown, narrow):
    """Looked at after each of up to 15 rounds, as a fixed number of them is."""
    wrong, rounds = 0, 0
    for seed in range(RUNS):
        rng = np.random.default_rng([seed, 15])
        found = run(World(rng, slowdown(rng, 3.0)), 1.0, 15, seed, narrow)
        wrong += found.verdict is not Verdict.UNDECIDED
        rounds += 0 if found.interval is None else found.interval.n
    assert wrong <= 19
    if slowdown is quiet and narrow == 0.05:
        assert rounds < 9.5 * RUNS  # of 15: that much is saved


@pytest.mark.parametrize("slowdown", [quiet, wandering, heating])
def test_a_slowdown_of_5_percent_is_found_in_95_of_100_runs(slowdown):
    assert verdicts(slowdown, 1.05, 15)[Verdict.SLOWER] >= 0.95 * RUNS


@pytest.mark.parametrize("slowdown", WORLDS)
def test_whatever_the_load_a_slower_candidate_is_not_called_faster(slowdown):
    assert verdicts(slowdown, 1.05, 9)[Verdict.FASTER] == 0


@pytest.mark.parametrize("rounds", [9, 15])
def test_whoever_runs_first_in_a_round_being_slower_is_no_verdict_with_any_seed(rounds):
    """Before orders were drawn fairly, seed 0 had the baseline first in eight of nine rounds."""
    for seed in range(RUNS):
        world = World(np.random.default_rng(seed), lambda now, plan: 1.02 if world.ran % 2 else 1.0, noise=0.001)  # noqa: B023
        found = run(world, 1.0, rounds, seed)
        assert found.verdict is Verdict.UNDECIDED, seed
        assert "holds 1" in found.reason


def test_a_machine_too_noisy_for_the_difference_says_so():
    reasons: Counter[str] = Counter()
    for seed in range(RUNS):
        rng = np.random.default_rng(seed)
        found = run(World(rng, quiet(rng, 0.0), noise=0.2), 1.05, 15, seed)
        assert found.verdict is Verdict.UNDECIDED
        reasons[found.reason.split(":")[0]] += 1
    assert reasons["noisy machine"] >= 0.95 * RUNS


def test_a_machine_that_heats_up_is_named_and_its_verdict_stands():
    rng = np.random.default_rng(0)
    found = run(World(rng, heating(rng, 3.0)), 1.05, 15, 0)
    assert found.verdict is Verdict.SLOWER
    (warning,) = found.warnings
    assert warning.startswith("drift: baseline became 1")
    assert "% slower over the rounds" in warning


def test_a_drift_of_which_one_round_is_as_much_as_the_difference_is_no_verdict():
    """Of nine rounds each is 2 % slower than the one before; the candidate seems 1 % slower in all of them."""
    world = World(np.random.default_rng(0), lambda now, plan: 1.02 ** ((world.ran - 1) // 2), noise=0.0)
    found = run(world, 1.01, 9, 0)
    assert found.interval is not None
    assert found.interval.low > 1.0
    assert found.verdict is Verdict.UNDECIDED
    assert found.reason.startswith("drift could explain it: baseline became 17 % slower")


def test_quiet_machines_are_not_said_to_drift():
    named = 0
    for seed in range(RUNS):
        rng = np.random.default_rng(seed)
        named += bool(run(World(rng, quiet(rng, 0.0), noise=0.02), 1.0, 15, seed).warnings)
    assert named <= 4  # 1 % of them would be 2
