"""What was measured, as plain values: ratios for people, raw rounds, peaks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hasten.environment import python_child
from hasten.errors import HastenError
from hasten.measure.memory import peaks_at_once
from hasten.measure.pair import Comparison, Observation
from hasten.model.source import Source

ONCE = "import sys; from hasten.subject import sample_once; sample_once(*sys.argv[1:])"
NOT_ELSEWHERE = "peak memory was not measured: a module of your own can't be built in another process"


def speedup(comparison: Comparison, name: str = "ratio") -> dict[str, Any]:
    """The comparison's interval for people: baseline/candidate, or, as "times", how much slower the candidate is."""
    interval = comparison.interval
    shown = interval if interval is None or name == "times" else interval.inverse()
    return {
        "ratio": None if shown is None else shown.ratio,
        "low": None if shown is None else shown.low,
        "high": None if shown is None else shown.high,
        "rounds": 0 if shown is None else shown.n,
        "verdict": str(comparison.verdict),
        "reason": comparison.reason,
    }


def as_rows(observations: Sequence[Observation]) -> list[dict[str, Any]]:
    """Raw observations as plain values."""
    return [asdict(observation) for observation in observations]


def peak_memory(source: Source, artifact: Path, images: int, warnings: list[str]) -> dict[str, int | None]:
    """Peak resident bytes of sampling ``images`` images, baseline and artifact at once, each in its own process."""
    if source.folder is None:
        warnings.append(NOT_ELSEWHERE)
        return {"baseline": None, "candidate": None}
    programs = [python_child("-c", ONCE, str(what), str(images), source.device) for what in (source.folder, artifact)]
    names = ("baseline", "candidate")
    return dict(zip(names, peaks(["the baseline", "the candidate"], programs, 300.0, warnings), strict=True))


def peaks(
    names: Sequence[str], programs: Sequence[Sequence[str]], timeout: float, warnings: list[str]
) -> list[int | None]:
    """Peak resident bytes of ``programs`` that run at once, at most ``timeout`` seconds; a warning for each without."""
    answers = peaks_at_once(programs, timeout)
    for name, answer in zip(names, answers, strict=True):
        if isinstance(answer, HastenError):
            warnings.append(f"peak memory of {name} was not measured: {answer}")
    return [None if isinstance(answer, HastenError) else answer for answer in answers]
