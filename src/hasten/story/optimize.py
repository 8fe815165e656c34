"""The story: load, profile, propose, try engines, search, confirm on fresh cases, attribute, save.

Search and confirmation use different noise, and only what the confirmation measured is printed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hasten import artifact, guard, history, propose, result
from hasten.data.array import Data
from hasten.environment import environment, fingerprint
from hasten.errors import BadInput, did_you_mean
from hasten.files import replacing, size, write_text
from hasten.measure import quality, roofline
from hasten.measure.copies import MOST_TRAINING
from hasten.measure.features import Features
from hasten.measure.quality import Reference
from hasten.model.config import read_json
from hasten.model.source import Source
from hasten.model.target import Target
from hasten.model.weights import shown
from hasten.report import page
from hasten.search.factorised import Trial
from hasten.search.loop import search
from hasten.story import again
from hasten.story.stages import finals, trials
from hasten.story.stages import ways as engines
from hasten.story.stages.finals import Confirmed
from hasten.story.stages.run import GOALS, REFERENCE, SEARCH, UNTIMED_BATCH, Progress, Run
from hasten.story.stages.ways import CONVERGED, Engine
from hasten.technique import plan as plans
from hasten.technique.plan import Plan
from hasten.technique.sampler import Sampler
from hasten.technique.swap import Swap

TRIALS = 5  # what a trial of the history holds; counted up when that changes
SEARCH_END = 0.46  # the share of the time by whose end no further trial begins
SEARCH_END_AT_LAST = 0.55  # the same while no plan holds the budget
REFERENCE_IMAGES, FEWEST_REFERENCE_IMAGES = 256, 64
REFERENCE_END = 0.3  # the share of the time by whose end these are made, where there is no data


def optimize(
    source: Source,
    data: Data | None = None,
    *,
    out: Path | str,
    budget: float = 0.02,
    goal: str = "throughput",
    memory_bytes: float | None = None,
    size_bytes: float | None = None,
    seconds: float = 300.0,
    images_per_case: int | None = None,
    seed: int = 0,
    resume: bool = False,
    progress: Progress | None = None,
    features: Features | None = None,
    students: Sequence[str | Path] = (),
) -> dict[str, Any]:
    """Find the best plan whose loss of quality stays within ``budget``, prove it, and save it under ``out``.

    ``budget`` is the relative rise of the distance to the data that is allowed (0.02 is 2 %); without data, of the
    distance to the model's own converged samples.  ``memory_bytes`` and ``size_bytes`` bound the peak of the process
    that samples and the network on disk.  Best is, by ``goal``, the least time for an image of a batch ("throughput")
    or alone ("latency"), the least peak ("memory") or the least on disk ("size").  ``images_per_case`` is the batch, 16
    or, for latency, 1.  ``features``, if given, take the place of the network's own.
    ``students``: model folders whose networks may take the model's place (:func:`hasten.distill.student.distill`).
    ``seconds`` bounds the whole run.  ``out`` gets ``report.html``, ``result.json``, ``plan.toml``, ``artifact/``,
    ``samples.npz``, ``history.jsonl`` and in ``front/`` the plans of which none beats another in all figures; what
    result.json holds is returned.  The first Ctrl-C ends the search and verifies the best plan so far in the fewest
    rounds, the second one leaves; ``resume`` takes up the history of ``out`` again.

    Where no plan held on fresh cases ``passed`` is False in what is returned: there is no plan, artifact or front then,
    and no line in the history.

    Raises BadInput for an ``out`` in use or finished and for data of another shape, HastenError when nothing could be
    measured.
    """
    if goal not in GOALS:
        raise BadInput(f"goal {goal!r} is not known{did_you_mean(goal, GOALS)}")
    images_per_case = images_per_case or (1 if goal == "latency" else 16)
    out = Path(out)
    if (out / "result.json").exists() and not resume:
        raise BadInput(f"{out} holds a finished run; use --resume or another --out")
    guard.check_ours(out, "run.json")
    if data is not None and data.shape != source.shape:
        raise BadInput(f"{source.name} makes samples of shape {source.shape}, data {data.name} has {data.shape}")
    with guard.holding(out), guard.stopping() as stopped:
        run = Run(
            source, data, out, budget, seconds, images_per_case, seed, progress or (lambda *_: None), stopped,
            goal, memory_bytes, size_bytes,
        )  # fmt: skip
        run.warnings += [] if data is None else data.notes
        swaps = [Swap(str(folder)) for folder in students]
        check_same(run, resume, None if features is None else features.name, [swap.weights for swap in swaps])
        return _optimize(run, features, swaps)


def _optimize(run: Run, features: Features | None, students: list[Swap]) -> dict[str, Any]:
    source = run.source
    run.say("profile", "one network evaluation by kind of module")
    target = source.build()
    peaks = roofline.peaks(source.device, fingerprint(environment()))
    rows = engines.profile_network(target, run.workload(SEARCH, 1), peaks)

    proposals, refusals = propose.engines(target.facts, rows, run.seconds, students, run.size_matters)
    tried = engines.try_engines(run, proposals)
    kept = engines.keep(tried, run)
    named = {engine.name: engine for engine in kept}

    run.say("search", "reference features and the baseline's samples")
    reference = read_reference(run, target, tried, features)
    bench = trials.Bench(run, kept, tried, reference)
    space = propose.space(target.facts, trials.costs(kept, run.goal), engines.closest(kept).name)
    late, too_late = run.over(SEARCH_END), run.over(SEARCH_END_AT_LAST)

    def stop(done: list[Trial]) -> bool:  # it goes on over time only as long as nothing holds
        run.found = any(trial.judged for trial in done)
        held = any(trial.within(run.budget) for trial in done)
        return (held and late()) or (too_late() and run.found)

    found = search(space, bench.evaluate, run.out / "history.jsonl", stop, run.budget)
    run.warnings += trials.cut_off(space, found, named, run.budget)
    finalists = trials.choose(space, found, named, run.budget)
    confirmed = finals.confirm(run, finalists, engines.closest(kept).plan, reference, tried)
    attribution, noise_floor, log = finals.attribute(run, confirmed.plan, tried)
    winner = next(e for e in kept if e.plan == confirmed.plan.without(Sampler.name)[0])
    converged = finals.drift_to_converged(run, confirmed, reference, tried)
    refusals += engines.refuse_slower(confirmed.plan, tried, refusals)

    run.say("save", "artifact and peak memory")
    candidate_rows = engines.profile_engine(run, confirmed.plan)
    observations = [*confirmed.comparison.observations, *log]
    write_samples(run.out / "samples.npz", confirmed)
    folder = artifact.save(
        run.out / "artifact",
        source,
        confirmed.plan,
        result.as_rows(observations),
        slim=run.size_matters and confirmed.plan.self_contained,
    )
    peak_bytes = result.peak_memory(source, folder, run.images_per_case, run.warnings)
    if run.memory_bytes is not None and (peak_bytes["candidate"] or 0) > run.memory_bytes:
        run.warnings.append(f"the peak is over the {size(run.memory_bytes)} allowed once the plan is whole")
        confirmed = replace(confirmed, passed=False)
    on_front = trials.front(found, named) if confirmed.passed else []
    trials.write_front(run.out / trials.FRONT, on_front, named)
    if confirmed.passed:
        plans.write(confirmed.plan, run.out / "plan.toml")
    else:  # nothing that could be taken for a winner
        shutil.rmtree(folder)
    made = result.write(
        run.out / "result.json",
        command=again.whole(run, features.name if features else None, [swap.folder for swap in students]),
        replay=again.plan(run) if confirmed.passed else "",
        seed=run.seed,
        seconds=run.deadline.used,
        source=source,
        parameters=target.facts.parameters,
        data=run.data,
        plan=confirmed.plan,
        comparison=confirmed.comparison,
        quality=confirmed.quality,
        passed=confirmed.passed,
        converged=converged,
        attribution=attribution,
        noise_floor=noise_floor,
        trials=[trials.row(trial, named, run.budget, on_front) for trial in found if trials.told(trial, named)],
        searched=trials.searched(space, found),
        goal=run.goal,
        limits={"quality": run.budget, "memory_bytes": run.memory_bytes, "size_bytes": run.size_bytes},
        proposals=[(engine.name, engine.reason) for engine in tried],
        refusals=refusals,
        rows=rows,
        candidate_rows=candidate_rows,
        observations=observations,
        preparation_seconds=run.preparation_seconds,
        peaks=peak_bytes,
        weight_bytes={"baseline": tried[0].weight_bytes, "candidate": winner.weight_bytes},
        interrupted=run.stopped(),
        warnings=run.warnings,
    )
    page.write(run.out)
    if confirmed.passed:
        record(run, confirmed, made)
    return made


def record(run: Run, confirmed: Confirmed, made: dict[str, Any]) -> None:
    """Add the run to the person's history; a history that can't be written to is a warning, no failure."""
    source = run.source
    unwritten = history.record(
        "optimize",
        source.name,
        history.of_pair(
            confirmed.comparison, confirmed.quality, [made[side]["peak_bytes"] for side in ("baseline", "candidate")]
        ),
        sides={
            side: history.Side(source.name, source.weight_hash, plan.hash, plan.label_on(source.sampler_label))
            for side, plan in (("a", Plan()), ("b", confirmed.plan))
        },
        settings={
            "images_per_case": run.images_per_case,
            "data": None if run.data is None else run.data.name,
            "features": confirmed.quality.features,
            "guidance": source.guidance,
            "sampler": source.sampler_label,
            "device": source.device,
            "goal": run.goal,
            "budget": f"{run.budget:.2%}",
            "memory": run.memory_bytes and size(run.memory_bytes),
            "size": run.size_bytes and size(run.size_bytes),
        },
        env=made["environment"],
    )
    made["warnings"] += [unwritten] if unwritten else []


def check_same(run: Run, resume: bool, features: str | None, students: list[str]) -> None:
    """Write down what the history of ``out`` belongs to; raise BadInput when it belongs to something else."""
    path = run.out / "run.json"
    mine = {
        "trials": TRIALS,
        "weights": run.source.weight_hash,
        "device": run.source.device,
        "features": features,
        "students": students,
        "guidance": run.source.guidance,
        "sampler": run.source.sampler_label,
        "data": None if run.data is None else [run.data.name, run.data.digest()],
        "batch": run.images_per_case,
        "seed": run.seed,
        "goal": [run.goal, run.memory_bytes, run.size_bytes],
    }
    if path.exists():
        if not resume:
            raise BadInput(f"{run.out} holds an unfinished run; use --resume or another --out")
        theirs = read_json(run.out, path.name)
        changed = [key for key in mine if mine[key] != theirs.get(key)]
        differing = [f"{key} {mine[key]!r}, was {shown(theirs.get(key))}" for key in changed]
        if differing:
            raise BadInput(f"{run.out} was begun with something else ({'; '.join(differing)}); use another --out")
    write_text(path, json.dumps(mine) + "\n")


def read_reference(run: Run, target: Target, tried: list[Engine], features: Features | None) -> Reference:
    """What distances are measured to: the data's training part, or, without data, the model's own converged samples."""
    if run.data is not None:
        kept_apart = run.data.part(held_out=True, most=MOST_TRAINING)[0]
        train = run.data.part(held_out=False, most=MOST_TRAINING)[0]
        return quality.reference(target, train, origin=run.data.name, real=kept_apart, features=features)
    converged = engines.faithful(run, tried, CONVERGED)
    cost = engines.faithful_seconds(tried) * CONVERGED.steps
    images = max(run.images_that_fit(cost, 1, REFERENCE_END, REFERENCE_IMAGES), FEWEST_REFERENCE_IMAGES)
    cases = run.workload(REFERENCE, -(-images // UNTIMED_BATCH), UNTIMED_BATCH).cases
    run.warnings.append("no data was given: distances are to the model's own converged samples")
    made = torch.cat([converged.sample(case) for case in cases])
    return quality.reference(target, made, origin="the model's own converged samples", features=features)


def write_samples(path: Path, confirmed: Confirmed) -> None:
    """Baseline and winner from the same noise, for the report."""
    arrays = {
        "baseline": torch.cat(confirmed.comparison.samples_a).numpy(),
        "candidate": torch.cat(confirmed.comparison.samples_b).numpy(),
    }
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
