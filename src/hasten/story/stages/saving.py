"""What a run leaves: samples, the artifact, the plans of the front, result.json, and a line in the history."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hasten import artifact, history, result
from hasten.environment import environment
from hasten.files import replacing, size, write_text
from hasten.measure.pair import Comparison
from hasten.measure.profile import Row
from hasten.model.source import Source
from hasten.propose import Refusal
from hasten.story.stages import again, trials, trying
from hasten.story.stages.finals import Added, Confirmed
from hasten.story.stages.run import Run
from hasten.story.stages.trials import Searched, as_plan
from hasten.story.stages.ways import Way
from hasten.technique import plan as plans
from hasten.technique.plan import Plan
from hasten.technique.sampler import Sampler

VERSION = 1


@dataclass(frozen=True)
class Outcome:
    """What the stages found: ``rows`` profile the network of so many ``parameters``; ``tried`` and ``refusals`` say
    what was looked at; ``converged`` is how far baseline and winner are from converged samples, in dB."""

    parameters: int
    rows: Sequence[Row]
    tried: list[Way]
    refusals: list[Refusal]
    searched: Searched
    confirmed: Confirmed
    added: Added
    converged: dict[str, float]


def save(run: Run, outcome: Outcome) -> dict[str, Any]:
    """Write all of it into the run's folder, but for the report; what result.json holds is returned.

    Where no plan held, nothing is left that could be taken for a winner.
    """
    run.say("save", "artifact and peak memory")
    source, limits, confirmed = run.source, run.limits, outcome.confirmed
    winner_rows = trying.profile_winner(run, confirmed.plan)
    observations = result.as_rows([*confirmed.comparison.observations, *outcome.added.observations])
    _write_samples(run.out / "samples.npz", confirmed.comparison)
    slim = limits.size_matters and confirmed.plan.self_contained
    folder = artifact.save(run.out / "artifact", source, confirmed.plan, observations, slim=slim)
    peaks = result.peak_memory(source, folder, run.settings.images_per_case, run.warnings)
    passed = confirmed.passed
    if limits.memory_bytes is not None and (peaks["candidate"] or 0) > limits.memory_bytes:
        run.warnings.append(f"the peak is over the {size(limits.memory_bytes)} allowed once the plan is whole")
        passed = False
    front = outcome.searched.front() if passed else []
    trials.write_front(run.out / trials.FRONT, [as_plan(trial.point, outcome.searched.ways) for trial in front])
    if passed:
        plans.write(confirmed.plan, run.out / "plan.toml")
    else:
        shutil.rmtree(folder)
    rows = outcome.searched.rows(front)
    return _write(run, outcome, passed, rows, peaks, winner_rows)


def _write(
    run: Run,
    outcome: Outcome,
    passed: bool,
    candidates: list[dict[str, Any]],
    peaks: dict[str, int | None],
    winner_rows: Sequence[Row] | None,
) -> dict[str, Any]:
    """result.json, whole or not at all: every figure in it was measured."""
    source, data, confirmed, added = run.source, run.data, outcome.confirmed, outcome.added
    comparison, network = confirmed.comparison, confirmed.plan.without(Sampler.name)[0]
    (name,) = {o.plan for o in comparison.observations} - {"baseline"}
    before, after = comparison.seconds_per_image("baseline"), comparison.seconds_per_image(name)
    weights = outcome.tried[0].weight_bytes, outcome.searched.ways[network.hash].weight_bytes
    written: dict[str, Any] = {
        "version": VERSION,
        "command": again.whole(run),
        "replay": again.plan(run) if passed else "",
        "seed": run.settings.seed,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": run.deadline.used,
        "source": {
            "name": source.name,
            "folder": None if source.folder is None else str(source.folder),
            "weight_hash": source.weight_hash,
            "parameters": outcome.parameters,
            "shape": list(source.shape),
            "attribution": source.attribution,
            "guidance": source.guidance,
        },
        "data": None if data is None else {"name": data.name, "samples": len(data.samples)},
        "baseline": _side(source, Plan(), before, peaks["baseline"], weights[0]),
        "candidate": _side(source, confirmed.plan, after, peaks["candidate"], weights[1]),
        "passed": passed,
        "speedup": result.speedup(comparison) | {"noise_floor": result.speedup(added.noise_floor)},
        "clock": {"overhead_share": comparison.clock_overhead, "mhz": comparison.clock_mhz},
        "break_even": {
            "preparation_seconds": run.preparation_seconds,
            "images": math.ceil(run.preparation_seconds / (before - after)) if before > after else None,
        },
        "quality": confirmed.quality.to_json() | {"drift_db_converged": outcome.converged},
        "attribution": added.rows,
        "candidates": candidates,
        "search": {"goal": run.limits.goal, "limits": run.limits.amounts(), **outcome.searched.effort()},
        "proposed": [{"label": way.label, "reason": way.reason} for way in outcome.tried],
        "refused": [asdict(refusal) for refusal in outcome.refusals],
        "profile": {"baseline": _profile(before, outcome.rows), "candidate": _profile(after, winner_rows)},
        "observations": result.as_rows([*comparison.observations, *added.observations]),
        "environment": environment(),
        "interrupted": run.stopped(),
        "warnings": run.warnings,
    }
    write_text(run.out / "result.json", json.dumps(written, indent=1, default=str) + "\n")
    return written


def _side(
    source: Source, plan: Plan, seconds_per_image: float, peak: int | None, weight_bytes: int | None
) -> dict[str, Any]:
    """Baseline or candidate."""
    sampler = plan.find(Sampler.name)
    return {
        "plan": plan.to_list(),
        "label": plan.label_on(source.sampler_label),
        "plan_hash": plan.hash,
        "seconds_per_image": seconds_per_image,
        "peak_bytes": peak,
        "weight_bytes": weight_bytes,
        "evaluations": source.table.evaluations if sampler is None else getattr(sampler, "steps", None),
    }


def _profile(seconds_per_image: float, rows: Sequence[Row] | None) -> dict[str, Any] | None:
    return None if rows is None else {"seconds_per_image": seconds_per_image, "rows": [asdict(row) for row in rows]}


def _write_samples(path: Path, comparison: Comparison) -> None:
    """Baseline and winner from the same noise, for the report."""
    arrays = {
        "baseline": torch.cat(comparison.samples_a).numpy(),
        "candidate": torch.cat(comparison.samples_b).numpy(),
    }
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def record(run: Run, confirmed: Confirmed, written: dict[str, Any]) -> None:
    """Add the run to the person's history; a history that can't be written to is a warning, no failure."""
    source, limits = run.source, run.limits
    peaks = [written[side]["peak_bytes"] for side in ("baseline", "candidate")]
    unwritten = history.record(
        "optimize",
        source.name,
        history.of_pair(confirmed.comparison, confirmed.quality, peaks),
        sides={"a": side_of(source, Plan()), "b": side_of(source, confirmed.plan)},
        settings={
            "images_per_case": run.settings.images_per_case,
            "data": None if run.data is None else run.data.name,
            "features": confirmed.quality.features,
            "guidance": source.guidance,
            "sampler": source.sampler_label,
            "device": source.device,
            "goal": limits.goal,
            "budget": f"{limits.quality:.2%}",
            "memory": limits.memory_bytes and size(limits.memory_bytes),
            "size": limits.size_bytes and size(limits.size_bytes),
        },
        env=written["environment"],
    )
    written["warnings"] += [unwritten] if unwritten else []


def side_of(source: Source, plan: Plan) -> history.Side:
    """What a line of the history says of a model with a plan."""
    return history.Side(source.name, source.weight_hash, plan.hash, plan.label_on(source.sampler_label))
