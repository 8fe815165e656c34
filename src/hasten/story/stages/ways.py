"""Ways to run the network: tried in pairs, kept for the search, and refused with a reason."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from hasten.environment import python_child
from hasten.errors import BadInput, HastenError
from hasten.files import text_lines, write_text
from hasten.measure import pair, quality
from hasten.measure.memory import peak_bytes
from hasten.measure.profile import Row, profile
from hasten.measure.roofline import Peaks
from hasten.measure.stats import FEWEST_ROUNDS, Interval, Verdict, median_ratio, verdict
from hasten.model.target import Target, TorchNetwork
from hasten.model.workload import Workload
from hasten.propose import Proposal, Refusal
from hasten.result import ONCE
from hasten.runtime import openvino
from hasten.story.stages.run import SEARCH, Run
from hasten.technique import plan as plans
from hasten.technique.contract import Technique
from hasten.technique.plan import Plan
from hasten.technique.sampler import STEP_PROBE, Sampler
from hasten.technique.swap import Swap

PREPARED_END = 0.16  # the share of the time after which no further engine is prepared
ENGINES_END = 0.22  # the share of the time by whose end no further round begins
KEPT_ENGINES = 2
SCREENING_ROUNDS, FAR = 2, 1.5  # of all engines; how many times the least seconds is far behind
# Drift of an engine on two-evaluation samples: hardly visible, and far below anything that is measured.
CLOSE_DB, FAITHFUL_DB = 45.0, 60.0
CONVERGED = Sampler("unipc", 60, "logsnr")  # its samples are over 50 dB from those of 100 steps (LOG.md)
BASELINE = "the baseline's own engine"
UNTRIED = "not prepared in the time: a longer --time tries it"


@dataclass(frozen=True)
class Engine:
    """A way to run the network, tried.

    ``seconds`` of one evaluation for one image, by round (rounds are the same for all engines); ``drift_db`` from
    eager; ``weight_bytes`` on disk of the network that it runs; ``peak_bytes`` where memory was asked for.
    """

    plan: Plan
    reason: str
    seconds: tuple[float, ...]
    drift_db: float | None
    failure: str = ""
    weight_bytes: int | None = None
    peak_bytes: int | None = None

    @property
    def name(self) -> str:
        """What the search calls it."""
        return " + ".join(t.label for t in self.plan.techniques) or "PyTorch eager"

    @property
    def median_seconds(self) -> float:
        """Over the rounds; infinite for an engine that failed."""
        ordered = sorted(self.seconds)
        return ordered[len(ordered) // 2] if ordered else math.inf

    def against(self, other: Engine) -> Interval:
        """The ratio of this engine's time to the other's, over the rounds that both made."""
        rounds = min(len(self.seconds), len(other.seconds))
        return median_ratio(other.seconds[:rounds], self.seconds[:rounds])

    def figure(self, goal: str) -> float:
        """What the goal minimises before seconds: bytes, or 0 where it is seconds."""
        known = {"size": self.weight_bytes, "memory": self.peak_bytes}
        if goal not in known:
            return 0.0
        found = known[goal]
        return math.inf if found is None else float(found)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "plan": self.plan.to_list()}


class Kept(BaseModel):
    """An engine as ``engines.json`` has it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    plan: list[dict[str, Any]]
    reason: str
    seconds: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...]
    drift_db: float | None
    failure: str = ""
    weight_bytes: int | None = None
    peak_bytes: int | None = None


def profile_network(target: Target, workload: Workload, peaks: Peaks) -> tuple[Row, ...]:
    """Rows of one evaluation of one case, at the middle of the baseline's times."""
    assert isinstance(target.network, TorchNetwork)
    return profile(lambda: target.evaluate(workload.cases[0]), target.network.module, 3, peaks)


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
    """Each engine against eager on two-evaluation samples of the same case, all interleaved in the same rounds.

    What was measured is kept in ``engines.json``: a resumed run searches with the costs that it began with.
    """
    path = run.out / "engines.json"
    if path.exists():
        return kept_in(path)
    tried = _tried(run, proposals)
    write_text(path, json.dumps([engine.to_json() for engine in tried]) + "\n")
    return tried


def kept_in(path: Path) -> list[Engine]:
    """The engines that a run began with.  Raises BadInput for what is no list of them."""
    try:
        rows = TypeAdapter(Annotated[list[Kept], Field(min_length=1)]).validate_json("".join(text_lines(path)))
    except ValidationError as error:
        raise BadInput(f"{path} holds no engines of a run ({error.error_count()} things wrong); remove it") from error
    return [Engine(plans.from_list(row.plan, str(path)), **row.model_dump(exclude={"plan"})) for row in rows]


