"""Where a network's time goes: by module, as a tree with inclusive and exclusive seconds, and by kind of module.

Hooks on all modules cut an evaluation into stretches, each charged to the innermost module that is running; what a
module does itself (an attention's scores and weighted sum, a block's additions) is its own exclusive time.  What the
hooks cost lies between two marks of one hook and is charged to nobody, but a module with hooks is called by a slower
path; so whole evaluations without hooks are measured in turn with those that have them, and what the stretches leave
of that whole is reported as ``residual_seconds``, not hidden in a row.

Rows by kind add up leaves and attention modules; all else, and what runs outside of the network, is "other".
FLOPs and bytes are counted in one more evaluation (:mod:`hasten.measure.work`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hasten.errors import HastenError
from hasten.measure import work
from hasten.measure.clock import Clock, settled
from hasten.measure.roofline import Peaks
from hasten.measure.work import Work

OTHER = "other (outside leaf modules)"
OUTSIDE = "outside the network"
Path = tuple[str, ...]  # names of the modules that are open, outermost first; () is outside the network


@dataclass(frozen=True)
class Row:
    """One kind of module: calls, exclusive seconds, FLOPs and bytes per network evaluation; ``share`` of all seconds.

    ``bound_seconds`` is the least that the machine's peaks allow, None when they weren't given.
    """

    name: str
    calls: float
    seconds: float
    share: float
    flops: float
    bytes: float
    bound_seconds: float | None


@dataclass(frozen=True)
class ModuleRow:
    """One module where it was called, per network evaluation.

    ``name`` as in ``named_modules``, or "outside the network" (``depth`` 0: the call less the network; the network
    itself has depth 1).  FLOPs, bytes and ``bound_seconds`` are inclusive: those of the module and all that it calls,
    the bound being the sum of theirs.
    """

    name: str
    kind: str
    depth: int
    calls: float
    inclusive_seconds: float
    exclusive_seconds: float
    flops: float
    bytes: float
    bound_seconds: float | None


@dataclass(frozen=True)
class Modules:
    """One network evaluation, taken apart.

    ``rows``: the tree, parents before their children, in the order of calls; ``kinds``: the costliest first.
    ``whole_seconds``: without hooks.  ``residual_seconds``: that whole less all exclusive seconds (negative when the
    hooks slowed the modules down).  ``overhead``: with hooks / without.
    """

    rows: tuple[ModuleRow, ...]
    kinds: tuple[Row, ...]
    whole_seconds: float
    residual_seconds: float
    overhead: float


def profile(
    network_call: Callable[[], object],
    module: torch.nn.Module,
    repeats: int = 5,
    peaks: Peaks | None = None,
    clock: Clock | None = None,
) -> tuple[Row, ...]:
    """Rows by kind of module; see :func:`modules`."""
    return modules(network_call, module, repeats, peaks, clock).kinds


def modules(
    network_call: Callable[[], object],
    module: torch.nn.Module,
    repeats: int = 5,
    peaks: Peaks | None = None,
    clock: Clock | None = None,
) -> Modules:
    """Where the seconds of a network evaluation go.

    ``network_call()`` runs ``module`` eagerly, once or several times; one call before warms up.  Seconds are means over
    the middle half of ``repeats`` calls, ranked by their whole: unlike medians row by row, these add up.  Raises
    HastenError when the call never reaches the module.
    """
    clock = clock or Clock(device_of(module))
    network_call()
    wholes, hooked, taken = [], [], []
    with settled():
        for _ in range(repeats):
            wholes.append(clock.time(network_call)[0])
            spans = _Spans(module, mark_of(clock))
            with spans.hooked():
                hooked.append(clock.time(network_call)[0])
            taken.append(spans.total(elapsed, 0.0))
    if not spans.evaluations:
        raise HastenError("the call to profile never reached the module: is it compiled, or is it another one?")
    each = 1.0 / spans.evaluations
    middle = _middle(hooked)
    seconds = {path: each * float(np.mean([taken[i][path] for i in middle])) for path in taken[-1]}
    whole = each * float(np.mean([wholes[i] for i in _middle(wholes)]))
    counted = {path: found.times(each) for path, found in _work(network_call, module).items()}
    return Modules(
        _rows(seconds, counted, spans, each, peaks),
        _kinds(seconds, counted, spans, each, peaks, whole),
        whole,
        whole - sum(seconds.values()),
        float(np.median(np.divide(hooked, wholes))),
    )


def _middle(seconds: list[float]) -> list[int]:
    """Which of them lie in the middle half."""
    cut = len(seconds) // 4
    ranked: list[int] = np.argsort(seconds).tolist()
    return ranked[cut : len(ranked) - cut]


def mark_of(clock: Clock) -> Callable[[], Any]:
    """What takes a moment: nanoseconds of the host, or a CUDA event, which costs the device no wait."""
    if clock.device.type != "cuda":
        return clock.read_ns

    def event() -> torch.cuda.Event:
        recorded = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        recorded.record()
        return recorded

    return event


def elapsed(start: Any, end: Any) -> float:
    """Seconds between two marks whose work is done."""
    return (end - start) * 1e-9 if isinstance(start, int) else float(start.elapsed_time(end)) * 1e-3


def device_of(module: torch.nn.Module) -> torch.device:
    """Where the module's weights are."""
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))


