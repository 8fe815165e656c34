"""Where time goes by aten operator, as PyTorch's profiler sees it, with the work that each does; and a trace.

Exclusive seconds are an operator's own, inclusive ones hold those of the operators that it calls; on CUDA both are the
device's.  FLOPs and bytes come from :class:`hasten.measure.work.Counter`, which sees the same operators in the same
order, each at one place of its chain of calls: a convolution's work is counted at ``aten::convolution`` and is also
that of ``aten::conv2d``, which called it, and of ``aten::mkldnn_convolution``, which it calls to do it.  So work is
handed up to all callers, and down to the one callee that takes most of the time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.profiler import ProfilerActivity, record_function

from hasten.files import replacing
from hasten.measure import work
from hasten.measure.clock import Clock, settled
from hasten.measure.roofline import Peaks
from hasten.measure.work import Work

BETWEEN = "between operators (Python)"
PREFIX = "aten::"


@dataclass(frozen=True)
class OpRow:
    """One operator, per call of what is profiled; ``flops``, ``bytes`` and the bound are None where not counted."""

    name: str
    calls: float
    inclusive_seconds: float
    exclusive_seconds: float
    flops: float | None
    bytes: float | None
    bound_seconds: float | None


@dataclass(frozen=True)
class Ops:
    """``rows`` by exclusive seconds, the costliest first; ``overhead``: with the profiler / without."""

    rows: tuple[OpRow, ...]
    plain_seconds: float
    overhead: float


def ops(call: Callable[[], object], repeats: int = 3, peaks: Peaks | None = None, clock: Clock | None = None) -> Ops:
    """Profile ``call``, which is made once to warm up, once to count work, and ``repeats`` times with and without."""
    clock = clock or Clock()
    call()
    plain, ratios = [], []
    sums: dict[str, list[tuple[int, float, float]]] = defaultdict(list)
    with settled():
        for _ in range(repeats):
            plain.append(clock.time(call)[0])
            with recording(clock.device) as profiler:
                seconds, _ = clock.time(call)
            ratios.append(seconds / plain[-1])
            one = _sums(profiler.events(), clock.device.type)
            inside = sum(exclusive for _, _, exclusive in one.values())
            one[BETWEEN] = (0, max(seconds - inside, 0.0), max(seconds - inside, 0.0))
            for name, entry in one.items():
                sums[name].append(entry)
    counter = work.Counter()
    with counter:
        call()
    amounts = _hand_out(profiler.events(), counter.operators)
    rows = []
    for name, entries in sums.items():
        amount = amounts.get(name)
        calls, inclusive, exclusive = (float(median(part)) for part in zip(*entries, strict=True))
        shown = (None, None, None) if amount is None else (amount.flops, amount.bytes, amount.bound(peaks))
        rows.append(OpRow(name, calls, inclusive, exclusive, *shown))
    rows.sort(key=lambda row: -row.exclusive_seconds)
    return Ops(tuple(rows), median(plain), median(ratios))


def trace(call: Callable[[], object], module: torch.nn.Module | None, path: Path, device: torch.device) -> None:
    """Write a trace of ``call`` for Perfetto or chrome://tracing, with the names of the modules of ``module``."""
    with _named(module), recording(device) as profiler:
        call()
    with replacing(path) as temporary:
        profiler.export_chrome_trace(str(temporary))


@contextmanager
def recording(device: torch.device) -> Iterator[Any]:
    """PyTorch's profiler on the host and, where there is one, on the accelerator."""
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    with torch.profiler.profile(activities=activities, acc_events=True) as profiler:
        yield profiler
        if device.type == "cuda":
            torch.cuda.synchronize(device)


@contextmanager
def _named(module: torch.nn.Module | None) -> Iterator[None]:
    """Each module's call is a range of the trace."""
    open_ranges: list[Any] = []

    def enter(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            open_ranges.append(record_function(name))
            open_ranges[-1].__enter__()

        return hook

    def leave(*_: Any) -> None:
        open_ranges.pop().__exit__(None, None, None)

    handles = []
    for name, part in module.named_modules() if module is not None else ():
        handles += [
            part.register_forward_pre_hook(enter(name or type(part).__name__)),
            part.register_forward_hook(leave),
        ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _sums(events: Any, device: str) -> dict[str, tuple[int, float, float]]:
    """Calls, inclusive and exclusive seconds by operator; of one that calls itself the outer call is inclusive."""
    sums: dict[str, tuple[int, float, float]] = defaultdict(lambda: (0, 0.0, 0.0))
    kind = "device" if device == "cuda" else "cpu"
    for event in events:
        if not event.name.startswith(PREFIX):
            continue
        calls, inclusive, exclusive = sums[event.name]
        nested = any(above.name == event.name for above in _callers(event))
        sums[event.name] = (
            calls + 1,
            inclusive + (0.0 if nested else getattr(event, f"{kind}_time_total") * 1e-6),
            exclusive + getattr(event, f"self_{kind}_time_total") * 1e-6,
        )
    return dict(sums)


def _hand_out(events: Any, operators: list[tuple[str, Work]]) -> dict[str, Work]:
    """The work of each operator's name; of those only whose calls could all be matched with counted operators."""
    counted: dict[str, list[Work]] = defaultdict(list)
    for name, amount in operators:
        counted[name].append(amount)
    events = sorted(events, key=lambda event: event.time_range.start)
    seen: dict[str, list[Any]] = defaultdict(list)
    for event in events:
        if event.name in counted and not any(above.name in counted for above in _callers(event)):
            seen[event.name].append(event)
    given: dict[int, Work] = defaultdict(Work)
    for name, amounts in counted.items():
        if len(seen[name]) == len(amounts):
            for event, amount in zip(seen[name], amounts, strict=True):
                for other in (event, *_chain(event), *_callers(event)):
                    given[id(other)] = given[id(other)] + amount
    sums: dict[str, Work] = defaultdict(Work)
    partly = set()
    for event in events:
        if any(above.name == event.name for above in _callers(event)):
            continue
        if id(event) in given:
            sums[event.name] = sums[event.name] + given[id(event)]
        else:
            partly.add(event.name)
    return {name: amount for name, amount in sums.items() if name not in partly}


def _chain(event: Any) -> Iterator[Any]:
    """The callee that takes most of the time, its own such callee, and so on."""
    while True:
        main = max(event.cpu_children, key=lambda child: child.cpu_time_total, default=None)
        if main is None or main.cpu_time_total < event.cpu_time_total / 2:
            return
        yield main
        event = main


def _callers(event: Any) -> Iterator[Any]:
    while event.cpu_parent is not None:
        event = event.cpu_parent
        yield event