def _tried(run: Run, proposals: list[Proposal]) -> list[Engine]:
    """A few rounds of all, then as many as a comparison takes of those that are not far behind: of many, few are close.

    Which ones go on is decided before the rounds by which they are told apart.
    """
    eager = Engine(Plan(), BASELINE, (), None)
    found = {each.name: each for each in (eager, *(Engine(p.plan, p.reason, (), None) for p in proposals))}
    made: dict[str, Target] = {}
    late, too_late = run.over(ENGINES_END), run.over(PREPARED_END)

    def build(name: str) -> Target:
        if name not in made:
            if len(made) > 1 and too_late():
                raise HastenError(UNTRIED)
            run.say("engines", f"preparing {name}")
            made[name], size = run.built(found[name].plan.plus(STEP_PROBE))
            found[name] = replace(found[name], weight_bytes=size)
        return made[name]

    def measure_(names: Sequence[str], rounds: int, at_least: int) -> None:
        done = 0

        def on_round(number: int, of: int) -> None:
            nonlocal done
            done = number
            run.say("engines", f"round {number} of {of}, {len(names)} engines")

        comparisons = pair.compare_many(
            {name: partial(build, name) for name in names},
            eager.name,
            run.workload(SEARCH, 1),
            pair.Rounds(
                rounds, seed=run.seed, stop=lambda: done >= at_least and late(), on_round=on_round, clock=run.clock
            ),
        )
        seconds: dict[str, tuple[float, ...]] = {}
        for name, each in comparisons.items():
            seconds |= {eager.name: by_round(each, eager.name), name: by_round(each, name)}
            failure = next((o.failure for o in each.observations if o.plan == name and o.failure), "") or ""
            drift = quality.drift_db(each.samples_a[0], each.samples_b[0]) if each.samples_b else found[name].drift_db
            found[name] = replace(found[name], drift_db=drift, failure=failure)
        if not seconds[eager.name] and not found[eager.name].seconds:
            reason = next(iter(comparisons.values())).reason
            raise HastenError(f"{run.source.name} could not be sampled as it is: {reason}")
        for name, more in seconds.items():
            known = found[name].seconds
            found[name] = replace(found[name], seconds=() if found[name].failure else known + more)

    measure_(list(found), SCREENING_ROUNDS, at_least=1)  # without one round nothing has a cost
    near = [e.name for e in found.values() if e.name != eager.name and _near(e, found.values())]
    if near and not late():
        measure_([eager.name, *near], FEWEST_ROUNDS, at_least=0)
    return list(found.values())


def _near(engine: Engine, engines: Iterable[Engine]) -> bool:
    """Whether it is not far behind the fastest engine of the same network."""
    network = engine.plan.find(Swap.name)
    fastest = min(e.median_seconds for e in engines if e.plan.find(Swap.name) == network)
    return bool(engine.seconds) and engine.median_seconds <= FAR * fastest


def by_round(comparison: pair.Comparison, name: str) -> tuple[float, ...]:
    """Seconds of one evaluation for one image, of the probe's two."""
    rounds = {o.round: o.seconds / o.images / STEP_PROBE.steps for o in comparison.observations
              if o.plan == name and o.seconds is not None and o.round >= 0}  # fmt: skip
    return tuple(rounds[number] for number in sorted(rounds))


def keep(engines: Sequence[Engine], run: Run) -> list[Engine]:
    """What the search chooses from: of each network the best engines by the run's goal, and of all the best one that
    hardly changes the samples; within the budgets of memory and size, and none that a simpler one equals.

    Raises HastenError when no engine is within them.
    """
    usable = [e for e in engines if e.seconds and not (run.size_bytes and (e.weight_bytes or 0) > run.size_bytes)]
    if not usable:
        least = min((e for e in engines if e.seconds), key=lambda e: e.weight_bytes or 0)
        raise HastenError(
            f"no plan is within --budget size={run.size_bytes or 0:.0f}B: the smallest ({least.name}) has "
            f"{(least.weight_bytes or 0) / 1e6:.2f} MB; raise it"
        )
    usable = [e for e in usable if all(_pays(e, other, run.goal) for other in usable if _simpler(other, e))]
    if run.memory_bytes is not None or run.goal == "memory":
        usable = _within_memory(run, usable)
    ranked = sorted(usable, key=lambda e: (e.figure(run.goal), e.median_seconds))
    networks: dict[Technique | None, list[Engine]] = {}
    for engine in ranked:
        networks.setdefault(engine.plan.find(Swap.name), []).append(engine)
    best = [engine for found in networks.values() for engine in found[:KEPT_ENGINES]]
    close = [e for e in ranked if e.drift_db is None or e.drift_db >= CLOSE_DB]
    kept = list(dict.fromkeys([*best, *close[:1]]))
    return sorted(kept, key=lambda e: (e.figure(run.goal), e.median_seconds))


def _simpler(other: Engine, engine: Engine) -> bool:
    """Whether ``other`` is ``engine`` without some of its techniques, on the same network."""
    mine, theirs = engine.plan.techniques, other.plan.techniques
    same = engine.plan.find(Swap.name) == other.plan.find(Swap.name)
    return same and len(theirs) < len(mine) and all(technique in mine for technique in theirs)


