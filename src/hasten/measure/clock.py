"""Times one call.

On CUDA the clock waits for the whole device before it starts and before it stops, and reads the host's time: what a
person waits for.  Events would see one stream only, so an engine with a stream of its own would look free.
The garbage collector runs before the timed region and never within it.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from hasten.errors import HastenError

T = TypeVar("T")
SHORTEST_OVERHEADS = 100  # a sample this many times as long as the clock's own cost is off by 1 % at most


class TooShort(HastenError):
    """A sample that is too short for the timer."""


class Clock:
    """Times calls on ``device``; ``read_ns`` is the counter, in nanoseconds (tests pass their own)."""

    def __init__(
        self, device: str | torch.device = "cpu", read_ns: Callable[[], int] = time.perf_counter_ns, warm: int = 100
    ) -> None:
        self.device, self.read_ns = torch.device(device), read_ns
        tick = time.get_clock_info("perf_counter").resolution
        self.overhead_seconds = min((self._measure(_nothing)[0] for _ in range(warm)), default=0.0)
        self.shortest_seconds = SHORTEST_OVERHEADS * max(self.overhead_seconds, tick)

    def now(self) -> float:
        """Seconds since some fixed moment: the same as ``time.perf_counter()``."""
        return self.read_ns() * 1e-9

    def time(self, call: Callable[[], T]) -> tuple[float, T]:
        """Seconds that ``call()`` took, until its work on the device was done, and what it returned.

        Raises TooShort when that is less than ``shortest_seconds``, so when the clock's own cost could be over 1 %.
        """
        gc.collect()
        seconds, result = self._measure(call)
        if seconds < self.shortest_seconds:
            needed = f"the timer needs {self.shortest_seconds * 1e6:.1f} us to be within 1 %"
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
