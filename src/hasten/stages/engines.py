"""Ways to run the network: tried in pairs, kept for the search, and refused with a reason."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from hasten.measure import pair, quality
from hasten.measure.profile import Row, profile
from hasten.measure.roofline import Peaks
from hasten.measure.stats import FEWEST_ROUNDS
from hasten.model.target import Target, TorchNetwork
from hasten.model.workload import Workload
from hasten.propose import Proposal, Refusal
from hasten.runtime import openvino
from hasten.stages.run import SEARCH, Run
from hasten.technique.contract import Technique
from hasten.technique.plan import Plan
from hasten.technique.sampler import Sampler
from hasten.technique.swap import Swap

ENGINES_END = 0.22  # the share of the time by whose end no further round begins
KEPT_ENGINES = 2
# Drift of an engine on two-evaluation samples: hardly visible, and far below anything that is measured.
CLOSE_DB, FAITHFUL_DB = 45.0, 60.0
CONVERGED = Sampler("unipc", 60, "logsnr")  # its samples are over 50 dB from those of 100 steps (LOG.md)
STEP_PROBE = Sampler("ddim", 2, "uniform")


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


def profile_network(target: Target, workload: Workload, peaks: Peaks) -> tuple[Row, ...]:
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


def keep(engines: list[Engine]) -> list[Engine]:
    """What the search chooses from: of each network the fastest engines, and of all the fastest that hardly changes the
    samples."""
    ranked = sorted((e for e in engines if e.ratio is not None), key=lambda e: e.ratio or 0.0)
    networks: dict[Technique | None, list[Engine]] = {}
    for engine in ranked:
        networks.setdefault(engine.plan.find(Swap.name), []).append(engine)
    fastest = [engine for found in networks.values() for engine in found[:KEPT_ENGINES]]
    close = [e for e in ranked if e.drift_db is None or e.drift_db >= CLOSE_DB]
    return list(dict.fromkeys([*fastest, *close[:1]]))


def faithful(run: Run, engines: list[Engine], *techniques: Technique) -> Target:
    """The source on the fastest engine whose rounding is far below what is measured, where nothing is timed."""
    faithful = [e for e in engines if e.ratio is not None and (e.drift_db is None or e.drift_db >= FAITHFUL_DB)]
    fastest = min(faithful, key=lambda e: e.ratio or 0.0)
    return run.build(fastest.plan.plus(*techniques))


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
