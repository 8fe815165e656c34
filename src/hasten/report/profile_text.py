"""A profile for the terminal: the line that matters, then a table a part, at most 80 columns wide."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hasten.report import words

WIDTH = 80
ROWS = 10
DASH = "-"


def summary(result: dict[str, Any], out: Path | None) -> str:
    """The whole; every figure from ``result``."""
    what = "training step" if result["train"] else "sample"
    lines = [f"{result['subject']}: {result['label']}; a {what} of {result['images']} on {result['device']}"]
    if result["headline"]:
        lines.append(result["headline"])
    for part in (_modules, _engine, _ops, _steps, _phases, _python, _memory, _damage):
        lines += part(result)
    lines += ["", *(f"note: {note}" for note in result["notes"])] if result["notes"] else []
    if out is not None:
        files = "profile.html,profile.json" + (",trace.json" if result["ops"] else "")
        lines += ["", f"written     {out}/{{{files}}}"]
    return "\n".join(_filled(line) for line in lines).replace(words.NBSP, " ")


def _filled(line: str) -> str:
    return line if len(line) <= WIDTH else textwrap.fill(line, WIDTH, subsequent_indent="  ")


def intensity(flops: float | None, moved: float | None) -> str:
    """FLOP/byte."""
    return DASH if not flops or not moved else words.number(flops / moved)


def reached(bound: float | None, seconds: float) -> str:
    """The share of the bound that was reached; over 100 % when data stays in a cache."""
    return DASH if bound is None or not seconds or not bound else words.share(bound / seconds)


def _table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Right-aligned columns behind a name that is cut to what is left."""
    rows = [list(row) for row in rows]
    widths = [max(len(row[i]) for row in [list(head), *rows]) for i in range(1, len(head))]
    name = WIDTH - sum(widths) - 2 * len(widths)
    shown = [
        words.cut(row[0], name).ljust(name) + "".join(f"  {cell:>{w}}" for cell, w in zip(row[1:], widths, strict=True))
        for row in [list(head), *rows]
    ]
    return ["", title, *shown]


def _modules(result: dict[str, Any]) -> list[str]:
    found = result["modules"]
    if found is None:
        return []
    rows = [
        (
            row["name"],
            f"{row['calls']:.0f}" if row["calls"] else DASH,
            words.seconds(row["seconds"]),
            words.share(row["share"]),
            f"{row['flops'] / 1e9:.2f}" if row["flops"] else DASH,
            intensity(row["flops"], row["bytes"]),
            words.seconds(row["bound_seconds"]),
            reached(row["bound_seconds"], row["seconds"]),
        )
        for row in found["kinds"][:ROWS]
    ]
    whole = found["whole_seconds"]
    title = (
        f"One evaluation by kind of module: {words.seconds(whole)} without hooks, rows add up to "
        f"{words.share(1 - found['residual_seconds'] / whole)} of it; hooks cost {cost(found['overhead'])}"
    )
    kinds = _table(title, ("", "calls", "time", "share", "GFLOP", "FLOP/B", "bound", "reached"), rows)
    tree = sorted((row for row in found["rows"] if row["depth"]), key=lambda row: -row["exclusive_seconds"])
    costliest = [
        (
            row["name"],
            row["kind"],
            words.seconds(row["inclusive_seconds"]),
            words.seconds(row["exclusive_seconds"]),
            reached(row["bound_seconds"], row["inclusive_seconds"]),
        )
        for row in tree[:ROWS]
    ]
    return kinds + _table("The costliest modules", ("", "kind", "inclusive", "own", "reached"), costliest)


def _engine(result: dict[str, Any]) -> list[str]:
    if result["engine"] is None:
        return []
    rows = [
        (row["name"], f"{row['calls']}", words.seconds(row["seconds"]), words.share(row["share"]))
        for row in result["engine"][:ROWS]
    ]
    return _table("One evaluation by kind of operation, as the engine counts", ("", "calls", "time", "share"), rows)


def _damage(result: dict[str, Any]) -> list[str]:
    found = result["damage"]
    if found is None:
        return []
    worst = sorted(found["rows"], key=lambda row: min(row["decibels"]))[:ROWS]
    rows = [
        (
            row["name"],
            words.share(row["share"]),
            *(f"{db:.1f}" for db in row["decibels"]),
            "float" if row["kept"] else "",
        )
        for row in worst
    ]
    kept = [row for row in found["rows"] if row["kept"]]
    share = words.share(sum(row["share"] for row in kept))
    lines = _table("What INT8 does to the output, in dB, by layer and noise", ("", "work", *found["levels"], ""), rows)
    said = f"float: these {len(kept)} layers, {share} of the work, for {found['least_db']:.0f} dB at every level"
    return [*lines, said]


