"""The finalists on fresh cases, and what each technique of the winner adds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from hasten import result
from hasten.errors import HastenError
from hasten.measure import pair, quality
from hasten.measure.pair import Comparison
from hasten.measure.quality import Quality, Reference
from hasten.measure.stats import FEWEST_ROUNDS, Verdict
from hasten.model.target import Target
from hasten.stages import enough
from hasten.stages.engines import CONVERGED, Engine, faithful
from hasten.stages.run import CONFIRM, MORE, Run
from hasten.technique.plan import Plan

CONFIRM_END = 0.80  # the share of the time by whose end no further round begins, once there are enough
MORE_END = 0.85  # and after which no further pairs are sampled for quality alone
ROUNDS = 12
HELD = (quality.NO_LOSS, quality.WITHIN)  # the better one first


@dataclass(frozen=True)
class Confirmed:
    """The winner on fresh cases."""

    plan: Plan
    comparison: Comparison
    quality: Quality
    passed: bool


def confirm(run: Run, finalists: list[Plan], reference: Reference, engines: list[Engine]) -> Confirmed:
    """All finalists against the baseline in the same rounds on fresh cases; the order among them was fixed before.

    The winner is the first one without a measurable loss, else the first one within budget, else the last and safest
    one, with ``passed`` False.
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
    run.warnings += next(iter(comparisons.values())).warnings
    measured: list[Confirmed] = []

    def builds(plan: Plan) -> Callable[[], tuple[Target, Target]]:
        return lambda: (faithful(run, engines), run.build(plan))

    for plan, comparison in zip(finalists, comparisons.values(), strict=True):
        if not comparison.samples_a:
            run.warnings.append(f"{', '.join(plan.label)}: {comparison.reason}")
            continue
        baseline, candidate = (reference.view(torch.cat(s)) for s in (comparison.samples_a, comparison.samples_b))
        judged = enough.judge(
            reference,
            baseline,
            candidate,
            builds(plan),
            lambda cases: run.workload(MORE, cases),
            budget=run.budget,
            # a finalist that is believed before this one and held is the winner already
            stop=lambda: any(held(one) for one in measured) or run.over(MORE_END)(),
            say=lambda detail: run.say("confirm", detail),
        )
        measured.append(Confirmed(plan, comparison, judged, passed=comparison.verdict is Verdict.FASTER))
    for verdict in HELD:
        for confirmed in measured:
            if held(confirmed) and confirmed.quality.verdict == verdict:
                return confirmed
    if not measured:
        raise HastenError(f"no finalist could be measured: {'; '.join(run.warnings)}")
    run.warnings.append("no finalist held on fresh cases: the safest one is shown, do not rely on it")
    return replace(measured[-1], passed=False)


def held(confirmed: Confirmed) -> bool:
    """Whether it is faster, and as good as the budget asks."""
    return confirmed.passed and confirmed.quality.verdict in HELD


def drift_to_converged(run: Run, confirmed: Confirmed, reference: Reference, engines: list[Engine]) -> dict[str, float]:
    """How far baseline and winner are, in dB, from the model's own converged samples of the first fresh case."""
    goal = faithful(run, engines, CONVERGED).sample(run.workload(CONFIRM, 1).cases[0])
    comparison = confirmed.comparison
    return {
        "baseline": quality.drift_db(goal, comparison.samples_a[0], reference.span),
        "candidate": quality.drift_db(goal, comparison.samples_b[0], reference.span),
    }


def attribute(run: Run, winner: Plan) -> tuple[list[dict[str, Any]], Comparison, tuple[pair.Observation, ...]]:
    """The winner against itself without each technique, and against itself as it is: the clock's noise floor.

    Cases have a quarter of the images: without its sampler the winner takes as many evaluations as the baseline.
    """
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
        run.workload(CONFIRM, FEWEST_ROUNDS, max(run.images_per_case // 4, 1)),
        rounds=FEWEST_ROUNDS,
        seed=run.seed + 1,
        stop=run.stopped,
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
