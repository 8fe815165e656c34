"""Python time of a call: by function (cProfile) and by line (line_profiler, from the extra ``profile``).

Both slow Python down and hardly touch what runs in C, so shares of Python code are too large; the overhead says by how
much.
"""

from __future__ import annotations

import cProfile
import linecache
import pstats
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from inspect import unwrap
from pathlib import Path
from typing import Any

from hasten.errors import MissingExtra


@dataclass(frozen=True)
class FunctionRow:
    """One function; ``place`` is its file, from the package on, and line, or "built in"."""

    name: str
    place: str
    calls: int
    inclusive_seconds: float
    exclusive_seconds: float


@dataclass(frozen=True)
class LineRow:
    """One line of code that ran ``hits`` times; ``seconds`` include what it calls."""

    function: str
    place: str
    code: str
    hits: int
    seconds: float


def functions(call: Callable[[], object]) -> tuple[FunctionRow, ...]:
    """Every function that ``call`` came through, by exclusive seconds."""
    profiler = cProfile.Profile()
    profiler.runcall(call)
    timed: dict[tuple[str, int, str], tuple[int, int, float, float, Any]] = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
    rows = [
        FunctionRow(name, "built in" if file == "~" else f"{short(file)}:{line}", calls, inclusive, exclusive)
        for (file, line, name), (_, calls, exclusive, inclusive, _) in timed.items()
    ]
    return tuple(sorted(rows, key=lambda row: -row.exclusive_seconds))


def lines(call: Callable[[], object], watched: Iterable[Callable[..., Any]]) -> tuple[LineRow, ...]:
    """The lines of the functions ``watched`` that ran, in the order of the code.  Raises MissingExtra."""
    profiler = line_profiler()()
    for function in watched:
        profiler.add_function(unwrap(function))
    profiler.enable_by_count()
    try:
        call()
    finally:
        profiler.disable_by_count()
    stats = profiler.get_stats()
    return tuple(
        LineRow(name, f"{short(file)}:{line}", linecache.getline(file, line).strip(), hits, ticks * stats.unit)
        for (file, _, name), timings in sorted(stats.timings.items())
        for line, hits, ticks in timings
    )


def line_profiler() -> Any:
    """The class LineProfiler.  Raises MissingExtra when the package is not installed."""
    try:
        from line_profiler import LineProfiler
    except ImportError as error:
        raise MissingExtra("line_profiler", "profile") from error
    return LineProfiler


def short(file: str) -> str:
    """The file from where Python finds it on: ``torch/nn/functional.py``."""
    path = Path(file)
    roots = [Path(entry) for entry in sys.path if entry and path.is_relative_to(entry)]
    return str(path.relative_to(max(roots, key=lambda root: len(root.parts)))) if roots else path.name
