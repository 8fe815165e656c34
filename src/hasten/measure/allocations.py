"""Tensor memory while something runs: every storage from the moment it is made to the moment it is freed.

A dispatch mode sees each new storage as an operator returns it, and a weak reference its end, so the live bytes are
exact on any device; hooks say which module was running.  What an operator allocates for itself and frees before it
returns (workspace) is not seen, nor is what an engine other than torch allocates; the resident memory of the process
(:class:`Resident`) and, on CUDA, the allocator's own peak hold those too.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

OUTSIDE = "outside the network"
MOST_POINTS = 400
RESIDENT_EVERY_SECONDS = 0.005


@dataclass(frozen=True)
class Holder:
    """What is alive at the peak: bytes that ``owner`` (a module, "weights", ...) allocated by its main operator."""

    owner: str
    operator: str
    bytes: int


@dataclass(frozen=True)
class Allocations:
    """``peak_bytes`` at ``peak_seconds``; ``holders`` of them, the largest first; the ``timeline`` in (seconds, bytes).

    ``phase_peaks``: the peak of each phase that was named while it ran.
    """

    peak_bytes: int
    peak_seconds: float
    peak_phase: str
    holders: tuple[Holder, ...]
    timeline: tuple[tuple[float, int], ...]
    phase_peaks: dict[str, int]


class Tracker(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows storages while it is entered.

    ``module``: whose parts are named as owners; ``held``: tensors that are there before, by what they are ("weights").
    """

    def __init__(self, module: torch.nn.Module | None, held: Mapping[str, Iterable[torch.Tensor]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.module, self.phase = module, ""
        self._alive: dict[int, tuple[str, str, int]] = {}
        self._serial = 0
        self._known: dict[int, int] = {}  # id of a live storage object to its serial number
        self._owners = [OUTSIDE]
        self._bytes = self._peak = 0
        self._peak_at, self._peak_phase = 0.0, ""
        self._at_peak: dict[int, tuple[str, str, int]] = {}
        self._timeline: list[tuple[float, int]] = []
        self._phase_peaks: dict[str, int] = defaultdict(int)
        self._began = time.perf_counter()
        for owner, tensors in held.items():
            for tensor in tensors:
                self._add(tensor, owner, "")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, torch.Tensor):
                self._add(leaf, "given", "")
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._add(leaf, self._owners[-1], func._schema.name)
        return result

    @contextmanager
    def following(self) -> Iterator[None]:
        """Follow what the block allocates."""
        handles = []
        for name, part in self.module.named_modules() if self.module is not None else ():
            handles += [part.register_forward_pre_hook(self._enter(name)), part.register_forward_hook(self._leave)]
        self._began = time.perf_counter()
        self._note()
        try:
            with self:
                yield
        finally:
            for handle in handles:
                handle.remove()

    def enter(self, phase: str) -> None:
        """What is allocated from now on belongs to ``phase``, and to it by name where no module runs."""
        self.phase, self._owners[0] = phase, phase
        self._note()

    def relabel(self, owner: str, tensors: Iterable[torch.Tensor]) -> None:
        """Say what these turned out to be ("gradients")."""
        for tensor in tensors:
            serial = self._known.get(id(tensor.untyped_storage()))
            for entries in (self._alive, self._at_peak):
                if serial in entries:
                    entries[serial] = (owner, "", entries[serial][2])

    def found(self) -> Allocations:
        """What was seen until now."""
        sums: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        for owner, operator, size in self._at_peak.values():
            sums[owner][operator] += size
        holders = [Holder(owner, max(by, key=lambda op: by[op]), sum(by.values())) for owner, by in sums.items()]
        return Allocations(
            self._peak,
            self._peak_at,
            self._peak_phase,
            tuple(sorted(holders, key=lambda holder: -holder.bytes)),
            thinned(self._timeline),
            dict(self._phase_peaks),
        )

    def _add(self, tensor: torch.Tensor, owner: str, operator: str) -> None:
        storage = tensor.untyped_storage()  # the same object for all views, as long as the storage lives
        if id(storage) in self._known:
            return
        self._serial += 1
        serial, key = self._serial, id(storage)
        self._known[key] = serial
        self._alive[serial] = (owner, operator, storage.nbytes())
        self._bytes += storage.nbytes()
        weakref.finalize(storage, self._freed, key, serial).atexit = False
        self._note()

    def _freed(self, key: int, serial: int) -> None:
        if self._known.get(key) == serial:
            del self._known[key]
        self._bytes -= self._alive.pop(serial)[2]
        self._note()

    def _note(self) -> None:
        now = time.perf_counter() - self._began
        self._timeline.append((now, self._bytes))
        self._phase_peaks[self.phase] = max(self._phase_peaks[self.phase], self._bytes)
        if self._bytes > self._peak:
            self._peak, self._peak_at, self._peak_phase, self._at_peak = self._bytes, now, self.phase, dict(self._alive)

    def _enter(self, name: str) -> Callable[..., None]:
        def hook(part: torch.nn.Module, *_: Any) -> None:
            self._owners.append(name or type(part).__name__)

        return hook

    def _leave(self, *_: Any) -> None:
        self._owners.pop()


class Resident:
    """The resident memory of this process every few milliseconds, while the block runs, by a thread of its own."""

    def __init__(self, every_seconds: float = RESIDENT_EVERY_SECONDS) -> None:
        self.every_seconds = every_seconds
        self.timeline: tuple[tuple[float, int], ...] = ()

    @property
    def peak_bytes(self) -> int:
        """The most that was seen."""
        return max(size for _, size in self.timeline)

    def __enter__(self) -> Resident:
        self._points: list[tuple[float, int]] = []
        self._stop, self._process, self._began = threading.Event(), psutil.Process(), time.perf_counter()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._read()  # what is held before the block, however late the thread gets its turn
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._read()
        self.timeline = thinned(self._points)

    def _watch(self) -> None:
        while not self._stop.wait(self.every_seconds):
            self._read()

    def _read(self) -> None:
        self._points.append((time.perf_counter() - self._began, self._process.memory_info().rss))


def thinned(points: list[tuple[float, int]], most: int = MOST_POINTS) -> tuple[tuple[float, int], ...]:
    """At most about ``most`` of them: of each stretch of time the lowest and the highest."""
    if len(points) <= most:
        return tuple(points)
    step = -(-len(points) // (most // 2))
    kept = []
    for start in range(0, len(points), step):
        part = points[start : start + step]
        kept += sorted({min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])})
    return tuple(kept)
