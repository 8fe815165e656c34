"""The story: load, profile, propose, try engines, search, confirm on fresh cases, attribute, save.

Search and confirmation use different noise, and only what the confirmation measured is printed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hasten import artifact, propose, result
from hasten.data.array import Data
from hasten.environment import environment, fingerprint
from hasten.errors import BadInput, HastenError
from hasten.files import replacing
from hasten.measure import pair, quality, roofline
from hasten.measure.pair import Comparison
from hasten.measure.profile import Row, profile
from hasten.measure.quality import Quality, Reference, View
from hasten.measure.stats import FEWEST_ROUNDS, Verdict
from hasten.model.source import Source
from hasten.model.target import Target, TorchNetwork
from hasten.model.workload import Workload, draw
from hasten.propose import Proposal, Refusal
from hasten.runtime import openvino
from hasten.search.bayes import Trial
from hasten.search.loop import search
from hasten.search.space import Point
from hasten.technique import plan as plans
from hasten.technique.plan import Plan
from hasten.technique.sampler import Sampler
from hasten.train import guard

# No two purposes share noise.
SEARCH, CONFIRM, CONVERGED, REFERENCE = 1, 2, 3, 4
SEARCH_CASES, ROUNDS, FINALISTS, KEPT_ENGINES, REFERENCE_IMAGES = 4, 15, 3, 2, 256
# The share of the time by whose end a phase begins nothing new.
ENGINES_END, SEARCH_END, CONFIRM_END, ATTRIBUTE_END = 0.22, 0.42, 0.80, 0.92
CONVERGED_SAMPLER = Sampler("unipc", 100, "logsnr")
STEP_PROBE = Sampler("ddim", 2, "uniform")

Progress = Callable[[str, str, float], None]


@dataclass
class Run:
    """What the phases share: the input, the clock, whether Ctrl-C was pressed, and what was said on the way."""

    source: Source
    data: Data | None
    out: Path
    budget: float
    seconds: float
    images_per_case: int
    seed: int
    progress: Progress
    stopped: Callable[[], bool]
    began: float = field(default_factory=time.perf_counter)
    preparation_seconds: float = 0.0
    warnings: list[str] = field(default_factory=list)

    def over(self, share: float) -> Callable[[], bool]:
        """Tells whether ``share`` of the time is used, or Ctrl-C was pressed."""
        return lambda: self.stopped() or time.perf_counter() > self.began + share * self.seconds

    def say(self, phase: str, detail: str = "") -> None:
        """Tell the person what is being done, and the seconds left."""
        self.progress(phase, detail, max(self.began + self.seconds - time.perf_counter(), 0.0))

    def workload(self, purpose: int, cases: int) -> Workload:
        """Cases for one purpose; labels as frequent as in the data where it has the model's labels, else all alike."""
        labels = self.source.labels
        if labels is not None and self.data is not None and self.data.label_names == self.source.label_names:
            labels = self.data.labels.tolist()
        return draw(self.source.shape, cases, self.images_per_case, self.seed * 10 + purpose, labels)

    def build(self, plan: Plan) -> Target:
        """The source built again with ``plan`` applied; what had to be prepared is counted."""
        prepared = plans.prepare(self.source)
        target = plans.build(self.source, plan, prepared)
        self.preparation_seconds += prepared.seconds
        return target


@dataclass(frozen=True)
class Engine:
    """A way to run the network, tried: seconds per evaluation of a case, engine/eager, and its drift in dB."""

    plan: Plan
    reason: str
    ratio: float | None
    drift_db: float | None
    failure: str = ""

    @property
    def name(self) -> str:
        """What the search calls it."""
        return " + ".join(t.label for t in self.plan.techniques) or "PyTorch eager"


@dataclass(frozen=True)
class Confirmed:
    """The winner on fresh cases."""

    plan: Plan
    comparison: Comparison
    quality: Quality
    passed: bool


