"""Every run as one line of JSON, and what changed between runs of the same thing on the same machine.

The file is ``HASTEN_HISTORY`` ("off" or empty: none), else ``history.jsonl`` under XDG_STATE_HOME/hasten or
~/.local/state/hasten.  A line is appended by one write under a lock, so processes may end at once; a line that can't be
read is counted and left as it is.

**Change.**  Runs are compared within a series: the same kind, sides (weights and plans), settings and machine (the
fingerprint of its environment).  A plan that the run itself found is its outcome, so a series goes on when another one
wins.  Only a paired figure can change: machine and neighbours, which move absolute times
from one day to the next, hit both sides of a ratio alike.  A run differs when its 95 % interval overlaps *none* of the
intervals of the runs before it, back to the last change.  For one earlier run of equal width that is a test at 0.6 %
(Schenker and Gentleman 2001, doi:10.1198/000313001317097960); with each further run it takes more, and so does whatever
varies from run to run, because it spreads the earlier intervals.  So looking again and again stays safe:
tests/unit/test_history.py simulates how often a history of 30 runs without a change shows one.  A drift that is slower
than the intervals are wide is not seen.

Imports no torch.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, TypeAdapter

from hasten import __version__
from hasten.environment import environment, fingerprint
from hasten.errors import BadInput, did_you_mean
from hasten.files import lock, text_lines, why
from hasten.measure.stats import FEWEST_ROUNDS, median_ratio

if TYPE_CHECKING:
    from hasten.measure.pair import Comparison
    from hasten.measure.quality import Quality

VERSION = 1
FOUND = {"optimize": "b"}  # by kind, the side whose plan is what the run came to
MACHINE = ("cpu", "cores", "threads", "gpu", "os", "python")


@dataclass(frozen=True)
class Figure:
    """A measured value with its interval [low, high] over ``n`` rounds or pairs, None where it has none.

    ``paired``: both sides were measured in the same rounds, so that two runs may be held against each other.
    ``doubt``: why it can't be believed; it is shown then, and held against no other.
    """

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None
    unit: str = ""
    paired: bool = False
    verdict: str = ""
    doubt: str = ""


@dataclass(frozen=True)
class Side:
    """What was measured: the source's name and weights, and the plan applied to it."""

    source: str
    weight_hash: str
    plan_hash: str
    label: Sequence[str] = ()


@dataclass(frozen=True)
class Entry:
    """One line: one run."""

    kind: str
    subject: str
    created: str
    commit: str | None
    fingerprint: str
    machine: Mapping[str, Any]
    sides: Mapping[str, Side]
    settings: Mapping[str, Any]
    figures: Mapping[str, Figure]
    hasten: str = __version__
    version: int = VERSION

    __pydantic_config__ = ConfigDict(extra="forbid")

    @property
    def series(self) -> str:
        """Equal for runs that may be held against each other."""
        given = {name: side for name, side in self.sides.items() if name != FOUND.get(self.kind)}
        sides = {name: (side.weight_hash, side.plan_hash) for name, side in given.items()}
        return json.dumps([self.kind, self.fingerprint, sides, dict(self.settings)], sort_keys=True)

    @property
    def found(self) -> tuple[str, ...]:
        """The label of the plan that the run itself found; empty where it was told what to measure."""
        side = self.sides.get(FOUND.get(self.kind, ""))
        return () if side is None else tuple(side.label)


LINE = TypeAdapter(Entry)


def record(
    kind: str,
    subject: str,
    figures: Mapping[str, Figure],
    *,
    sides: Mapping[str, Side],
    settings: Mapping[str, Any] | None = None,
    env: Mapping[str, Any] | None = None,
) -> str | None:
    """Add a run to the history; why it could not be added, as a warning to show, or None.

    ``kind``: the command ("optimize", "compare", "profile", "bench").  ``subject``: what a person calls it.  ``sides``:
    what was measured, by name ("a" is the baseline).  ``settings``: what else must be the same for two runs to be
    comparable (images per case, data, what was timed).  ``env``: :func:`hasten.environment.environment`'s, if known.
    """
    path = place()
    if path is None:
        return None
    env = env or environment()
    entry = Entry(
        kind,
        subject,
        datetime.now(UTC).isoformat(timespec="seconds"),
        env.get("commit"),
        fingerprint(env),
        {name: env.get(name) for name in MACHINE},
        sides,
        settings or {},
        figures,
    )
    try:
        append(path, json.dumps(asdict(entry)))
    except OSError as error:
        return f"history {path} can't be written to ({why(error)}); set HASTEN_HISTORY to another file or to off"
    return None


def place() -> Path | None:
    """Where the history is, None when it is off or there is no home folder to keep it in."""
    named = os.environ.get("HASTEN_HISTORY")
    if named is not None:
        return None if named in ("", "off") else Path(named)
    try:
        state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    except RuntimeError:
        return None
    return Path(state, "hasten", "history.jsonl")


