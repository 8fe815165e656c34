"""Times one call, and says what that itself costs.

On CUDA the clock waits for the whole device before it starts and before it stops, and reads the host's time: what a
person waits for.  Events would see one stream only, so an engine with a stream of its own would look free.
The garbage collector runs before the timed region and never within it.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from hasten.errors import HastenError

T = TypeVar("T")
SHORTEST = 200  # a sample this many times as long as the clock's own cost, or its tick, is off by 0.5 % at most
TICK_SECONDS = 0.02  # how long the counter is watched for its ticks


class TooShort(HastenError):
    """A sample that is too short for the timer."""


class Clock:
    """Times calls on ``device``; ``read_ns`` is the counter, in nanoseconds (tests pass their own).

    ``overhead_seconds``: what timing a call that does nothing reads, the least of ``warm`` times.  ``tick_seconds``:
    the smallest step of the counter that was seen.  ``shortest_seconds``: 200 times the larger one; shorter samples
    are refused, because the clock could be over 0.5 % of what it reads.
    """

    def __init__(
        self, device: str | torch.device = "cpu", read_ns: Callable[[], int] = time.perf_counter_ns, warm: int = 100
    ) -> None:
        self.device, self.read_ns = torch.device(device), read_ns
        self.overhead_seconds = min((self._measure(_nothing)[0] for _ in range(warm)), default=0.0)
        self.tick_seconds = _tick(read_ns, warm)
        self.shortest_seconds = SHORTEST * max(self.overhead_seconds, self.tick_seconds)

    def now(self) -> float:
        """Seconds since some fixed moment: the same as ``time.perf_counter()``."""
        return self.read_ns() * 1e-9

    def time(self, call: Callable[[], T]) -> tuple[float, T]:
        """Seconds that ``call()`` took, until its work on the device was done, and what it returned.

        Raises TooShort when that is less than ``shortest_seconds``.
        """
        gc.collect()
        seconds, result = self._measure(call)
        if seconds < self.shortest_seconds:
            coarse = self.tick_seconds > self.overhead_seconds
            tick, cost = f"{self.tick_seconds * 1e6:.4g} us", f"{self.overhead_seconds * 1e6:.4g} us"
            timer = f"the timer is too coarse (a tick is {tick}) and" if coarse else f"the timer (it costs {cost})"
            needed = f"{timer} needs {self.shortest_seconds * 1e6:.1f} us to be within 0.5 %"
            raise TooShort(f"a sample took {seconds * 1e6:.1f} us, {needed}; put more images into a case")
        return seconds, result

    def _measure(self, call: Callable[[], T]) -> tuple[float, T]:
        enabled = gc.isenabled()
        gc.disable()
        try:
            self._synchronize()
            start = self.read_ns()
            result = call()
            self._synchronize()
            return (self.read_ns() - start) * 1e-9, result
        finally:
            if enabled:
                gc.enable()

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@dataclass(frozen=True)
class Deadline:
    """The ``seconds`` that a run was given, and the clock that they are counted by, from when this was made."""

    clock: Clock
    seconds: float
    began: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "began", self.clock.now())

    @property
    def used(self) -> float:
        """Seconds since the run began."""
        return self.clock.now() - self.began

    def left(self, share: float = 1.0) -> float:
        """Seconds until ``share`` of the time is used; negative once it is."""
        return share * self.seconds - self.used

    def calls_that_fit(self, seconds: float, share: float, most: int) -> int:
        """How many calls of ``seconds`` each, 0 to ``most``, end by ``share`` of the time."""
        return max(min(int(self.left(share) / seconds), most), 0)


@contextmanager
def settled() -> Iterator[None]:
    """What exists now is left out of collections while the block runs.

    One then takes microseconds, not 0.1 s, and no longer empties the processor's caches before each sample, which made
    a sample of 9 ms take 11.  Blocks may be nested.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _nothing() -> None:
    pass


def _tick(read_ns: Callable[[], int], steps: int) -> float:
    """The smallest of ``steps`` steps of the counter, in seconds; what the system says where none is seen in time."""
    smallest, last, end = 0, read_ns(), time.perf_counter() + TICK_SECONDS
    while steps > 0 and time.perf_counter() < end:
        for _ in range(1000):  # reading this counter alone, so that a step is no longer than one reading takes
            now = read_ns()
            if now > last:
                smallest = min(smallest or now - last, now - last)
                last, steps = now, steps - 1
    return smallest * 1e-9 if smallest else time.get_clock_info("perf_counter").resolution
