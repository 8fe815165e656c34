"""Points of the search: measured on the search cases, scored, and turned into finalists."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch

from hasten.errors import HastenError
from hasten.measure import quality
from hasten.measure.quality import Reference, View
from hasten.model.workload import Workload
from hasten.search.bayes import Trial
from hasten.search.space import Point
from hasten.stages.engines import Engine
from hasten.stages.run import Run
from hasten.technique.plan import Plan
from hasten.technique.sampler import Sampler

FINALISTS = 3
SAFER_DB = 1.5  # how much closer to the baseline the next finalist is


def evaluator(
    run: Run, engines: dict[str, Engine], workload: Workload, baseline: View, reference: Reference
) -> Callable[[Point], dict[str, Any]]:
    """Measures a point of the search: seconds per image, drift and loss on the search cases."""

    def evaluate(point: Point) -> dict[str, Any]:
        plan = as_plan(point, engines)
        run.say("search", ", ".join(plan.label))
        try:
            target = run.build(plan)
            first = target.sample(workload.cases[0])  # warms up: it is judged, but not timed
            began = time.perf_counter()
            rest = torch.cat([target.sample(case) for case in workload.cases[1:]])
            seconds = (time.perf_counter() - began) / len(rest)
            samples = torch.cat([first, rest])
        except HastenError as error:
            return {"failure": str(error)}
        if not torch.isfinite(samples).all():
            return {"failure": "samples are not finite"}
        judged = quality.compare(reference, baseline, reference.view(samples), budget=run.budget)
        return {
            "seconds_per_image": seconds,
            "evaluations": target.table.evaluations,
            "loss": judged.loss,
            "worst": judged.worst,
            "drift_db": judged.drift_db,
            "failure": None,
        }

    return evaluate


def as_plan(point: Point, engines: dict[str, Engine]) -> Plan:
    """The plan that a point of the search stands for."""
    return engines[point["engine"]].plan.plus(Sampler(point["solver"], point["steps"], point["grid"]))


def score(measured: dict[str, Any], budget: float) -> float | None:
    """What the search minimises: log seconds, and a steep price on loss beyond the budget; None for a failure."""
    if measured["failure"] is not None or measured["worst"] is None:
        return None
    return float(math.log(measured["seconds_per_image"]) + 20.0 * max(measured["worst"] - budget, 0.0))


def choose(trials: list[Trial], engines: dict[str, Engine], budget: float) -> list[Plan]:
    """The finalists in the order in which they will be believed: the fastest within budget, then safer, slower ones.

    Raises HastenError when nothing on the search cases was within the budget.
    """
    held = [t for t in trials if t.value is not None and t.measured["worst"] <= budget and t.point["engine"] in engines]
    held.sort(key=lambda t: t.measured["seconds_per_image"])
    if not held:
        raise HastenError(
            f"none of {len(trials)} plans stayed within a quality budget of {budget:.0%}; raise --budget or --time"
        )
    finalists, safest = [held[0]], held[0].measured["drift_db"]
    for trial in held[1:]:
        if len(finalists) < FINALISTS and trial.measured["drift_db"] > safest + SAFER_DB:
            finalists.append(trial)
            safest = trial.measured["drift_db"]
    return [as_plan(trial.point, engines) for trial in finalists]


def row(trial: Trial, engines: dict[str, Engine], budget: float) -> dict[str, Any]:
    """A trial of the search for result.json."""
    engine = engines.get(trial.point["engine"])
    sampler = Sampler(trial.point["solver"], trial.point["steps"], trial.point["grid"])
    plan = Plan((sampler,)) if engine is None else engine.plan.plus(sampler)
    ok = trial.value is not None and trial.measured["worst"] <= budget
    return {"plan": plan.to_list(), "label": plan.label, "reason": f"search on {trial.point['engine']}", "ok": ok} | {
        key: trial.measured.get(key) for key in ("seconds_per_image", "evaluations", "loss", "drift_db", "failure")
    }