def optimize(
    source: Source,
    data: Data | None = None,
    *,
    out: Path | str,
    budget: float = 0.02,
    seconds: float = 300.0,
    images_per_case: int = 16,
    seed: int = 0,
    resume: bool = False,
    command: str = "hasten.optimize(...)",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Find the fastest plan whose loss of quality stays within ``budget``, prove it, and save it under ``out``.

    ``budget`` is the relative rise of the distance to the data that is allowed (0.02 is 2 %); without data, of the
    distance to the model's own converged samples.  ``seconds`` bounds the whole run.  ``out`` gets ``result.json``,
    ``plan.toml``, ``artifact/``, ``samples.npz`` and ``history.jsonl``; what result.json holds is returned.  The first
    Ctrl-C ends the search and verifies the best plan so far in the fewest rounds, the second one leaves; ``resume``
    takes up the history of ``out`` again.

    Raises BadInput for an ``out`` in use or finished and for data of another shape, HastenError when no plan held.
    """
    out = Path(out)
    if (out / "result.json").exists() and not resume:
        raise BadInput(f"{out} holds a finished run; use --resume or another --out")
    if data is not None and data.shape != source.shape:
        raise BadInput(f"{source.name} makes samples of shape {source.shape}, data {data.name} has {data.shape}")
    with guard.holding(out), guard.stopping() as stopped:
        run = Run(source, data, out, budget, seconds, images_per_case, seed, progress or (lambda *_: None), stopped)
        return _optimize(run, command)


def _optimize(run: Run, command: str) -> dict[str, Any]:
    source = run.source
    run.say("profile", "one network evaluation by kind of module")
    target = source.build()
    peaks = roofline.peaks(source.device, fingerprint(environment()))
    rows = profile_network(target, run.workload(SEARCH, 1), peaks)

    proposals, refusals = propose.engines(target.facts, rows, run.seconds)
    engines = try_engines(run, proposals)
    kept = sorted((e for e in engines if e.ratio is not None), key=lambda e: e.ratio or 0.0)[:KEPT_ENGINES]

    run.say("search", "reference features and the baseline's samples")
    reference = read_reference(run, target, kept)
    searched = run.workload(SEARCH, SEARCH_CASES)
    baseline = reference.view(torch.cat([target.sample(case) for case in searched.cases]))
    space, first = propose.space(target.facts, [engine.name for engine in kept])
    trials = search(
        space,
        first,
        evaluator(run, {engine.name: engine.plan for engine in kept}, searched, baseline, reference),
        lambda measured: score(measured, run.budget),
        run.out / "history.jsonl",
        lambda tried: tried >= len(first) and run.over(SEARCH_END)(),
        run.seed,
    )
    finalists = choose(trials, {engine.name: engine.plan for engine in kept}, run.budget)
    confirmed = confirm(run, finalists, reference)
    converged = drift_to_converged(run, confirmed.plan, reference, kept)
    attribution, noise_floor, log = attribute(run, confirmed.plan)
    refusals += refuse_slower(confirmed.plan, engines, refusals)

    run.say("save", "artifact and peak memory")
    candidate_rows = profile_engine(run, confirmed.plan)
    observations = [*confirmed.comparison.observations, *log]
    folder = artifact.save(run.out / "artifact", source, confirmed.plan, result.as_rows(observations))
    plans.write(confirmed.plan, run.out / "plan.toml")
    write_samples(run.out / "samples.npz", confirmed)
    return result.write(
        run.out / "result.json",
        command=command,
        seed=run.seed,
        seconds=time.perf_counter() - run.began,
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
        trials=[trial_row(trial, {e.name: e for e in kept}, run.budget) for trial in trials],
        proposals=[(e.name, e.reason) for e in engines],
        refusals=refusals,
        rows=rows,
        candidate_rows=candidate_rows,
        observations=observations,
        preparation_seconds=run.preparation_seconds,
        peaks=result.peak_memory(source, folder, run.images_per_case, run.warnings),
        interrupted=run.stopped(),
        warnings=run.warnings,
    )


def profile_network(target: Target, workload: Workload, peaks: roofline.Peaks) -> tuple[Row, ...]:
    """Rows of one evaluation of one case, at the middle of the baseline's times."""
    assert isinstance(target.network, TorchNetwork)
    case = workload.cases[0]
    t = float(target.table.times[target.table.evaluations // 2])
    with torch.inference_mode():
        return profile(lambda: target.denoise(case.noise, t, case.labels), target.network.module, 3, peaks)


def profile_engine(run: Run, plan: Plan) -> tuple[Row, ...] | None:
    """The same for the winner, where its engine tells: by kind of operation."""
    target = run.build(plan)
    if not isinstance(target.network, openvino.Network):
        return None
    case = run.workload(SEARCH, 1).cases[0]
    kinds = openvino.profile(target.network, case.noise, case.labels)
    whole = sum(seconds for _, seconds in kinds.values())
    return tuple(
        Row(kind, calls, seconds, seconds / whole, 0.0, 0.0, None)
        for kind, (calls, seconds) in sorted(kinds.items(), key=lambda item: -item[1][1])
    )


def try_engines(run: Run, proposals: list[Proposal]) -> list[Engine]:
    """Each engine against eager on two-evaluation samples of the same case, all interleaved in the same rounds."""
    builders: dict[str, pair.Builder] = {"eager": lambda: run.build(Plan((STEP_PROBE,)))}
    engines = {Engine(p.plan, p.reason, None, None).name: p for p in proposals}
    for name, proposal in engines.items():
        builders[name] = told(run, f"preparing {name}", proposal.plan.plus(STEP_PROBE))
    comparisons = pair.compare_many(
        builders,
        "eager",
        run.workload(SEARCH, 1),
        rounds=FEWEST_ROUNDS,
        seed=run.seed,
        stop=run.over(ENGINES_END),
        on_round=lambda done, rounds: run.say("engines", f"round {done} of {rounds}, {len(engines)} engines"),
    )
    tried = [Engine(Plan(), "the baseline's own engine", 1.0, None)]
    for name, comparison in comparisons.items():
        ratio = comparison.interval.ratio if comparison.interval else None
        failed = next((o.failure for o in comparison.observations if o.failure), "") or ""
        drift = quality.drift_db(comparison.samples_a[0], comparison.samples_b[0]) if comparison.samples_b else None
        tried.append(Engine(engines[name].plan, engines[name].reason, None if failed else ratio, drift, failed))
    return tried


def told(run: Run, detail: str, plan: Plan) -> pair.Builder:
    """A builder that says what it prepares."""

    def builder() -> Target:
        run.say("engines", detail)
        return run.build(plan)

    return builder


def converged_target(run: Run, kept: list[Engine]) -> Target:
    """The source with a converged sampler, on the fastest engine that keeps it within 60 dB of eager float32."""
    faithful = [e for e in kept if e.drift_db is None or e.drift_db >= 60.0]
    plan = faithful[0].plan if faithful else Plan()
    return run.build(plan.plus(CONVERGED_SAMPLER))


def read_reference(run: Run, target: Target, kept: list[Engine]) -> Reference:
    """What distances are measured to: the data's training part, or, without data, the model's own converged samples."""
    if run.data is not None:
        return quality.reference(target, run.data.part(held_out=False)[0], origin=run.data.name)
    converged = converged_target(run, kept)
    cases = run.workload(REFERENCE, -(-REFERENCE_IMAGES // run.images_per_case)).cases
    run.warnings.append("no data was given: distances are to the model's own converged samples")
    made = torch.cat([converged.sample(case) for case in cases])
    return quality.reference(target, made, origin="the model's own converged samples")


def evaluator(
    run: Run, engines: dict[str, Plan], workload: Workload, baseline: View, reference: Reference
) -> Callable[[Point], dict[str, Any]]:
    """Measures a point of the search: seconds per image, drift and loss on the search cases."""

    def evaluate(point: Point) -> dict[str, Any]:
        plan = as_plan(point, engines)
        run.say("search", ", ".join(plan.label))
        try:
            target = run.build(plan)
            target.sample(workload.cases[0])
            began = time.perf_counter()
            samples = torch.cat([target.sample(case) for case in workload.cases])
            seconds = (time.perf_counter() - began) / len(samples)
        except HastenError as error:
            return {"failure": str(error)}
        if not torch.isfinite(samples).all():
            return {"failure": "samples are not finite"}
        judged = quality.compare(reference, baseline, reference.view(samples), budget=run.budget)
        return {
            "seconds_per_image": seconds,
            "evaluations": target.table.evaluations,
            "loss": judged.loss,
            "drift_db": judged.drift_db,
            "failure": None,
        }

    return evaluate


def as_plan(point: Point, engines: dict[str, Plan]) -> Plan:
    """The plan that a point of the search stands for."""
    return engines[point["engine"]].plus(Sampler(point["solver"], point["steps"], point["grid"]))


def score(measured: dict[str, Any], budget: float) -> float | None:
    """What the search minimises: log seconds, and a steep price on loss beyond the budget; None for a failure."""
    if measured["failure"] is not None or measured["loss"] is None:
        return None
    return float(math.log(measured["seconds_per_image"]) + 20.0 * max(measured["loss"] - budget, 0.0))


def choose(trials: list[Trial], engines: dict[str, Plan], budget: float) -> list[Plan]:
    """The finalists in the order in which they will be believed: the fastest within budget, then safer, slower ones.

    Raises HastenError when nothing on the search cases was within the budget.
    """
    held = [t for t in trials if t.value is not None and t.measured["loss"] <= budget and t.point["engine"] in engines]
    held.sort(key=lambda t: t.measured["seconds_per_image"])
    if not held:
        raise HastenError(
            f"none of {len(trials)} plans tried stayed within a quality budget of {budget:.0%}; raise --budget or --time"
        )
    finalists, safest = [held[0]], held[0].measured["drift_db"]
    for trial in held[1:]:
        if len(finalists) < FINALISTS and trial.measured["drift_db"] > safest + 1.0:
            finalists.append(trial)
            safest = trial.measured["drift_db"]
    return [as_plan(trial.point, engines) for trial in finalists]


def confirm(run: Run, finalists: list[Plan], reference: Reference) -> Confirmed:
    """All finalists against the baseline in the same rounds on fresh cases; the first one that holds is the winner.

    The order was fixed before, so the first that holds is no choice among noise.  When none holds, the last and safest
    one is returned with ``passed`` False.
    """
    run.say("confirm", "fresh cases")
    workload = run.workload(CONFIRM, ROUNDS)
    builders: dict[str, pair.Builder] = {"baseline": lambda: run.build(Plan())}
    for number, plan in enumerate(finalists):
        builders[f"candidate {number}"] = lambda plan=plan: run.build(plan)  # type: ignore[misc]
    rounds_done = 0

    def on_round(done: int, rounds: int) -> None:
        nonlocal rounds_done
        rounds_done = done
        run.say("confirm", f"round {done} of {rounds}: baseline and {len(finalists)} finalists on the same noise")

    def stop() -> bool:  # the fewest rounds that give a verdict are made in any case
        return rounds_done >= FEWEST_ROUNDS and run.over(CONFIRM_END)()

    comparisons = pair.compare_many(builders, "baseline", workload, ROUNDS, seed=run.seed, stop=stop, on_round=on_round)
    for plan, comparison in zip(finalists, comparisons.values(), strict=True):
        if not comparison.samples_a:
            run.warnings.append(f"{', '.join(plan.label)}: {comparison.reason}")
            continue
        baseline = reference.view(torch.cat(comparison.samples_a))
        judged = quality.compare(
            reference, baseline, reference.view(torch.cat(comparison.samples_b)), budget=run.budget
        )
        within = judged.verdict in (quality.NO_LOSS, quality.WITHIN)
        confirmed = Confirmed(plan, comparison, judged, within and comparison.verdict is Verdict.FASTER)
        if confirmed.passed:
            return confirmed
    if not any(comparison.samples_a for comparison in comparisons.values()):
        raise HastenError(f"no finalist could be measured: {'; '.join(run.warnings)}")
    run.warnings.append("no finalist held on fresh cases: the safest one is shown, do not rely on it")
    return confirmed


def drift_to_converged(run: Run, plan: Plan, reference: Reference, kept: list[Engine]) -> dict[str, float]:
    """How far baseline and winner are, in dB, from the model's own converged samples of one more case."""
    case = run.workload(CONVERGED, 1).cases[0]
    goal = converged_target(run, kept).sample(case)
    return {
        "baseline": quality.drift_db(goal, run.build(Plan()).sample(case), reference.span),
        "candidate": quality.drift_db(goal, run.build(plan).sample(case), reference.span),
    }


def attribute(run: Run, winner: Plan) -> tuple[list[dict[str, Any]], Comparison, tuple[pair.Observation, ...]]:
    """The winner against itself without each technique, and against itself as it is: the clock's noise floor."""
    builders: dict[str, pair.Builder] = {
        "candidate": lambda: run.build(winner),
        "candidate again": lambda: run.build(winner),
    }
    removed_with = {}
    for technique in winner.techniques:
        left, removed = winner.without(technique.name)
        builders[f"without {technique.name}"] = lambda left=left: run.build(left)  # type: ignore[misc]
        removed_with[technique.name] = (technique.label, removed)
    comparisons = pair.compare_many(
        builders,
        "candidate",
        run.workload(CONFIRM, FEWEST_ROUNDS),
        rounds=FEWEST_ROUNDS,
        seed=run.seed + 1,
        stop=run.over(ATTRIBUTE_END),
        on_round=lambda done, rounds: run.say(
            "attribute", f"round {done} of {rounds}: one technique removed at a time"
        ),
    )
    rows = []
    for name, (label, removed) in removed_with.items():
        comparison = comparisons[f"without {name}"]
        if comparison.interval is not None:
            rows.append({"technique": name, "label": label, "removed": removed, **result.speedup(comparison, "times")})
    log = {id(o): o for comparison in comparisons.values() for o in comparison.observations}
    return rows, comparisons["candidate again"], tuple(log.values())


def refuse_slower(winner: Plan, engines: list[Engine], known: list[Refusal]) -> list[Refusal]:
    """Techniques that were tried and are not in the winner: how the best engine with each compares."""
    network = [t for t in winner.techniques if not isinstance(t, Sampler)]
    mine = next((e for e in engines if list(e.plan.techniques) == network), None)
    refused = {refusal.label for refusal in known}
    rows = []
    for engine in sorted(engines, key=lambda e: e.ratio if e.ratio is not None else math.inf):
        for technique in engine.plan.techniques:
            if technique in network or technique.label in refused:
                continue
            refused.add(technique.label)
            if engine.failure:
                rows.append(Refusal(technique.name, technique.label, f"failed: {engine.failure}"))
            elif mine is not None and mine.ratio and engine.ratio:
                words = "slower" if engine.ratio > mine.ratio else "no slower, but not chosen,"
                rows.append(
                    Refusal(
                        technique.name,
                        technique.label,
                        f"at best ({engine.name}) {words} than {mine.name} here ({mine.ratio / engine.ratio:.2f}x)",
                    )
                )
    return rows


def trial_row(trial: Trial, engines: dict[str, Engine], budget: float) -> dict[str, Any]:
    """A trial of the search for result.json."""
    engine = engines.get(trial.point["engine"])
    sampler = Sampler(trial.point["solver"], trial.point["steps"], trial.point["grid"])
    plan = Plan((sampler,)) if engine is None else engine.plan.plus(sampler)
    ok = trial.value is not None and trial.measured["loss"] <= budget
    return {"plan": plan.to_list(), "label": plan.label, "reason": f"search on {trial.point['engine']}", "ok": ok} | {
        key: trial.measured.get(key) for key in ("seconds_per_image", "evaluations", "loss", "drift_db", "failure")
    }


def write_samples(path: Path, confirmed: Confirmed) -> None:
    """Baseline and winner from the same noise, for the report."""
    arrays = {
        "baseline": torch.cat(confirmed.comparison.samples_a).numpy(),
        "candidate": torch.cat(confirmed.comparison.samples_b).numpy(),
    }
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