def _pays(engine: Engine, simpler: Engine, goal: str) -> bool:
    """Whether what is added is worth it: less of what the goal asks for, or certainly faster."""
    less = engine.figure(goal) < simpler.figure(goal)
    told = min(len(engine.seconds), len(simpler.seconds)) >= FEWEST_ROUNDS
    return less or not told or verdict(engine.against(simpler)) is Verdict.FASTER


def _within_memory(run: Run, engines: list[Engine]) -> list[Engine]:
    """Engines with their measured peaks, the best first, until enough are within the budget (all for that goal).

    Raises HastenError when none is, and when peaks can't be measured.
    """
    if run.source.folder is None:
        raise HastenError("memory is measured in processes of their own, and a module of your own can't be built there")
    most = math.inf if run.memory_bytes is None else run.memory_bytes
    within: list[Engine] = []
    least = math.inf
    for engine in sorted(engines, key=lambda e: (e.weight_bytes if run.goal == "size" else 0, e.median_seconds)):
        if run.goal != "memory" and len(within) > KEPT_ENGINES:
            break
        run.say("engines", f"peak memory of {engine.name}")
        peak = _peak(run, engine.plan.plus(STEP_PROBE))
        least = min(least, peak)
        if peak <= most:
            within.append(replace(engine, peak_bytes=peak))
    if not within:
        raise HastenError(f"no plan is within --budget memory={most / 1e6:.0f}MB: the least is {least / 1e6:.0f}MB")
    return within


def _peak(run: Run, plan: Plan) -> int:
    with tempfile.TemporaryDirectory(prefix=".peak.", suffix=".part", dir=run.out) as folder:
        path = Path(folder, "plan.toml")
        plans.write(plan, path)
        words = (f"{run.source.folder}+{path}", str(run.images_per_case), run.source.device)
        return peak_bytes(python_child("-c", ONCE, *words), timeout=300.0)


def closest(engines: Sequence[Engine]) -> Engine:
    """The fastest of those kept that hardly change the samples, or the one that changes them least."""
    close = [e for e in engines if e.drift_db is None or e.drift_db >= CLOSE_DB]
    return min(close, key=lambda e: e.median_seconds) if close else max(engines, key=lambda e: e.drift_db or 0.0)


def faithful(run: Run, engines: list[Engine], *techniques: Technique) -> Target:
    """The source on the fastest engine whose rounding is far below what is measured, where nothing is timed."""
    return run.build(_most_faithful(engines).plan.plus(*techniques))


def faithful_seconds(engines: list[Engine]) -> float:
    """What one evaluation takes there for one image."""
    return _most_faithful(engines).median_seconds


def _most_faithful(engines: list[Engine]) -> Engine:
    faithful = [e for e in engines if e.seconds and (e.drift_db is None or e.drift_db >= FAITHFUL_DB)]
    return min(faithful, key=lambda e: e.median_seconds)


def refuse_slower(winner: Plan, engines: list[Engine], known: list[Refusal]) -> list[Refusal]:
    """Techniques that were tried and are not in the winner: how the best engine with each compares to the winner's,
    with the interval of the rounds that both made."""
    network = [t for t in winner.techniques if not isinstance(t, Sampler)]
    mine = next((e for e in engines if list(e.plan.techniques) == network and e.seconds), None)
    refused = {refusal.label for refusal in known}
    rows = []
    for engine in sorted(engines, key=lambda e: e.median_seconds):
        for technique in engine.plan.techniques:
            if technique in network or technique.label in refused:
                continue
            refused.add(technique.label)
            if engine.failure:
                said = UNTRIED if UNTRIED in engine.failure else f"failed: {engine.failure}"
                rows.append(Refusal(technique.name, technique.label, said))
            elif mine is not None and engine.seconds:
                rows.append(Refusal(technique.name, technique.label, _slower(technique, engine, mine)))
    return rows


def _slower(technique: Technique, engine: Engine, winner: Engine) -> str:
    """Why ``technique``, best on ``engine``, is not in the winner; other techniques are named where they had to be
    changed too."""
    found = engine.against(winner).inverse()
    if found.n < SCREENING_ROUNDS or (found.n < FEWEST_ROUNDS and found.high >= 1.0 / FAR):
        said = "not told apart in the time"
    else:  # so far behind that few rounds were enough, or enough rounds
        certain = verdict(engine.against(winner)) if found.n >= FEWEST_ROUNDS else Verdict.SLOWER
        said = {Verdict.FASTER: "faster, but no plan with it held", Verdict.SLOWER: "slower"}.get(
            certain, "no faster for certain"
        )
    rest = [t for t in engine.plan.techniques if t != technique]
    added = [t.label for t in rest if t not in winner.plan.techniques]
    than = "with it" if rest == list(winner.plan.techniques) else f"the speed of {winner.name}"
    beside = f", beside {' + '.join(added)}" if added else ""
    rounds = f"{found.n} round{'s' if found.n > 1 else ''}"
    return f"{said}: {found.ratio:.2f}x {than} here ({found.low:.2f} to {found.high:.2f}, {rounds}){beside}"
