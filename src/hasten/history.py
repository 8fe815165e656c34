"""Every run as one line of JSON, and what changed between runs of the same thing on the same machine.

The file is ``HASTEN_HISTORY`` ("off" or empty: none), else ``history.jsonl`` under XDG_STATE_HOME/hasten or
~/.local/state/hasten.  A line is appended by one write under a lock, so processes may end at once; a line that can't be
read is counted and left as it is.

**Change.**  Runs are compared within a series: the same kind, sides (weights and plans), settings and machine (the
fingerprint of its environment).  Only a paired figure can change: machine and neighbours, which move absolute times
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
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hasten import __version__
from hasten.environment import environment, fingerprint
from hasten.measure.stats import median_ratio

if TYPE_CHECKING:
    from hasten.measure.pair import Comparison
    from hasten.measure.quality import Quality

VERSION = 1
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

    @property
    def series(self) -> str:
        """Equal for runs that may be held against each other."""
        sides = {name: (side.weight_hash, side.plan_hash) for name, side in self.sides.items()}
        return json.dumps([self.kind, self.fingerprint, sides, dict(self.settings)], sort_keys=True)


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
        return f"history {path} can't be written to ({error.strerror}); set HASTEN_HISTORY to another file or to off"
    return None


def place() -> Path | None:
    """Where the history is, None when it is off."""
    named = os.environ.get("HASTEN_HISTORY")
    if named is not None:
        return None if named in ("", "off") else Path(named)
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state, "hasten", "history.jsonl")


def append(path: Path, line: str) -> None:
    """Add ``line`` by one write under the file's lock; what was torn before it stays a line of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
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
        found = comparison.interval.inverse()
        figures["speedup"] = Figure(
            found.ratio, found.low, found.high, found.n, "x", paired=True, verdict=str(comparison.verdict)
        )
    names = sorted({o.plan for o in comparison.observations}, key=lambda name: name != "baseline")
    for side, name in zip("ab", names, strict=False):
        each = [o.seconds / o.images for o in comparison.observations if o.plan == name and o.seconds is not None]
        if each:
            figures[f"seconds_per_image_{side}"] = of_seconds(each)
    if quality is not None:
        if quality.loss is not None:
            figures["quality_loss"] = Figure(
                quality.loss, quality.loss_low, quality.loss_high, quality.pairs, paired=True, verdict=quality.verdict
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
