"""compare() on scripted targets: samplers move the clock's hands, so nothing here waits or depends on load."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from hasten.measure.clock import Clock
from hasten.measure.pair import Rounds, compare, compare_many, noise_floor
from hasten.measure.stats import FEWEST_ROUNDS, Verdict


@dataclass
class Load:
    cases: tuple[int, ...] = (0, 1, 2)
    images_per_case: int = 4


class Machine:
    """A clock, and what was sampled on it in which order."""

    def __init__(self) -> None:
        self.ns, self.sampled = 0, []
        self.clock = Clock(read_ns=lambda: self.ns)

    def spend(self, seconds: float) -> None:
        self.ns += round(seconds * 1e9)

    def builder(self, name, seconds, build_seconds=0.0, sample=None):
        """``seconds``: a number, or a function of (how many samples were made before, case)."""

        class Scripted:
            made = 0

            def sample(inner, case):
                self.sampled.append((name, case))
                self.spend(seconds(inner.made, case) if callable(seconds) else seconds)
                inner.made += 1
                return sample(inner.made, case) if sample else torch.full((4, 1, 2, 2), float(case))

        def build():
            self.spend(build_seconds)
            return Scripted()

        return build


@pytest.fixture
def machine():
    return Machine()


def test_a_faster_candidate(machine):
    build_a, build_b = machine.builder("a", 2.0, build_seconds=3.0), machine.builder("b", 0.5, build_seconds=60.0)
    found = compare(build_a, build_b, Load(), Rounds(warmup=2, clock=machine.clock))
    assert (found.interval.ratio, found.interval.low, found.interval.high) == pytest.approx((0.25, 0.25, 0.25))
    assert found.interval.n == 15
    assert found.interval.inverse().ratio == pytest.approx(4.0)
    assert found.verdict is Verdict.FASTER
    assert found.reason == ""
    assert (found.build_seconds_a, found.build_seconds_b) == pytest.approx((3.0, 60.0))
    assert (found.warmup_seconds_a, found.warmup_seconds_b) == pytest.approx((4.0, 1.0))
    assert len(found.observations) == 30
    assert found.seconds_per_image("baseline") == pytest.approx(0.5)
    assert found.seconds_per_image("candidate") == pytest.approx(0.125)
    assert np.isnan(found.seconds_per_image("another"))


def test_a_slower_candidate(machine):
    found = compare(machine.builder("a", 1.0), machine.builder("b", 1.05), Load(), Rounds(clock=machine.clock))
    assert found.verdict is Verdict.SLOWER
    assert found.interval.ratio == pytest.approx(1.05)


def test_rounds_are_outermost_paired_on_the_case_and_shuffled(machine):
    compare(machine.builder("a", 1.0), machine.builder("b", 1.0), Load(), Rounds(30, warmup=0, clock=machine.clock))
    rounds = [machine.sampled[i : i + 2] for i in range(0, 60, 2)]
    for number, pair in enumerate(rounds):
        assert {name for name, _ in pair} == {"a", "b"}
        assert [case for _, case in pair] == [number % 3] * 2
    first = Counter(pair[0][0] for pair in rounds)
    assert 8 <= first["a"] <= 22  # 15 expected; outside of this with probability 0.005


def test_the_seed_sets_the_order_and_observations_keep_it(machine):
    def order(seed):
        other = Machine()
        found = compare(other.builder("a", 1.0), other.builder("b", 1.0), Load(), Rounds(seed=seed, clock=other.clock))
        return [(o.plan, o.round, o.case) for o in found.observations]

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert [round_ for _, round_, _ in order(1)] == [r for r in range(15) for _ in range(2)]
    assert all(case == round_ % 3 for _, round_, case in order(1))


def test_pairing_cancels_a_machine_that_slows_down(machine):
    """Time per sample grows by 4 % from one sample to the next; the ratio of means over halves would be off by far."""
    slow = lambda scale: lambda _, __: scale * 1.04 ** len(machine.sampled)  # noqa: E731
    found = compare(
        machine.builder("a", slow(1.0)), machine.builder("b", slow(0.1)), Load(), Rounds(clock=machine.clock)
    )
    assert found.interval.ratio == pytest.approx(0.1, rel=0.05)
    assert found.interval.low <= 0.1 <= found.interval.high
    assert found.verdict is Verdict.FASTER  # a machine that varies twofold doesn't hide a factor of ten


def test_a_small_difference_on_a_noisy_machine_is_undecided_and_says_why(machine):
    noise = np.random.default_rng(0).permutation(np.linspace(0.8, 1.2, 15))
    load = lambda scale: lambda made, _: scale * noise[made]  # noqa: E731
    found = compare(
        machine.builder("a", load(1.0)), machine.builder("b", load(0.95)), Load(), Rounds(15, 0, clock=machine.clock)
    )
    assert found.interval.high < 1.0
    assert found.verdict is Verdict.UNDECIDED
    assert found.reason == "noisy machine: candidate varied by 32 % over rounds"


def test_a_baseline_against_itself_is_undecided(machine):
    noise = np.exp(0.01 * np.random.default_rng(0).standard_normal(1000))
    build = machine.builder("a", lambda _, __: noise[len(machine.sampled)])
    found = noise_floor(build, Load(), Rounds(FEWEST_ROUNDS, clock=machine.clock))
    assert found.verdict is Verdict.UNDECIDED
    assert "holds 1" in found.reason
    assert found.interval.n == 9
    assert abs(found.interval.ratio - 1.0) < 0.02
    assert {o.plan for o in found.observations} == {"baseline", "baseline again"}


def test_the_noise_floor_builds_twice(machine):
    built = []
    inner = machine.builder("a", 1.0)
    noise_floor(lambda: built.append(1) or inner(), Load(), Rounds(FEWEST_ROUNDS, clock=machine.clock))
    assert len(built) == 2


def test_fewer_than_nine_rounds_decide_nothing(machine):
    found = compare(machine.builder("a", 2.0), machine.builder("b", 0.1), Load(), Rounds(8, clock=machine.clock))
    assert found.verdict is Verdict.UNDECIDED
    assert found.reason == "too few rounds: 8, at least 9 are needed"
    assert found.interval.ratio == pytest.approx(0.05)


def test_a_stop_ends_between_rounds(machine):
    told = []
    found = compare(
        machine.builder("a", 2.0),
        machine.builder("b", 1.0),
        Load(),
        Rounds(
            stop=lambda: machine.clock.now() > 3.0 + 10 * 3.0 - 0.1,  # warm-up, ten whole rounds
            on_round=lambda done, rounds: told.append((done, rounds)),
            clock=machine.clock,
        ),
    )
    assert found.interval.n == 10
    assert found.verdict is Verdict.FASTER
    assert machine.clock.now() == pytest.approx(33.0)
    assert told == [(done, 15) for done in range(1, 11)]
    assert Counter(o.plan for o in found.observations) == {"baseline": 10, "candidate": 10}


def test_a_stop_that_leaves_too_few_rounds_or_none(machine):
    builders = machine.builder("a", 2.0), machine.builder("b", 1.0)
    found = compare(*builders, Load(), Rounds(stop=lambda: machine.clock.now() > 11.5, clock=machine.clock))
    assert found.reason == "too few rounds: 3, at least 9 are needed, the time was up before the other 12"
    found = compare(*builders, Load(), Rounds(stop=lambda: True, clock=machine.clock))
    assert found.interval is None
    assert found.verdict is Verdict.UNDECIDED
    assert found.reason.startswith("too few rounds: 0")


def test_rounds_end_once_the_ratio_is_known(machine):
    found = compare(
        machine.builder("a", 2.0), machine.builder("b", 1.0), Load(), Rounds(clock=machine.clock, narrow=0.01)
    )
    assert found.interval.n == 9
    assert found.verdict is Verdict.FASTER


def test_a_builder_that_fails_is_recorded(machine):
    def broken():
        raise RuntimeError("no kernel for this layout\nand a long story")

    found = compare(machine.builder("a", 1.0), broken, Load(), Rounds(clock=machine.clock))
    assert found.verdict is Verdict.UNDECIDED
    assert found.interval is None
    assert found.reason == "candidate failed: RuntimeError: no kernel for this layout"
    (observation,) = found.observations
    assert (observation.plan, observation.round, observation.seconds) == ("candidate", -1, None)
    assert observation.failure == "RuntimeError: no kernel for this layout"
    assert found.build_seconds_b is None
    assert machine.sampled == [("a", 0)]  # its warm-up, and no round


def test_a_sampler_that_fails_in_a_round_is_recorded_and_what_was_measured_stays(machine):
    def third(made, case):
        if made == 4:
            raise MemoryError
        return torch.zeros(4, 1, 2, 2)

    found = compare(
        machine.builder("a", 1.0), machine.builder("b", 0.5, sample=third), Load(), Rounds(clock=machine.clock)
    )
    assert found.verdict is Verdict.UNDECIDED
    assert found.reason == "candidate failed: MemoryError"
    assert [(o.round, o.case) for o in found.observations if o.failure] == [(2, 2)]
    assert found.interval.n == 2
    assert [o.round for o in found.observations if o.plan == "candidate" and o.seconds] == [0, 1]


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        (torch.zeros(2, 1, 2, 2), r"made samples of shape \(2, 1, 2, 2\), baseline makes \(4, 1, 2, 2\)"),
        (torch.full((4, 1, 2, 2), float("nan")), "made samples with NaN or infinite values"),
    ],
)
def test_fewer_or_broken_samples_are_no_speed(machine, sample, reason):
    fast = machine.builder("b", 0.1, sample=lambda made, case: sample)
    found = compare(machine.builder("a", 1.0), fast, Load(), Rounds(clock=machine.clock))
    assert found.verdict is Verdict.UNDECIDED
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(found.reason)
    assert found.samples_b == ()


def test_a_sample_too_short_to_time_is_a_failure_with_its_reason(machine):
    found = compare(machine.builder("a", 1.0), machine.builder("b", 1e-9), Load(), Rounds(clock=machine.clock))
    assert "candidate failed: TooShort: a sample took 0.0 us, the timer" in found.reason


def test_the_clocks_own_share_of_the_shorter_sample_is_told(machine):
    machine.clock.overhead_seconds = 1e-3
    found = compare(machine.builder("a", 2.0), machine.builder("b", 0.5), Load(), Rounds(clock=machine.clock))
    assert found.clock_overhead == pytest.approx(0.002)
    assert found.warnings == ()


def test_a_coarse_timer_is_named_through_a_comparison(machine):
    machine.clock.tick_seconds, machine.clock.shortest_seconds = 0.01, 2.0
    found = compare(machine.builder("a", 3.0), machine.builder("b", 1.0), Load(), Rounds(clock=machine.clock))
    assert found.reason.startswith("candidate failed: TooShort: a sample took 1000000.0 us, the timer is too coarse")


def test_ctrl_c_is_not_swallowed(machine):
    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(
            machine.builder("a", 1.0), machine.builder("b", 1.0, sample=interrupt), Load(), Rounds(clock=machine.clock)
        )
    with pytest.raises(KeyboardInterrupt):
        compare(machine.builder("a", 1.0), interrupt, Load(), Rounds(clock=machine.clock))


def test_the_first_samples_of_each_case_are_kept_by_case(machine):
    made = lambda made, case: torch.full((4, 1, 2, 2), 10.0 * made + case)  # noqa: E731
    found = compare(
        machine.builder("a", 1.0, sample=made), machine.builder("b", 1.0), Load(), Rounds(warmup=1, clock=machine.clock)
    )
    assert [sample[0, 0, 0, 0].item() for sample in found.samples_a] == [20.0, 31.0, 42.0]
    assert [sample[0, 0, 0, 0].item() for sample in found.samples_b] == [0.0, 1.0, 2.0]


def test_many_plans_share_their_rounds_and_a_failing_one_drops_out(machine):
    def broken():
        raise ValueError("not here")

    builders = {
        "winner": machine.builder("winner", 1.0),
        "without sampler": machine.builder("without sampler", 6.0),
        "without int8": machine.builder("without int8", 1.6),
        "broken": broken,
    }
    found = compare_many(builders, "winner", Load(), Rounds(9, warmup=0, clock=machine.clock))
    assert list(found) == ["without sampler", "without int8", "broken"]
    assert found["without sampler"].interval.ratio == pytest.approx(6.0)
    assert found["without int8"].interval.ratio == pytest.approx(1.6)
    assert found["without int8"].verdict is Verdict.SLOWER
    assert found["broken"].reason == "broken failed: ValueError: not here"
    assert len(machine.sampled) == 27
    for start in range(0, 27, 3):
        names, cases = zip(*machine.sampled[start : start + 3], strict=True)
        assert len(set(names)) == 3
        assert len(set(cases)) == 1
    assert {o.plan for o in found["without int8"].observations} == {"winner", "without int8"}


def test_without_the_reference_all_ends(machine):
    def dies(made, case):
        raise RuntimeError("gone")

    builders = {name: machine.builder(name, 1.0, sample=dies if name == "a" else None) for name in "abc"}
    found = compare_many(builders, "a", Load(), Rounds(warmup=0, clock=machine.clock))
    assert {one.reason for one in found.values()} == {"a failed: RuntimeError: gone"}
    assert Counter(name for name, _ in machine.sampled)["b"] <= 1


@pytest.mark.parametrize(("load", "reference"), [(Load(cases=()), "a"), (Load(), "c")])
def test_a_comparison_of_nothing_is_refused(machine, load, reference):
    with pytest.raises(ValueError):
        compare_many({"a": machine.builder("a", 1.0), "b": machine.builder("b", 1.0)}, reference, load)


@pytest.mark.alone
def test_real_time_on_this_machine():
    """No script: a target that computes twice as much takes twice the CPU time, whatever else runs here."""

    class Works:
        def __init__(self, times: int) -> None:
            self.times = times

        def sample(self, case):
            x = np.full((4, 256, 256), 0.01)  # numpy: one thread, so that CPU time is that of the work
            for _ in range(self.times):
                np.tanh(x, out=x)
            return torch.from_numpy(x)

    clock = Clock(read_ns=time.thread_time_ns)
    found = compare(lambda: Works(40), lambda: Works(20), Load(), Rounds(15, clock=clock))
    assert found.interval.ratio == pytest.approx(0.5, abs=0.15)