class _Spans:
    """Cuts a call into stretches between marks, each charged to the path of the innermost module."""

    def __init__(self, module: torch.nn.Module, mark: Callable[[], Any]) -> None:
        self.module, self.mark = module, mark
        self.parts = dict(module.named_modules())
        self.calls: Counter[Path] = Counter()
        self.evaluations = 0
        self._open: list[Path] = [()]
        self._spans: list[tuple[Path, Any, Any]] = []

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Hooks on while the block runs."""
        handles = [self.module.register_forward_pre_hook(self._evaluated)]
        for name, part in self.parts.items():
            handles += [part.register_forward_pre_hook(self._enter(name)), part.register_forward_hook(self._leave)]
        try:
            self._last = self.mark()
            yield
            self._spans.append((self._open[-1], self._last, self.mark()))
        finally:
            for handle in handles:
                handle.remove()

    def total(self, difference: Callable[[Any, Any], Any], zero: Any) -> dict[Path, Any]:
        """By path, the sum of ``difference(start, end)`` over its stretches."""
        sums: dict[Path, Any] = defaultdict(lambda: zero)
        for path, start, end in self._spans:
            sums[path] = sums[path] + difference(start, end)
        return sums

    def _evaluated(self, *_: Any) -> None:
        self.evaluations += 1

    def _enter(self, name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            outer = self._open[-1]
            self._spans.append((outer, self._last, self.mark()))
            self._open.append((*outer, name))
            self.calls[self._open[-1]] += 1
            self._last = self.mark()

        return hook

    def _leave(self, *_: Any) -> None:
        self._spans.append((self._open.pop(), self._last, self.mark()))
        self._last = self.mark()


def _work(network_call: Callable[[], object], module: torch.nn.Module) -> dict[Path, Work]:
    counter = work.Counter()
    spans = _Spans(module, lambda: counter.total)
    with counter, spans.hooked():
        network_call()
    return spans.total(lambda start, end: end - start, Work())


def _rows(
    seconds: dict[Path, float], counted: dict[Path, Work], spans: _Spans, each: float, peaks: Peaks | None
) -> tuple[ModuleRow, ...]:
    """The tree.  Paths appear in order of their first stretch, a parent's before its children's."""
    inclusive: dict[Path, float] = defaultdict(float)
    amount: dict[Path, Work] = defaultdict(Work)
    bound: dict[Path, float] = defaultdict(float)
    for path, exclusive in seconds.items():
        for depth in range(len(path) + 1):
            inclusive[path[:depth]] += exclusive
            amount[path[:depth]] += counted[path]
            bound[path[:depth]] += counted[path].bound(peaks) or 0.0
    return tuple(
        ModuleRow(
            (path[-1] or type(spans.module).__name__) if path else OUTSIDE,
            type(spans.parts[path[-1]]).__name__ if path else "",
            len(path),
            spans.calls[path] * each,
            inclusive[path],
            seconds[path],
            amount[path].flops,
            amount[path].bytes,
            bound[path] if peaks else None,
        )
        for path in sorted(seconds, key=_order(list(seconds)))
    )


def _order(paths: list[Path]) -> Callable[[Path], list[int]]:
    """Depth first, siblings in order of their first call."""
    first = {path: place for place, path in enumerate(paths)}
    return lambda path: [first[path[:depth]] for depth in range(1, len(path) + 1)]


def _kinds(
    seconds: dict[Path, float], counted: dict[Path, Work], spans: _Spans, each: float, peaks: Peaks | None, whole: float
) -> tuple[Row, ...]:
    sums: dict[str, float] = defaultdict(float)
    amounts: dict[str, Work] = defaultdict(Work)
    calls: Counter[str] = Counter()
    for path, exclusive in seconds.items():
        kind = _kind(spans.parts[path[-1]]) if path else OTHER
        sums[kind] += exclusive
        amounts[kind] += counted[path]
        calls[kind] += 0 if kind == OTHER else spans.calls[path]
    rows = (
        Row(
            kind,
            calls[kind] * each,
            exclusive,
            exclusive / whole,
            amounts[kind].flops,
            amounts[kind].bytes,
            amounts[kind].bound(peaks),
        )
        for kind, exclusive in sums.items()
    )
    return tuple(sorted(rows, key=lambda row: -row.seconds))


def _kind(module: torch.nn.Module) -> str:
    name = type(module).__name__
    if name.endswith("Attention"):
        return "attention"
    if any(True for _ in module.children()):
        return OTHER
    kernel = getattr(module, "kernel_size", None)
    return f"{name} {'x'.join(map(str, kernel))}" if isinstance(kernel, tuple) else name
