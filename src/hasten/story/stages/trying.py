"""Ways to run the network, tried in pairs: which are prepared, and for how many rounds, time allowing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial

from hasten.environment import environment, fingerprint
from hasten.errors import HastenError
from hasten.files import write_text
from hasten.measure import pair, quality, roofline
from hasten.measure.profile import Row, profile
from hasten.measure.stats import FEWEST_ROUNDS
from hasten.model.target import Target, TorchNetwork
from hasten.propose import Proposal
from hasten.runtime import openvino
from hasten.seeds import Purpose
from hasten.story.stages.run import Run
from hasten.story.stages.ways import Way, kept_in
from hasten.technique.plan import Plan
from hasten.technique.sampler import STEP_PROBE
from hasten.technique.swap import Swap

PREPARED_END = 0.16  # the share of the time after which no further way is prepared
TRIED_END = 0.22  # the share of the time by whose end no further round begins
SCREENING_ROUNDS, FAR = 2, 1.5  # of all ways; how many times the least seconds is far behind
BASELINE = "the baseline's own engine"
UNTRIED = "not prepared in the time: a longer time tries it"


def profile_network(run: Run, target: Target) -> tuple[Row, ...]:
    """Rows of one evaluation of one case, at the middle of the baseline's times."""
    run.say("profile", "one network evaluation by kind of module")
    assert isinstance(target.network, TorchNetwork)
    peaks = roofline.peaks(run.source.device, fingerprint(environment()))
    case = run.workload(Purpose.SEARCH, 1).cases[0]
    return profile(lambda: target.evaluate(case), target.network.module, 3, peaks)


def profile_winner(run: Run, plan: Plan) -> tuple[Row, ...] | None:
    """The same for the winner, where its engine tells: by kind of operation."""
    target = run.build(plan)
    if not isinstance(target.network, openvino.Network):
        return None
    case = run.workload(Purpose.SEARCH, 1).cases[0]
    kinds = openvino.profile(target.network, case.noise, case.labels)
    whole = sum(seconds for _, seconds in kinds.values())
    return tuple(
        Row(kind, calls, seconds, seconds / whole, 0.0, 0.0, None)
        for kind, (calls, seconds) in sorted(kinds.items(), key=lambda item: -item[1][1])
    )


def try_ways(run: Run, proposals: list[Proposal]) -> list[Way]:
    """Each way against eager on two-evaluation samples of the same case, all interleaved in the same rounds.

    What was measured is kept in ``ways.json``: a resumed run searches with the costs that it began with.
    """
    path = run.out / "ways.json"
    if path.exists():
        return kept_in(path)
    tried = _tried(run, proposals)
    write_text(path, json.dumps([way.to_json() for way in tried]) + "\n")
    return tried


def _tried(run: Run, proposals: list[Proposal]) -> list[Way]:
    """A few rounds of all, then as many as a comparison takes of those that are not far behind: of many, few are close.

    Which ones go on is decided before the rounds by which they are told apart.
    """
    eager = Way(Plan(), BASELINE, (), None)
    tried = {way.hash: way for way in (eager, *(Way(p.plan, p.reason, (), None) for p in proposals))}
    built: dict[str, Target] = {}
    late, too_late = run.over(TRIED_END), run.over(PREPARED_END)

    def build(key: str) -> Target:
        if key not in built:
            if len(built) > 1 and too_late():
                raise HastenError(UNTRIED)
            run.say("engines", f"preparing {tried[key].label}")
            built[key], size = run.built(tried[key].plan.plus(STEP_PROBE))
            tried[key] = replace(tried[key], weight_bytes=size)
        return built[key]

    def measure_(keys: Sequence[str], most: int, at_least: int) -> None:
        done = 0

        def on_round(number: int, of: int) -> None:
            nonlocal done
            done = number
            run.say("engines", f"round {number} of {of}, {len(keys)} engines")

        comparisons = pair.compare_many(
            {key: partial(build, key) for key in keys},
            eager.hash,
            run.workload(Purpose.SEARCH, 1),
            pair.Rounds(most, 1, run.settings.seed, lambda: done >= at_least and late(), on_round, run.clock),
        )
        seconds: dict[str, tuple[float, ...]] = {}
        for key, each in comparisons.items():
            seconds |= {eager.hash: by_round(each, eager.hash), key: by_round(each, key)}
            failure = next((o.failure for o in each.observations if o.plan == key and o.failure), "") or ""
            drift = quality.drift_db(each.samples_a[0], each.samples_b[0]) if each.samples_b else tried[key].drift_db
            tried[key] = replace(tried[key], drift_db=drift, failure=failure)
        if not seconds[eager.hash] and not tried[eager.hash].seconds:
            first = next(iter(comparisons.values()))
            failed = next((o for o in first.observations if o.failure), None)
            reason = first.reason if failed is None else f"{tried[failed.plan].label} failed: {failed.failure}"
            raise HastenError(f"{run.source.name} could not be sampled as it is: {reason}")
        for key, more in seconds.items():
            known = tried[key].seconds
            tried[key] = replace(tried[key], seconds=() if tried[key].failure else known + more)

    measure_(list(tried), SCREENING_ROUNDS, at_least=1)  # without one round nothing has a cost
    near = [key for key, way in tried.items() if key != eager.hash and _near(way, tried.values())]
    if near and not late():
        measure_([eager.hash, *near], FEWEST_ROUNDS, at_least=0)
    return list(tried.values())


def _near(way: Way, ways: Iterable[Way]) -> bool:
    """Whether it is not far behind the fastest way of the same network."""
    network = way.plan.find(Swap.name)
    fastest = min(e.median_seconds for e in ways if e.plan.find(Swap.name) == network)
    return bool(way.seconds) and way.median_seconds <= FAR * fastest


def by_round(comparison: pair.Comparison, key: str) -> tuple[float, ...]:
    """Seconds of one evaluation for one image, of the probe's two."""
    rounds = {o.round: o.seconds / o.images / STEP_PROBE.steps for o in comparison.observations
              if o.plan == key and o.seconds is not None and o.round >= 0}  # fmt: skip
    return tuple(rounds[number] for number in sorted(rounds))