def _ops(result: dict[str, Any]) -> list[str]:
    found = result["ops"]
    if found is None:
        return []
    rows = [
        (
            row["name"].removeprefix("aten::"),
            f"{row['calls']:.0f}" if row["calls"] else DASH,
            words.seconds(row["inclusive_seconds"]),
            words.seconds(row["exclusive_seconds"]),
            intensity(row["flops"], row["bytes"]),
            words.seconds(row["bound_seconds"]) if row["bound_seconds"] else DASH,
            reached(row["bound_seconds"], row["inclusive_seconds"]),
        )
        for row in found["rows"][:ROWS]
    ]
    whole = "A training step" if result["train"] else "One evaluation"
    plain = words.seconds(found["plain_seconds"])
    title = f"{whole} by operator: {plain} without the profiler, which costs {cost(found['overhead'])}"
    return _table(title, ("", "calls", "inclusive", "own", "FLOP/B", "bound", "reached"), rows)


def _steps(result: dict[str, Any]) -> list[str]:
    found = result["steps"]
    if found is None:
        return []
    return [
        "",
        f"The sampling loop, {len(found['network_seconds'])} evaluations in {words.seconds(found['seconds'])}; "
        f"its marks cost {cost(found['overhead'])}",
        f"  first in this process {words.seconds(found['cold_seconds'])}, first of a sample "
        f"{words.seconds(found['first_seconds'])}, then {words.seconds(found['steady_seconds'])} each (median)",
        f"  outside the network {words.seconds(found['outside_seconds'])}, "
        f"{words.share(found['outside_seconds'] / found['seconds'])} of the whole",
    ]


def _phases(result: dict[str, Any]) -> list[str]:
    found = result["phases"]
    if found is None:
        return []
    rows = [
        (phase, words.seconds(seconds), words.share(seconds / sum(found["seconds"].values())))
        for phase, seconds in found["seconds"].items()
    ]
    title = f"A training step in {words.seconds(found['whole_seconds'])}; parts timed apart / whole: "
    return _table(title + words.near_one(found["overhead"]), ("", "time", "share"), rows)


def _python(result: dict[str, Any]) -> list[str]:
    found = result["python"]
    if found is None:
        return []
    rows = [
        (
            f"{row['name']}  {'' if row['place'] == 'built in' else row['place']}",
            f"{row['calls']}",
            words.seconds(row["inclusive_seconds"]),
            words.seconds(row["exclusive_seconds"]),
        )
        for row in found["functions"][:ROWS]
    ]
    title = f"Python by function (cProfile costs {cost(found['functions_overhead'])})"
    shown = _table(title, ("", "calls", "inclusive", "own"), rows)
    if found["lines"]:
        costly = sorted(found["lines"], key=lambda row: -row["seconds"])[:ROWS]
        lines = [(f"{r['place']}  {r['code']}", f"{r['hits']}", words.seconds(r["seconds"])) for r in costly]
        title = f"Python by line (line_profiler costs {cost(found['lines_overhead'])})"
        shown += _table(title, ("", "hits", "time"), lines)
    return shown


def _memory(result: dict[str, Any]) -> list[str]:
    found = result["memory"]
    if found is None:
        return []
    rows = [
        (f"{row['owner']}  {row['operator'].removeprefix('aten::')}", words.size(row["bytes"]))
        for row in found["holders"][:ROWS]
    ]
    resident = words.size(found["resident_peak_bytes"])
    title = (
        f"Memory: peak {words.size(found['peak_bytes'])} of tensors "
        f"(following them costs {cost(found['overhead'])}), {resident} resident"
    )
    phases = ", ".join(f"{name} {words.size(size)}" for name, size in found["phase_peaks"].items() if name)
    return _table(title, ("held at the peak", ""), rows) + ([f"peaks: {phases}"] if phases else [])


def cost(overhead: float) -> str:
    """An overhead, profiled / plain, as a change: +3.1 %; one below nothing is the noise of two timings."""
    if overhead < 1.0:
        return f"nothing that shows (timings differ by {words.share(1.0 - overhead)})"
    return words.change(overhead - 1.0)
