"""A finished run as JSON: every figure in it was measured."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hasten.data.array import Data
from hasten.environment import environment, python_child
from hasten.errors import HastenError
from hasten.files import write_text
from hasten.measure.memory import peaks_at_once
from hasten.measure.pair import Comparison, Observation
from hasten.measure.profile import Row
from hasten.measure.quality import Quality
from hasten.model.source import Source
from hasten.propose import Refusal
from hasten.technique.plan import Plan

VERSION = 1
ONCE = "import sys; from hasten.subject import sample_once; sample_once(*sys.argv[1:])"


def speedup(comparison: Comparison, name: str = "ratio") -> dict[str, Any]:
    """The comparison's interval for people: baseline/candidate, or, as "times", how much slower the candidate is."""
    interval = comparison.interval
    if interval is None:
        return {
            "ratio": None,
            "low": None,
            "high": None,
            "rounds": 0,
            "verdict": comparison.verdict,
            "reason": comparison.reason,
        }
    shown = interval if name == "times" else interval.inverse()
    return {
        "ratio": shown.ratio,
        "low": shown.low,
        "high": shown.high,
        "rounds": shown.n,
        "verdict": str(comparison.verdict),
        "reason": comparison.reason,
    }


def as_rows(observations: Sequence[Observation]) -> list[dict[str, Any]]:
    """Raw observations as plain values."""
    return [asdict(observation) for observation in observations]


def peak_memory(source: Source, artifact: Path, images: int, warnings: list[str]) -> dict[str, int | None]:
    """Peak resident bytes of sampling ``images`` images, baseline and artifact at once, each in its own process."""
    if source.folder is None:
        warnings.append("peak memory was not measured: a module of your own can't be built in another process")
        return {"baseline": None, "candidate": None}

    programs = [python_child("-c", ONCE, str(what), str(images), source.device) for what in (source.folder, artifact)]
    peaks: dict[str, int | None] = {}
    for name, found in zip(("baseline", "candidate"), peaks_at_once(programs, 300.0), strict=True):
        if isinstance(found, HastenError):
            warnings.append(f"peak memory of the {name} was not measured: {found}")
        peaks[name] = None if isinstance(found, HastenError) else found
    return peaks


def write(
    path: Path,
    *,
    command: str,
    replay: str,
    seed: int,
    seconds: float,
    source: Source,
    parameters: int,
    data: Data | None,
    plan: Plan,
    comparison: Comparison,
    quality: Quality,
    passed: bool,
    converged: dict[str, float],
    attribution: list[dict[str, Any]],
    noise_floor: Comparison,
    trials: list[dict[str, Any]],
    searched: dict[str, Any],
    goal: str,
    limits: dict[str, float | None],
    proposals: list[tuple[str, str]],
    refusals: list[Refusal],
    rows: Sequence[Row],
    candidate_rows: Sequence[Row] | None,
    observations: Sequence[Observation],
    preparation_seconds: float,
    peaks: dict[str, int | None],
    weight_bytes: dict[str, int | None],
    interrupted: bool,
    warnings: list[str],
) -> dict[str, Any]:
    """Put the run together, write it whole or not at all, and return it."""
    per_image = {
        "baseline": comparison.seconds_per_image("baseline"),
        "candidate": seconds_per_image(comparison),
    }
    saved = per_image["baseline"] - per_image["candidate"]
    made: dict[str, Any] = {
        "version": VERSION,
        "command": command,
        "replay": replay,
        "seed": seed,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": seconds,
        "source": {
            "name": source.name,
            "folder": None if source.folder is None else str(source.folder),
            "weight_hash": source.weight_hash,
            "parameters": parameters,
            "shape": list(source.shape),
            "attribution": source.attribution,
            "guidance": source.guidance,
        },
        "data": None if data is None else {"name": data.name, "samples": len(data.samples)},
        "baseline": side(source, Plan(), per_image["baseline"], peaks["baseline"], weight_bytes["baseline"]),
        "candidate": side(source, plan, per_image["candidate"], peaks["candidate"], weight_bytes["candidate"]),
        "passed": passed,
        "speedup": speedup(comparison) | {"noise_floor": speedup(noise_floor)},
        "clock": {"overhead_share": comparison.clock_overhead, "mhz": comparison.clock_mhz},
        "break_even": {
            "preparation_seconds": preparation_seconds,
            "images": math.ceil(preparation_seconds / saved) if saved > 0 else None,
        },
        "quality": quality.to_json() | {"drift_db_converged": converged},
        "attribution": attribution,
        "candidates": trials,
        "search": {"goal": goal, "limits": limits, **searched},
        "proposed": [{"label": label, "reason": reason} for label, reason in proposals],
        "refused": [asdict(refusal) for refusal in refusals],
        "profile": {
            "baseline": {"seconds_per_image": per_image["baseline"], "rows": [asdict(row) for row in rows]},
            "candidate": None
            if candidate_rows is None
            else {"seconds_per_image": per_image["candidate"], "rows": [asdict(row) for row in candidate_rows]},
        },
        "observations": as_rows(observations),
        "environment": environment(),
        "interrupted": interrupted,
        "warnings": warnings,
    }
    write_text(path, json.dumps(made, indent=1, default=str) + "\n")
    return made


def side(
    source: Source, plan: Plan, seconds_per_image: float, peak: int | None, weight_bytes: int | None
) -> dict[str, Any]:
    """Baseline or candidate."""
    sampler = plan.find("sampler")
    return {
        "plan": plan.to_list(),
        "label": plan.label_on(source.sampler_label),
        "plan_hash": plan.hash,
        "seconds_per_image": seconds_per_image,
        "peak_bytes": peak,
        "weight_bytes": weight_bytes,
        "evaluations": source.table.evaluations if sampler is None else getattr(sampler, "steps", None),
    }


def seconds_per_image(comparison: Comparison) -> float:
    """The candidate's, whatever the comparison called it."""
    names = {o.plan for o in comparison.observations} - {"baseline"}
    return comparison.seconds_per_image(names.pop())
