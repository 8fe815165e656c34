"""Points of the search: samplers ranked on few images or judged on all, and the judged ones turned into finalists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hasten import propose
from hasten.errors import HastenError
from hasten.measure import quality
from hasten.measure.quality import Reference
from hasten.model.target import Facts, Target
from hasten.search import factorised, loop
from hasten.search.factorised import Trial
from hasten.search.space import ALL, Cost, Point, Space
from hasten.seeds import Purpose
from hasten.story.stages.run import Run
from hasten.story.stages.ways import CONVERGED, Way, closest, faithful, faithful_seconds
from hasten.technique import plan as plans
from hasten.technique.plan import Plan
from hasten.technique.sampler import Sampler

SEARCH_IMAGES, FEWEST_IMAGES, SEARCH_BATCH = 64, 32, 8  # images that a plan is judged by, and at once
BASELINE_END = 0.32  # the share of the time by whose end the baseline has made them
SEARCH_END = 0.46  # by whose end no further trial begins
SEARCH_END_AT_LAST = 0.55  # the same while no plan holds the budget
SURER = (1.25, 1.6)  # times the best plan's evaluations: the finalists that are believed after it
FRONT = "front"  # the folder of its plans


class Bench:
    """Where points are measured: SEARCH_IMAGES, as the time allows, in cases of SEARCH_BATCH, the baseline's samples of
    them, and one target a way.

    A sampler is but another table on the same network, so the targets are built, and compiled, once; and what a sampler
    made while it was ranked is not made again while its number of evaluations is looked at.
    """

    def __init__(self, run: Run, kept: Sequence[Way], tried: list[Way], reference: Reference) -> None:
        self.run, self.reference = run, reference
        self.ways = {way.hash: way for way in kept}
        each = faithful_seconds(tried) * run.source.table.evaluations
        images = max(run.images_that_fit(each, 1, BASELINE_END, SEARCH_IMAGES), FEWEST_IMAGES)
        self.cases = run.workload(Purpose.SEARCH, images // SEARCH_BATCH, SEARCH_BATCH).cases
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
        way = self.ways[point["way"]]
        sampler = sampler_of(point)
        doing = "judging" if point["images"] == ALL else "ranking"
        self.run.say("search", f"{doing} {', '.join(as_plan(point, self.ways).label)}")
        try:
            samples = self._samples(way, sampler, (point["images"] or len(self.baseline)) // SEARCH_BATCH)
        except HastenError as error:
            return {"failure": str(error)}
        if not torch.isfinite(samples).all():
            return {"failure": "samples are not finite"}
        measured: dict[str, Any] = {"failure": None, "evaluations": self.targets[way.hash].table.evaluations}
        baseline = self.baseline.first(len(samples))
        if len(samples) < quality.MIN_PAIRS:
            return measured | {"drift_db": quality.drift_db(self.converged[: len(samples)], samples)}
        judged = quality.compare(self.reference, baseline, self.reference.view(samples), budget=self.run.limits.quality)
        if point["images"] == ALL:
            return measured | {"loss": judged.loss, "worst": judged.worst, "drift_db": judged.drift_db}
        drift = quality.drift_db(self.converged[: len(samples)], samples)
        return measured | {"loss": judged.loss, "worst": judged.lost, "drift_db": drift}

    def _samples(self, way: Way, sampler: Sampler, cases: int) -> torch.Tensor:
        """Of the first ``cases``."""
        if way.hash not in self.targets:
            self.targets[way.hash] = self.run.build(way.plan)
        target = self.targets[way.hash]
        target.table = sampler.table(target.schedule)
        self.made = {key: made for key, made in self.made.items() if key[1].steps == sampler.steps}
        made = self.made.setdefault((way.hash, sampler), [])
        made += [target.sample(case) for case in self.cases[len(made) : cases]]
        return torch.cat(made[:cases])


def costs(ways: Sequence[Way], goal: str) -> list[Cost]:
    """What each way costs, in the order given."""
    return [Cost(way.hash, way.figure(goal), way.median_seconds) for way in ways]


def sampler_of(point: Point) -> Sampler:
    """The sampler of a point of the search."""
    return Sampler(point["solver"], point["steps"], point["grid"])


def as_plan(point: Point, ways: dict[str, Way]) -> Plan:
    """The plan that a point of the search stands for."""
    return ways[point["way"]].plan.plus(sampler_of(point))


def search(run: Run, facts: Facts, bench: Bench) -> Searched:
    """Ask and measure until nothing is undecided or the time is up, later while no plan holds the budget."""
    kept, budget = list(bench.ways.values()), run.limits.quality
    space = propose.space(facts, costs(kept, run.limits.goal), closest(kept).hash)
    late, too_late = run.over(SEARCH_END), run.over(SEARCH_END_AT_LAST)

    def stop(done: list[Trial]) -> bool:
        run.judged = any(trial.judged for trial in done)
        held = any(trial.within(budget) for trial in done)
        return (held and late()) or (too_late() and run.judged)

    trials = loop.search(space, bench.evaluate, run.out / "history.jsonl", stop, budget)
    searched = Searched(space, trials, bench.ways, budget)
    run.warnings += searched.cut_off()
    return searched


@dataclass(frozen=True)
class Searched:
    """What the search measured: ``trials`` of ``space``, whose ways to run the network are in ``ways``, by hash."""

    space: Space
    trials: list[Trial]
    ways: dict[str, Way]
    budget: float

    def finalists(self) -> list[Plan]:
        """The finalists in the order in which they will be believed: the best within budget, its sampler with more
        evaluations, and with more still on the way that hardly changes the samples.

        The best of many on few cases is partly so by luck, so those after it need not have been judged.  Where the
        search cases show none within budget, the two that lose least: fresh cases decide.  Raises HastenError when no
        plan could be judged.
        """
        held = factorised.best(self.space, self.trials, self.budget)
        if not held:
            judged = sorted((t for t in self.trials if t.judged), key=lambda t: t.measured["worst"])
            if not judged:
                raise HastenError("no plan could be judged: all failed, or the time was too short; give it more")
            return [as_plan(trial.point, self.ways) for trial in judged[:2]]
        best = held[0].point
        chosen = [as_plan(best, self.ways)]
        for times, way in zip(SURER, (best["way"], closest(list(self.ways.values())).hash), strict=True):
            more = next((n for n in self.space.steps if n >= times * best["steps"]), None)
            if more is not None:
                chosen.append(as_plan({**best, "way": way, "steps": more}, self.ways))
        return chosen

    def cut_off(self) -> list[str]:
        """What the time ended the search before, where that might be cheaper than the best one found."""
        upcoming = factorised.ask(self.space, self.trials, self.budget)
        held = factorised.best(self.space, self.trials, self.budget)
        if upcoming is None:
            return []
        steps = upcoming["steps"]
        judging = upcoming["images"] == ALL  # what is ranked, is on a way of its own
        if held and (self._cost(upcoming) >= self._cost(held[0].point) if judging else steps >= held[0].point["steps"]):
            return []
        return [f"the time ended the search before plans of {steps} steps were judged: a longer time tries them"]

    def _cost(self, point: Point) -> tuple[float, float]:
        return self.space.cost(point["way"], point["steps"])

    def front(self) -> list[Trial]:
        """The judged trials that no other one beats in seconds, loss, bytes on disk and, where measured, peak memory,
        the fastest first."""

        def figures(trial: Trial) -> tuple[float, ...]:
            way = self.ways[trial.point["way"]]
            seconds = way.median_seconds * trial.point["steps"]
            return seconds, max(trial.measured["worst"], 0.0), way.weight_bytes or 0, way.peak_bytes or 0

        return factorised.front([t for t in self.trials if t.judged and t.point["way"] in self.ways], figures)

    def effort(self) -> dict[str, Any]:
        """How much was measured to find the front, and how well ranking agreed with judging (Spearman), among those
        that went on, which are close to each other."""
        ranked = [trial for trial in self.trials if trial.point["images"] != ALL]
        correlation = factorised.rank_correlation(self.trials)
        return {
            "points": len(self.space.costs) * len(self.space.tables) * len(self.space.steps),
            "ranked": len(ranked),
            "judged": len(self.trials) - len(ranked),
            "rank_correlation": None if correlation is None else correlation[0],
            "rank_correlation_of": 0 if correlation is None else correlation[1],
        }

    def rows(self, front: list[Trial]) -> list[dict[str, Any]]:
        """For result.json the trials that were judged, or failed, on a way that there still is."""
        return [
            self._row(trial, front)
            for trial in self.trials
            if trial.point["images"] == ALL and trial.point["way"] in self.ways
        ]

    def _row(self, trial: Trial, front: list[Trial]) -> dict[str, Any]:
        """Seconds are the way's, measured in pairs, times the evaluations."""
        way, plan = self.ways[trial.point["way"]], as_plan(trial.point, self.ways)
        return {
            "plan": plan.to_list(),
            "label": plan.label,
            "reason": f"search on {way.label}",
            "ok": trial.within(self.budget),
            "seconds_per_image": way.median_seconds * trial.point["steps"],
            "weight_bytes": way.weight_bytes,
            "peak_bytes": way.peak_bytes,
            "front": f"{FRONT}/{front.index(trial) + 1}.toml" if trial in front else None,
            **{key: trial.measured.get(key) for key in ("evaluations", "loss", "drift_db", "failure")},
        }


def write_front(folder: Path, plans_: Sequence[Plan]) -> None:
    """The plans of the front as ``1.toml``, ``2.toml``, ... for ``hasten apply``, the fastest first."""
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.toml"):
        old.unlink()
    for number, plan in enumerate(plans_, 1):
        plans.write(plan, folder / f"{number}.toml")
