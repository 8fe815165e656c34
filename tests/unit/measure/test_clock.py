from __future__ import annotations

import gc
import time

import pytest

from hasten.measure.clock import Clock, TooShort, settled


class Hands:
    """A counter that only moves when it is told to."""

    def __init__(self) -> None:
        self.ns = 5_000_000_000

    def move(self, seconds: float) -> None:
        self.ns += round(seconds * 1e9)


@pytest.fixture
def hands():
    return Hands()


@pytest.fixture
def clock(hands):
    return Clock(read_ns=lambda: hands.ns)


def test_it_returns_the_seconds_of_the_call_and_its_result(hands, clock):
    def call():
        hands.move(0.25)
        return "result"

    assert clock.time(call) == (pytest.approx(0.25), "result")
    assert clock.now() == pytest.approx(5.25)


def test_now_is_perf_counter():
    before = time.perf_counter()
    now = Clock().now()
    assert before <= now <= time.perf_counter()


def test_its_own_cost_is_small_and_known():
    clock = Clock()
    empty = min(clock._measure(lambda: None)[0] for _ in range(200))
    assert 0 < clock.overhead_seconds < 20e-6
    assert empty == pytest.approx(clock.overhead_seconds, rel=1.0)  # within a factor of two of what it says of itself
    assert clock.shortest_seconds == pytest.approx(200 * max(clock.overhead_seconds, clock.tick_seconds))


@pytest.mark.alone
def test_a_busy_millisecond_is_a_millisecond():
    def busy():
        end = time.perf_counter() + 1e-3
        while time.perf_counter() < end:
            pass

    clock = Clock()
    with settled():
        assert min(clock.time(busy)[0] for _ in range(50)) == pytest.approx(1e-3, rel=0.01)


def test_a_sample_too_short_for_the_timer_is_refused_by_name(hands, clock):
    clock.overhead_seconds, clock.shortest_seconds = 0.21e-6, 42e-6
    message = (
        r"a sample took 10\.0 us, the timer \(it costs 0\.21 us\) needs 42\.0 us to be within 0\.5 %; .* more images"
    )
    with pytest.raises(TooShort, match=message):
        clock.time(lambda: hands.move(10e-6))
    assert clock.time(lambda: hands.move(43e-6))[0] == pytest.approx(43e-6)
    with pytest.raises(TooShort):
        Clock().time(lambda: None)


@pytest.mark.parametrize("tick_ns", [1_000_000, 20_000])
def test_a_timer_too_coarse_for_the_sample_is_named(tick_ns):
    """A counter that only moves every millisecond, and is read in 50 ns."""
    passed = [0]

    def read():
        passed[0] += 50
        return passed[0] // tick_ns * tick_ns

    def call(seconds):
        passed[0] += round(seconds * 1e9)

    clock = Clock(read_ns=read)
    assert clock.overhead_seconds == 0.0  # it sees nothing of its own cost
    assert clock.tick_seconds == pytest.approx(tick_ns * 1e-9)
    shortest = 200 * tick_ns * 1e-9
    with pytest.raises(TooShort, match=rf"the timer is too coarse \(a tick is {tick_ns // 1000} us\) and needs "):
        clock.time(lambda: call(0.9 * shortest))
    for start in range(0, tick_ns, tick_ns // 7):  # wherever between two ticks a sample begins
        passed[0] = start
        assert clock.time(lambda: call(1.1 * shortest))[0] == pytest.approx(1.1 * shortest, rel=0.005)


def test_a_tick_is_no_longer_than_reading_the_counter_takes():
    clock = Clock()
    assert 0 < clock.tick_seconds <= clock.overhead_seconds


def test_garbage_is_collected_before_and_never_within_the_timed_region(clock, hands):
    seen, phases = [], []
    gc.callbacks.append(lambda phase, info: phases.append(phase))
    try:
        clock.time(lambda: (hands.move(1.0), seen.append(gc.isenabled()), phases.append("timed")))
    finally:
        gc.callbacks.pop()
    assert seen == [False]
    assert gc.isenabled()
    assert phases == ["start", "stop", "timed"]


def test_the_collector_is_on_again_after_a_call_that_raises_and_stays_off_for_who_wants_it_off(clock, hands):
    with pytest.raises(ZeroDivisionError):
        clock.time(lambda: 1 / 0)
    assert gc.isenabled()
    gc.disable()
    try:
        clock.time(lambda: hands.move(1.0))
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_settled_freezes_what_exists_and_thaws_it():
    frozen = []

    def fail():
        with settled():
            with settled():
                pass
            frozen.append(gc.get_freeze_count())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert frozen[0] > 1000
    assert gc.get_freeze_count() == 0
