"""The finalists on fresh cases, and what each technique of the winner adds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from hasten import result
from hasten.errors import HastenError
from hasten.measure import pair, quality
from hasten.measure.pair import Comparison
from hasten.measure.quality import Quality, Reference
from hasten.measure.stats import FEWEST_ROUNDS, Verdict, median_ratio
from hasten.model.target import Target
from hasten.seeds import Purpose, seed_of
from hasten.story.stages import enough
from hasten.story.stages.run import UNTIMED_BATCH, Run
from hasten.story.stages.ways import CONVERGED, Way, faithful, faithful_seconds
from hasten.technique.contract import Technique
from hasten.technique.plan import Plan
from hasten.technique.sampler import Sampler

CONFIRM_END = 0.68  # the share of the time by whose end the rounds of the finalists are to be done
MORE_END = 0.76  # after which no further pairs are sampled for quality alone
SAFE_END = 0.86  # by whose end the engine alone is confirmed, where no finalist held
ATTRIBUTE_END = 0.9  # by whose end it is told what each technique adds; saving takes what is left
ROUNDS = 12
NARROW = 0.05  # rounds end when each speed-up is known this well
FEWEST_MORE = 8  # images at once, of the pairs for quality alone
MOST_SHARED = 3  # techniques of the network that shares are told for: the plans to time double with each
HELD = (quality.NO_LOSS, quality.WITHIN)  # the better one first


@dataclass(frozen=True)
class Confirmed:
    """The winner on fresh cases."""

    plan: Plan
    comparison: Comparison
    quality: Quality
    passed: bool


def confirm(run: Run, finalists: list[Plan], safe: Plan, reference: Reference, ways: list[Way]) -> Confirmed:
    """All finalists against the baseline in the same rounds on fresh cases; the order among them was fixed before.

    The winner is the first one without a measurable loss, else the first one within budget.  Where none is, ``safe``
    is confirmed: an engine alone with the baseline's own steps.  Where that does not hold either, the one that loses
    least is told of, with ``passed`` False.
    """
    measured = _measure(run, finalists, reference, ways, CONFIRM_END)
    winner = _best(measured)
    if winner is None and safe.techniques and safe not in finalists and not run.stopped():
        run.warnings.append(
            "no finalist held on fresh cases: the engine alone was confirmed, with the baseline's steps"
        )
        again = _measure(run, [safe], reference, ways, SAFE_END)
        winner = _best(again)
        measured += again
    if winner is not None:
        return winner
    if not measured:
        raise HastenError(f"no finalist could be measured: {'; '.join(run.warnings)}")
    run.warnings.append("no plan held the budget on fresh cases: nothing is saved but what was measured")
    return replace(
        min(measured, key=lambda each: math.inf if each.quality.worst is None else each.quality.worst), passed=False
    )


def _best(measured: list[Confirmed]) -> Confirmed | None:
    """The first that held, those without a measurable loss first."""
    return next((each for verdict in HELD for each in measured if held(each) and each.quality.verdict == verdict), None)


def seconds_per_image(run: Run, plan: Plan, ways: list[Way]) -> float:
    """What the rounds of the ways say that an image takes."""
    network = plan.without(Sampler.name)[0] if plan.find(Sampler.name) else plan
    way = next((each for each in ways if each.plan == network and each.seconds), ways[0])
    sampler = plan.find(Sampler.name)
    return way.median_seconds * (sampler.steps if isinstance(sampler, Sampler) else run.source.table.evaluations)


def _measure(run: Run, finalists: list[Plan], reference: Reference, ways: list[Way], end: float) -> list[Confirmed]:
    """Each finalist that could be sampled, in the order given; a round has as many images as the time until ``end``
    allows."""
    run.say("confirm", "fresh cases")
    costs = sum(seconds_per_image(run, plan, ways) for plan in (Plan(), *finalists))
    images = max(run.images_that_fit(costs, FEWEST_ROUNDS + 1, end, run.settings.images_per_case), 1)
    if images < run.settings.images_per_case:
        at_once = f"{images} image{'s' if images > 1 else ''} at once"
        run.warnings.append(f"timed {at_once}, not {run.settings.images_per_case}: a longer time allows more")
    workload = run.workload(Purpose.CONFIRM, ROUNDS, images)
    builders: dict[str, pair.Builder] = {"baseline": lambda: run.build(Plan())}
    for number, plan in enumerate(finalists):
        builders[f"candidate {number}"] = lambda plan=plan: run.build(plan)  # type: ignore[misc]
    rounds_done = 0

    def on_round(done: int, rounds: int) -> None:
        nonlocal rounds_done
        rounds_done = done
        run.say("confirm", f"round {done} of {rounds}: baseline and {len(finalists)} finalists on the same noise")

    def stop() -> bool:  # the fewest rounds that give a verdict are made in any case
        return rounds_done >= FEWEST_ROUNDS and run.over(end)()

    comparisons = pair.compare_many(
        builders,
        "baseline",
        workload,
        pair.Rounds(ROUNDS, seed=run.settings.seed, stop=stop, on_round=on_round, clock=run.clock, narrow=NARROW),
    )
    run.warnings += next(iter(comparisons.values())).warnings
    measured: list[Confirmed] = []

    def builds(plan: Plan) -> Callable[[], tuple[Target, Target]]:
        return lambda: (faithful(run, ways), run.build(plan))

    dearest = max(seconds_per_image(run, plan, ways) for plan in finalists)
    pair_seconds = faithful_seconds(ways) * run.source.table.evaluations + dearest
    batch = max(run.images_that_fit(pair_seconds, 3, max(end, MORE_END), UNTIMED_BATCH), FEWEST_MORE)
    for plan, comparison in zip(finalists, comparisons.values(), strict=True):
        if not comparison.samples_a:
            run.warnings.append(f"{', '.join(plan.label)}: {comparison.reason}")
            continue
        baseline, candidate = (reference.view(torch.cat(s)) for s in (comparison.samples_a, comparison.samples_b))
        judged = enough.judge(
            reference,
            (baseline, candidate),
            builds(plan),
            lambda cases: run.workload(Purpose.MORE, cases, batch),
            budget=run.limits.quality,
            # a finalist that is believed before this one and held is the winner already
            stop=lambda: any(held(one) for one in measured) or run.over(max(end, MORE_END))(),
            say=lambda detail: run.say("confirm", detail),
        )
        faster = comparison.verdict is Verdict.FASTER or run.limits.goal in ("memory", "size")
        measured.append(Confirmed(plan, comparison, judged, passed=faster))
    return measured


def held(confirmed: Confirmed) -> bool:
    """Whether it is faster, where that is the goal, and as good as the budget asks."""
    return confirmed.passed and confirmed.quality.verdict in HELD


def drift_to_converged(run: Run, confirmed: Confirmed, reference: Reference, ways: list[Way]) -> dict[str, float]:
    """How far baseline and winner are, in dB, from the model's own converged samples of the first fresh case."""
    comparison = confirmed.comparison
    case = run.workload(Purpose.CONFIRM, 1, len(comparison.samples_a[0])).cases[0]
    goal = faithful(run, ways, CONVERGED).sample(case)
    return {
        "baseline": quality.drift_db(goal, comparison.samples_a[0], reference.span),
        "candidate": quality.drift_db(goal, comparison.samples_b[0], reference.span),
    }


