"""Points of the search: samplers ranked on few images or judged on all, and the judged ones turned into finalists."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from hasten.errors import HastenError
from hasten.measure import quality
from hasten.measure.quality import Reference
from hasten.model.target import Target
from hasten.search import factorised
from hasten.search.factorised import Trial
from hasten.search.space import ALL, Cost, Point, Space
from hasten.story.stages.run import SEARCH, Run
from hasten.story.stages.ways import CONVERGED, Engine, faithful, faithful_seconds
from hasten.technique import plan as plans
from hasten.technique.plan import Plan
from hasten.technique.sampler import Sampler

SEARCH_IMAGES, FEWEST_IMAGES, SEARCH_BATCH = 64, 32, 8  # images that a plan is judged by, and at once
BASELINE_END = 0.32  # the share of the time by whose end the baseline has made them
FINALISTS = 3
SAFER = 0.25  # of the budget: how much less the next finalist loses
FRONT = "front"  # the folder of its plans


class Bench:
    """Where points are measured: SEARCH_IMAGES, as the time allows, in cases of SEARCH_BATCH, the baseline's samples of
    them, and one target an engine.

    A sampler is but another table on the same network, so the targets are built, and compiled, once; and what a sampler
    made while it was ranked is not made again while its number of evaluations is looked at.
    """

    def __init__(self, run: Run, engines: Sequence[Engine], tried: list[Engine], reference: Reference) -> None:
        self.run, self.reference = run, reference
        self.engines = {engine.name: engine for engine in engines}
        each = faithful_seconds(tried) * run.source.table.evaluations
        images = max(run.images_that_fit(each, 1, BASELINE_END, SEARCH_IMAGES), FEWEST_IMAGES)
        self.cases = run.workload(SEARCH, images // SEARCH_BATCH, SEARCH_BATCH).cases
        same = faithful(run, tried)
        self.baseline = reference.view(torch.cat([same.sample(case) for case in self.cases]))
        same.table = CONVERGED.table(same.schedule)
        ranked_on = max(images for images, _ in factorised.RUNGS)
        self.converged = torch.cat([same.sample(case) for case in self.cases[: ranked_on // SEARCH_BATCH]])
        self.targets: dict[str, Target] = {}
        self.made: dict[tuple[str, Sampler], list[torch.Tensor]] = {}

    def evaluate(self, point: Point) -> dict[str, Any]:
        """Drift and loss, that on few images without a verdict on copies, which need many, and on too few not at all;
        ``failure`` where it could not be sampled.

        Drift is from the baseline; on few images, where samplers are ranked, from the model's converged samples: those
        that share the baseline's own error are the nearest to it, and not the best.
        """
        engine = self.engines[point["way"]]
        sampler = sampler_of(point)
        doing = "judging" if point["images"] == ALL else "ranking"
        self.run.say("search", f"{doing} {', '.join(as_plan(point, self.engines).label)}")
        try:
            samples = self._samples(engine, sampler, (point["images"] or len(self.baseline)) // SEARCH_BATCH)
        except HastenError as error:
            return {"failure": str(error)}
        if not torch.isfinite(samples).all():
            return {"failure": "samples are not finite"}
        measured: dict[str, Any] = {"failure": None, "evaluations": self.targets[engine.name].table.evaluations}
        baseline = self.baseline.first(len(samples))
        if len(samples) < quality.MIN_PAIRS:
            return measured | {"drift_db": quality.drift_db(self.converged[: len(samples)], samples)}
        judged = quality.compare(self.reference, baseline, self.reference.view(samples), budget=self.run.budget)
        if point["images"] == ALL:
            return measured | {"loss": judged.loss, "worst": judged.worst, "drift_db": judged.drift_db}
        drift = quality.drift_db(self.converged[: len(samples)], samples)
        return measured | {"loss": judged.loss, "worst": judged.lost, "drift_db": drift}

    def _samples(self, engine: Engine, sampler: Sampler, cases: int) -> torch.Tensor:
        """Of the first ``cases``."""
        if engine.name not in self.targets:
            self.targets[engine.name] = self.run.build(engine.plan)
        target = self.targets[engine.name]
        target.table = sampler.table(target.schedule)
        self.made = {key: made for key, made in self.made.items() if key[1].steps == sampler.steps}
        made = self.made.setdefault((engine.name, sampler), [])
        made += [target.sample(case) for case in self.cases[len(made) : cases]]
        return torch.cat(made[:cases])


def costs(engines: Sequence[Engine], goal: str) -> list[Cost]:
    """What each engine costs, in the order given."""
    return [Cost(engine.name, engine.figure(goal), engine.median_seconds) for engine in engines]


def sampler_of(point: Point) -> Sampler:
    """The sampler of a point of the search."""
    return Sampler(point["solver"], point["steps"], point["grid"])


def as_plan(point: Point, engines: dict[str, Engine]) -> Plan:
    """The plan that a point of the search stands for."""
    return engines[point["way"]].plan.plus(sampler_of(point))


def choose(space: Space, trials: list[Trial], engines: dict[str, Engine], budget: float) -> list[Plan]:
    """The finalists in the order in which they will be believed: the best within budget, then costlier ones that are
    safer by what they lose.

    Where the search cases, which are few, show none within it, the two that lose least: fresh cases decide.  Raises
    HastenError when no plan could be judged.
    """
    held = factorised.best(space, trials, budget)
    if not held:
        judged = sorted((t for t in trials if t.judged), key=lambda t: t.measured["worst"])
        if not judged:
            raise HastenError("no plan could be judged: all failed, or the time was too short; raise --time")
        return [as_plan(trial.point, engines) for trial in judged[:2]]
    finalists, safest = [held[0]], held[0].measured["worst"]
    for trial in held[1:]:
        if len(finalists) < FINALISTS and trial.measured["worst"] < safest - SAFER * budget:
            finalists.append(trial)
            safest = trial.measured["worst"]
    return [as_plan(trial.point, engines) for trial in finalists]


def cut_off(space: Space, trials: list[Trial], engines: dict[str, Engine], budget: float) -> list[str]:
    """What the time ended the search before, where that might be cheaper than the best one found."""
    upcoming, held = factorised.ask(space, trials, budget), factorised.best(space, trials, budget)
    if upcoming is None:
        return []
    engine = upcoming["way"]
    if held and space.cost(engine, upcoming["steps"]) >= space.cost(held[0].point["way"], held[0].point["steps"]):
        return []
    label = ", ".join(as_plan(upcoming, engines).label)
    return [f"the time ended the search before {label}: a longer --time tries that, and what follows from it"]


def front(trials: list[Trial], engines: dict[str, Engine]) -> list[Trial]:
    """The judged trials that no other one beats in seconds, loss, bytes on disk and, where measured, peak memory."""

    def figures(trial: Trial) -> tuple[float, ...]:
        engine = engines[trial.point["way"]]
        seconds = engine.median_seconds * trial.point["steps"]
        return seconds, max(trial.measured["worst"], 0.0), engine.weight_bytes or 0, engine.peak_bytes or 0

    return factorised.front([t for t in trials if t.judged and t.point["way"] in engines], figures)


def write_front(folder: Path, trials: list[Trial], engines: dict[str, Engine]) -> None:
    """The plans of the front as ``1.toml``, ``2.toml``, ... for ``hasten apply``, the fastest first."""
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.toml"):
        old.unlink()
    for number, trial in enumerate(trials, 1):
        plans.write(as_plan(trial.point, engines), folder / f"{number}.toml")


def told(trial: Trial, engines: dict[str, Engine]) -> bool:
    """Whether a trial belongs into result.json: it was judged, or failed, on an engine that there still is."""
    return trial.point["images"] == ALL and trial.point["way"] in engines


def searched(space: Space, trials: list[Trial]) -> dict[str, Any]:
    """How much was measured to find the front, and how well ranking agreed with judging (Spearman), among those that
    went on, which are close to each other."""
    ranked = [trial for trial in trials if trial.point["images"] != ALL]
    found = factorised.rank_correlation(trials)
    return {
        "points": len(space.costs) * len(space.tables) * len(space.steps),
        "ranked": len(ranked),
        "judged": len(trials) - len(ranked),
        "rank_correlation": None if found is None else found[0],
        "rank_correlation_of": 0 if found is None else found[1],
    }


def row(trial: Trial, engines: dict[str, Engine], budget: float, on_front: list[Trial]) -> dict[str, Any]:
    """A judged trial for result.json; seconds are the engine's, measured in pairs, times the evaluations."""
    engine = engines[trial.point["way"]]
    plan = as_plan(trial.point, engines)
    file = f"{FRONT}/{on_front.index(trial) + 1}.toml" if trial in on_front else None
    return {
        "plan": plan.to_list(),
        "label": plan.label,
        "reason": f"search on {engine.name}",
        "ok": trial.within(budget),
        "seconds_per_image": engine.median_seconds * trial.point["steps"],
        "weight_bytes": engine.weight_bytes,
        "peak_bytes": engine.peak_bytes,
        "front": file,
        **{key: trial.measured.get(key) for key in ("evaluations", "loss", "drift_db", "failure")},
    }