def append(path: Path, line: str) -> None:
    """Add ``line`` by one write under the file's lock; what was torn before it stays a line of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        lock(file, fcntl.LOCK_EX)
        size = os.fstat(file).st_size
        torn = size > 0 and os.pread(file, 1, size - 1) != b"\n"
        whole = (("\n" if torn else "") + line + "\n").encode()
        if os.write(file, whole) < len(whole):
            os.ftruncate(file, size)  # the disk is full: no half line
            raise OSError(None, "no room for a whole line")
    finally:
        os.close(file)  # and so the lock


def of_pair(comparison: Comparison, quality: Quality | None, peaks: Sequence[int | None]) -> dict[str, Figure]:
    """The figures of baseline (a) against candidate (b); ``peaks``: the peak bytes of both."""
    figures: dict[str, Figure] = {}
    if comparison.interval is not None:
        found, verdict = comparison.interval.inverse(), str(comparison.verdict)
        told = found.n >= FEWEST_ROUNDS and found.low <= 1.0 <= found.high  # UNDECIDED, but its interval holds
        doubt = "" if told else comparison.reason
        figures["speedup"] = Figure(found.ratio, found.low, found.high, found.n, "x", True, verdict, doubt)
    names = sorted({o.plan for o in comparison.observations}, key=lambda name: name != "baseline")
    for side, name in zip("ab", names, strict=False):
        each = [o.seconds / o.images for o in comparison.observations if o.plan == name and o.seconds is not None]
        if each:
            figures[f"seconds_per_image_{side}"] = of_seconds(each)
    if quality is not None:
        if quality.loss is not None:
            figures["quality_loss"] = Figure(
                quality.loss, quality.loss_low, quality.loss_high, quality.pairs, "share", True, quality.verdict
            )
        figures["drift_db"] = Figure(quality.drift_db, n=quality.pairs, unit="dB")
    for side, peak in zip("ab", peaks, strict=True):
        if peak is not None:
            figures[f"peak_bytes_{side}"] = Figure(float(peak), unit="bytes")
    return figures


def of_seconds(seconds: Sequence[float], unit: str = "s") -> Figure:
    """The median of absolute times (n,) with its 95 % interval over rounds; of this run alone, so not paired."""
    found = median_ratio([1.0] * len(seconds), seconds)
    return Figure(found.ratio, found.low, found.high, found.n, unit)


@dataclass(frozen=True)
class Reading:
    """One run's figure in its series, how it differs from those before ("up", "down" or ""), and the plan it found."""

    created: str
    commit: str | None
    figure: Figure
    change: str
    found: Sequence[str] = ()


@dataclass(frozen=True)
class Series:
    """Runs that may be held against each other, oldest first."""

    kind: str
    subject: str
    fingerprint: str
    machine: Mapping[str, Any]
    sides: Mapping[str, Side]
    settings: Mapping[str, Any]
    figure: str
    runs: Sequence[Reading]


def read(path: Path) -> tuple[list[Entry], int]:
    """The runs in the history file ``path``, oldest first, and how many of its lines could not be read.

    Raises BadInput when there is no such file.
    """
    try:
        path.stat()
        found = [_entry(line) for line in text_lines(path, "replace") if line.strip()]
    except (OSError, ValueError) as error:
        raise BadInput(f"history {path}: {why(error)}; run something first, or name another one") from error
    entries = [entry for entry in found if entry is not None]
    return sorted(entries, key=lambda entry: entry.created), len(found) - len(entries)


def select(entries: Sequence[Entry], kind: str | None, subject: str | None) -> list[Entry]:
    """The runs of that kind and subject, None for any.  Raises BadInput that says which there are."""
    for name, wanted in (("kind", kind), ("subject", subject)):
        known = sorted({str(getattr(entry, name)) for entry in entries})
        if wanted is not None and wanted not in known:
            raise BadInput(f"{name} {wanted!r} is not in the history{did_you_mean(wanted, known)}")
    return [e for e in entries if kind in (None, e.kind) and subject in (None, e.subject)]


def series(entries: Sequence[Entry], figure: str) -> list[Series]:
    """The runs that have ``figure``, by what may be compared; the series of the newest run comes last.

    Raises BadInput when no run has it.
    """
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        if figure in entry.figures:
            groups.setdefault(entry.series, []).append(entry)
    if not groups:
        known = sorted({name for entry in entries for name in entry.figures})
        raise BadInput(f"figure {figure!r}: no run has it{did_you_mean(figure, known)}")
    found = []
    for group in sorted(groups.values(), key=lambda group: group[-1].created):
        last, changes = group[-1], changed([entry.figures[figure] for entry in group])
        runs = [
            Reading(entry.created, entry.commit, entry.figures[figure], change, entry.found)
            for entry, change in zip(group, changes, strict=True)
        ]
        found.append(
            Series(last.kind, last.subject, last.fingerprint, last.machine, last.sides, last.settings, figure, runs)
        )
    return found


def changed(figures: Sequence[Figure]) -> list[str]:
    """For each run "up" or "down" where its interval is apart from those of all runs since the last change, else ""."""
    level: list[tuple[float, float]] = []
    found = []
    for figure in figures:
        change = ""
        if figure.paired and not figure.doubt and figure.low is not None and figure.high is not None:
            if level and figure.low > max(high for _, high in level):
                change = "up"
            elif level and figure.high < min(low for low, _ in level):
                change = "down"
            level = [*([] if change else level), (figure.low, figure.high)]
        found.append(change)
    return found


def _entry(line: str) -> Entry | None:
    """The run that a line holds, None when it holds none."""
    try:
        entry = LINE.validate_json(line, strict=True)
        numbers = [n for f in entry.figures.values() for n in (f.value, f.low, f.high) if n is not None]
        whole = entry.version == VERSION and all(map(math.isfinite, numbers))
        return entry if whole and datetime.fromisoformat(entry.created) and entry.series else None
    except ValueError:  # a ValidationError, or no date
        return None