@dataclass(frozen=True)
class Added:
    """``rows``: what each technique adds; ``noise_floor``: the winner against itself; and all that was timed for it."""

    rows: list[dict[str, Any]]
    noise_floor: Comparison
    observations: tuple[pair.Observation, ...]


def attribute(run: Run, winner: Plan, ways: list[Way]) -> Added:
    """What each technique adds: the winner without it, and its share; and the winner against itself, the noise floor.

    A share is Shapley's: the mean, over all orders in which the techniques of the network can be added, of what this
    one makes faster at its turn, round by round; shares multiply to the whole (Shapley 1953; orders that a plan refuses
    don't count).  A sampler multiplies evaluations whatever the engine, so its share is what the winner loses without
    it.  Of more than MOST_SHARED techniques no shares are told.

    Cases have a quarter of the images, or as many as the time allows: without its sampler the winner takes as many
    evaluations as the baseline.  Where not even one fits, the winner alone is timed, against itself.
    """
    network = [t for t in winner.techniques if t.name != Sampler.name]
    orders = _orders(network) if len(network) <= MOST_SHARED else []
    sets = {frozenset(order[:n]) for order in orders for n in range(len(order) + 1)}
    sets |= {frozenset(t.name for t in Plan(tuple(network)).without(each.name)[0].techniques) for each in network}
    timed = {"candidate": winner, "candidate again": winner}
    whole = frozenset(t.name for t in network)
    for names in sorted(sets - {whole}, key=sorted):
        timed[_named(names)] = Plan(tuple(t for t in winner.techniques if t.name in names or t.name == Sampler.name))
    if winner.find(Sampler.name) is not None:
        timed[f"without {Sampler.name}"] = Plan(tuple(network))
    cost = sum(seconds_per_image(run, plan, ways) for plan in timed.values())
    images = run.images_that_fit(cost, FEWEST_ROUNDS + 1, ATTRIBUTE_END, max(run.settings.images_per_case // 4, 1))
    if not images:
        run.warnings.append("what each technique adds was not told apart in the time: a longer time tells it")
        timed = {name: plan for name, plan in timed.items() if plan == winner}
    builders: dict[str, pair.Builder] = {
        name: lambda plan=plan: run.build(plan)  # type: ignore[misc]
        for name, plan in timed.items()
    }
    comparisons = pair.compare_many(
        builders,
        "candidate",
        run.workload(Purpose.CONFIRM, FEWEST_ROUNDS, max(images, 1)),
        pair.Rounds(
            FEWEST_ROUNDS,
            seed=seed_of(Purpose.ATTRIBUTION, run.settings.seed),
            stop=run.stopped,
            clock=run.clock,
            on_round=lambda done, rounds: run.say("attribute", f"round {done} of {rounds}: techniques removed"),
        ),
    )
    rows = []
    for technique in winner.techniques:
        left, removed = winner.without(technique.name)
        kept = frozenset(t.name for t in left.techniques if t.name != Sampler.name)
        name = f"without {Sampler.name}" if technique.name == Sampler.name else _named(kept)
        if name not in comparisons or comparisons[name].interval is None:
            continue
        slower = result.speedup(comparisons[name], "times")
        alone = {key: slower[key] for key in ("ratio", "low", "high")}
        share = alone if technique.name == Sampler.name else _share(technique.name, orders, comparisons)
        rows.append(
            {"technique": technique.name, "label": technique.label, "removed": removed, **slower, "share": share}
        )
    log = {id(o): o for comparison in comparisons.values() for o in comparison.observations}
    return Added(rows, comparisons["candidate again"], tuple(log.values()))


def _orders(network: list[Technique]) -> list[tuple[str, ...]]:
    """The orders in which techniques can be added, every beginning a plan of its own."""
    by_name = {t.name: t for t in network}
    return [
        order
        for order in itertools.permutations(by_name)
        if all(Plan(tuple(by_name[name] for name in order[:n])).stands for n in range(len(order) + 1))
    ]


def _named(names: frozenset[str]) -> str:
    return f"with {', '.join(sorted(names)) or 'nothing'}"


def _share(name: str, orders: list[tuple[str, ...]], comparisons: dict[str, Comparison]) -> dict[str, float] | None:
    """Shapley's share of the speed-up; None where a plan on the way failed."""
    seconds: dict[str, dict[int, float]] = {}
    for other, comparison in comparisons.items():
        for o in comparison.observations:
            if o.seconds is not None and o.round >= 0 and o.plan in ("candidate", other):
                seconds.setdefault(o.plan, {})[o.round] = o.seconds
    if not orders:
        return None
    whole = frozenset(orders[0])

    def times(names: tuple[str, ...]) -> dict[int, float]:
        return seconds.get("candidate" if frozenset(names) == whole else _named(frozenset(names)), {})

    steps = [(times(order[: order.index(name)]), times(order[: order.index(name) + 1])) for order in orders]
    rounds = sorted(set.intersection(*(set(part) for pair_ in steps for part in pair_)))
    if not rounds:
        return None
    gains = [math.exp(sum(math.log(a[r] / b[r]) for a, b in steps) / len(steps)) for r in rounds]
    gain = median_ratio([1.0] * len(gains), gains)
    return {"ratio": gain.ratio, "low": gain.low, "high": gain.high}
