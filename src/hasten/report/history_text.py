"""A history as text of at most 80 columns: a table for each series, newest run last, with bars for the intervals."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from hasten.files import size
from hasten.history import FOUND, Figure, Reading, Series
from hasten.report.terminal import WIDTH

BAR = 18
PAIRED = (
    "up, down: the run's interval is apart from those of all runs before it since the last change. For one earlier run "
    "of equal width that is a test at 0.6 %, for more of them a stricter one."
)
ABSOLUTE = (
    "No change is flagged: what is not measured in pairs moves with frequency and neighbours from one day to the next. "
    "`hasten compare` holds two things against each other."
)
MACHINES = "Runs of different machines (fingerprints) are never held against each other."
UNITS = {"s": (1.0, "s"), "dB": (1.0, "dB"), "x": (1.0, "x"), "share": (0.01, "%")}


def table(found: Sequence[Series], last: int, unreadable: int) -> str:
    """The ``last`` runs of each series; flags come of all its runs."""
    parts = [_series(one, last) for one in found]
    figures = [run.figure for one in found for run in one.runs]
    notes = [PAIRED if any(figure.paired for figure in figures) else ABSOLUTE]
    if len({one.fingerprint for one in found}) > 1:
        notes.append(MACHINES)
    doubts = sorted({figure.doubt for figure in figures if figure.doubt})
    notes += [f"?: held against no other run: {doubt}" for doubt in doubts]
    if unreadable:
        notes.append(f"warning: {unreadable} lines could not be read and were left out")
    return "\n\n".join([*parts, "\n".join(textwrap.fill(note, WIDTH) for note in notes)])


def _series(one: Series, last: int) -> str:
    settings = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in one.settings.items() if value)
    heads = [f"{one.figure} of {one.subject} ({one.kind}{f'; {settings}' if settings else ''})"]
    runs = one.runs[-last:]
    plans = _found(one.kind, runs)
    given = {name: side for name, side in one.sides.items() if not plans or name != FOUND[one.kind]}
    named = {name.upper(): ", ".join(side.label) or side.source for name, side in given.items()}
    named |= {mark: ", ".join(label) for label, mark in plans.items()}
    heads += [f"{name:<{max(map(len, named))}}  {label}" for name, label in named.items()]
    heads.append(f"on {_machine(one.machine)}, fingerprint {one.fingerprint}")
    ends = [end for run in runs for end in _ends(run.figure)]
    lines = [_line(run, min(ends), max(ends), plans.get(tuple(run.found), "")) for run in runs]
    return "\n".join([*(textwrap.fill(head, WIDTH, subsequent_indent="   ") for head in heads), *lines])


def _found(kind: str, runs: Sequence[Reading]) -> dict[tuple[str, ...], str]:
    """``B1``, ``B2`` and so on by the labels of the plans that ``runs`` came to; empty where they came to one."""
    labels = dict.fromkeys(tuple(run.found) for run in runs if run.found)
    return {label: f"{FOUND[kind].upper()}{n}" for n, label in enumerate(labels, 1)} if len(labels) > 1 else {}


def _machine(machine: Mapping[str, object]) -> str:
    gpu = machine.get("gpu")
    name = gpu.get("name") if isinstance(gpu, Mapping) else machine.get("cpu")
    cores = machine.get("cores")
    return f"{name or 'a processor of unknown name'}{'' if cores is None else f', {cores} cores'}"


def _line(run: Reading, low: float, high: float, mark: str) -> str:
    figure = run.figure
    commit = "" if run.commit is None else run.commit[:7] + ("*" if run.commit.endswith("-dirty") else "")
    interval = f"{_number(figure, figure.low)} to {_number(figure, figure.high)}" if figure.low is not None else ""
    flag = "?" if figure.doubt else run.change
    value = size(figure.value) if figure.unit == "bytes" else _number(figure, figure.value) + _unit(figure)
    when = run.created[:16].replace("T", " ")
    return f"{when} {commit:<8} {value:>9} {interval:>16} {_bar(figure, low, high)} {flag:<4} {mark}".rstrip()


def _unit(figure: Figure) -> str:
    return UNITS[figure.unit][1] if figure.unit in UNITS else ""


def _number(figure: Figure, value: float | None) -> str:
    scale = UNITS.get(figure.unit, (1.0, ""))[0]
    return "" if value is None else f"{value / scale:.3g}"


def _ends(figure: Figure) -> tuple[float, float]:
    if figure.low is None or figure.high is None:
        return figure.value, figure.value
    return figure.low, figure.high


def _bar(figure: Figure, low: float, high: float) -> str:
    """``  |--o-|   ``: the interval and the value, where ``low`` is the left edge and ``high`` the right one."""
    if high <= low:
        return "o".center(BAR)
    first, middle, last = (
        round((BAR - 1) * (x - low) / (high - low))
        for x in (_ends(figure)[0], min(max(figure.value, low), high), _ends(figure)[1])
    )
    marks = [" "] * first + ["-"] * (last - first + 1) + [" "] * (BAR - 1 - last)
    marks[first], marks[last] = "|", "|"
    marks[middle] = "o"
    return "".join(marks)
