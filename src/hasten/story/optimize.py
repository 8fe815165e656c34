"""The story: load, profile, propose, try ways to run the network, search, confirm on fresh cases, attribute, save.

Search and confirmation use different noise, and only what the confirmation measured is printed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hasten import guard, propose
from hasten.data.array import Data
from hasten.errors import BadInput, shown
from hasten.files import write_text
from hasten.measure.features import Features
from hasten.model.inside import read_json
from hasten.model.source import Source
from hasten.report import page
from hasten.story.stages import finals, keeping, reference, saving, trials, trying, ways
from hasten.story.stages.run import Limits, Progress, Run, Settings
from hasten.story.stages.saving import Outcome
from hasten.technique.swap import Swap

TRIALS = 6  # what a trial of the history holds; counted up when that changes


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
    limits = Limits(goal, budget, memory_bytes, size_bytes)
    images_per_case = images_per_case or (1 if goal == "latency" else 16)
    out = Path(out)
    if (out / "result.json").exists() and not resume:
        raise BadInput(f"{out} holds a finished run; resume it, or choose another folder")
    guard.check_ours(out, "run.json")
    if data is not None and data.shape != source.shape:
        raise BadInput(f"{source.name} makes samples of shape {source.shape}, data {data.name} has {data.shape}")
    with guard.holding(out), guard.stopping() as stopped:
        swaps = tuple(Swap(str(folder)) for folder in students)
        settings = Settings(seconds, images_per_case, seed, features, swaps)
        run = Run(source, data, out, limits, settings, progress or (lambda *_: None), stopped)
        run.warnings += [] if data is None else data.notes
        check_same(run, resume)
        return _optimize(run)


def _optimize(run: Run) -> dict[str, Any]:
    target = run.source.build()
    rows = trying.profile_network(run, target)
    proposals, refusals = propose.ways(
        target.facts, rows, run.settings.seconds, run.settings.students, run.limits.size_matters
    )
    tried = trying.try_ways(run, proposals)
    kept = keeping.keep(tried, run)

    distances = reference.read(run, target, tried)
    searched = trials.search(run, target.facts, trials.Bench(run, kept, tried, distances))

    confirmed = finals.confirm(run, searched.finalists(), ways.closest(kept).plan, distances, tried)
    added = finals.attribute(run, confirmed.plan, tried)
    converged = finals.drift_to_converged(run, confirmed, distances, tried)
    refusals += keeping.refuse_slower(confirmed.plan, tried, refusals)

    parameters = target.facts.parameters
    outcome = Outcome(parameters, rows, tried, refusals, searched, confirmed, added, converged)
    written = saving.save(run, outcome)
    page.write(run.out)
    if written["passed"]:
        saving.record(run, confirmed, written)
    return written


def check_same(run: Run, resume: bool) -> None:
    """Write down what the history of ``out`` belongs to; raise BadInput when it belongs to something else."""
    path, settings, limits = run.out / "run.json", run.settings, run.limits
    mine = {
        "trials": TRIALS,
        "weights": run.source.weight_hash,
        "device": run.source.device,
        "features": None if settings.features is None else settings.features.name,
        "students": [swap.weights for swap in settings.students],
        "guidance": run.source.guidance,
        "sampler": run.source.sampler_label,
        "data": None if run.data is None else [run.data.name, run.data.digest()],
        "batch": settings.images_per_case,
        "seed": settings.seed,
        "goal": [limits.goal, limits.memory_bytes, limits.size_bytes],
    }
    if path.exists():
        if not resume:
            raise BadInput(f"{run.out} holds an unfinished run; resume it, or choose another folder")
        theirs = read_json(run.out, path.name)
        changed = [key for key in mine if mine[key] != theirs.get(key)]
        differing = [f"{key} {mine[key]!r}, was {shown(theirs.get(key))}" for key in changed]
        if differing:
            raise BadInput(f"{run.out} was begun with something else ({'; '.join(differing)}); choose another folder")
    write_text(path, json.dumps(mine) + "\n")
