"""Of the ways that were tried, those that the search chooses from; the others are refused with a reason."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hasten.environment import python_child
from hasten.errors import HastenError
from hasten.measure.memory import peak_bytes
from hasten.measure.stats import FEWEST_ROUNDS, Verdict, verdict
from hasten.propose import Refusal
from hasten.result import ONCE
from hasten.story.stages.run import Run
from hasten.story.stages.trying import FAR, SCREENING_ROUNDS, UNTRIED
from hasten.story.stages.ways import CLOSE_DB, Way
from hasten.technique import plan as plans
from hasten.technique.contract import Technique
from hasten.technique.plan import Plan
from hasten.technique.sampler import STEP_PROBE, Sampler
from hasten.technique.swap import Swap

KEPT_WAYS = 2  # of each network


def keep(ways: Sequence[Way], run: Run) -> list[Way]:
    """What the search chooses from: of each network the best ways by the run's goal, and of all the best one that
    hardly changes the samples; within the budgets of memory and size, and none that a simpler one equals.

    Raises HastenError when no way is within them.
    """
    goal, most = run.limits.goal, run.limits.size_bytes
    usable = [w for w in ways if w.seconds and not (most and (w.weight_bytes or 0) > most)]
    if not usable:
        least = min((w for w in ways if w.seconds), key=lambda w: w.weight_bytes or 0)
        raise HastenError(
            f"no plan is within a size of {most or 0:.0f}B: the smallest ({least.label}) has "
            f"{(least.weight_bytes or 0) / 1e6:.2f} MB; raise it"
        )
    usable = [w for w in usable if all(_pays(w, other, goal) for other in usable if _simpler(other, w))]
    if run.limits.memory_bytes is not None or goal == "memory":
        usable = _within_memory(run, usable)
    ranked = sorted(usable, key=lambda w: (w.figure(goal), w.median_seconds))
    networks: dict[Technique | None, list[Way]] = {}
    for way in ranked:
        networks.setdefault(way.plan.find(Swap.name), []).append(way)
    best = [way for alike in networks.values() for way in alike[:KEPT_WAYS]]
    close = [w for w in ranked if w.drift_db is None or w.drift_db >= CLOSE_DB]
    kept = list(dict.fromkeys([*best, *close[:1]]))
    return sorted(kept, key=lambda w: (w.figure(goal), w.median_seconds))


def _simpler(other: Way, way: Way) -> bool:
    """Whether ``other`` is ``way`` without some of its techniques, on the same network."""
    mine, theirs = way.plan.techniques, other.plan.techniques
    same = way.plan.find(Swap.name) == other.plan.find(Swap.name)
    return same and len(theirs) < len(mine) and all(technique in mine for technique in theirs)


def _pays(way: Way, simpler: Way, goal: str) -> bool:
    """Whether what is added is worth it: less of what the goal asks for, or certainly faster."""
    less = way.figure(goal) < simpler.figure(goal)
    enough = min(len(way.seconds), len(simpler.seconds)) >= FEWEST_ROUNDS
    return less or not enough or verdict(way.against(simpler)) is Verdict.FASTER


def _within_memory(run: Run, ways: list[Way]) -> list[Way]:
    """Ways with their measured peaks, the best first, until enough are within the budget (all for that goal).

    Raises HastenError when none is, and when peaks can't be measured.
    """
    if run.source.folder is None:
        raise HastenError("memory is measured in processes of their own, and a module of your own can't be built there")
    most = math.inf if run.limits.memory_bytes is None else run.limits.memory_bytes
    within: list[Way] = []
    least = math.inf
    for way in sorted(ways, key=lambda w: (w.weight_bytes if run.limits.goal == "size" else 0, w.median_seconds)):
        if run.limits.goal != "memory" and len(within) > KEPT_WAYS:
            break
        run.say("engines", f"peak memory of {way.label}")
        peak = _peak(run, way.plan.plus(STEP_PROBE))
        least = min(least, peak)
        if peak <= most:
            within.append(replace(way, peak_bytes=peak))
    if not within:
        raise HastenError(f"no plan is within a memory of {most / 1e6:.0f}MB: the least is {least / 1e6:.0f}MB")
    return within


def _peak(run: Run, plan: Plan) -> int:
    with tempfile.TemporaryDirectory(prefix=".peak.", suffix=".part", dir=run.out) as folder:
        path = Path(folder, "plan.toml")
        plans.write(plan, path)
        words = (f"{run.source.folder}+{path}", str(run.settings.images_per_case), run.source.device)
        return peak_bytes(python_child("-c", ONCE, *words), timeout=300.0)


def refuse_slower(winner: Plan, ways: list[Way], known: list[Refusal]) -> list[Refusal]:
    """Techniques that were tried and are not in the winner: how the best way with each compares to the winner's,
    with the interval of the rounds that both made."""
    network = [t for t in winner.techniques if not isinstance(t, Sampler)]
    mine = next((w for w in ways if list(w.plan.techniques) == network and w.seconds), None)
    refused = {refusal.label for refusal in known}
    rows = []
    for way in sorted(ways, key=lambda w: w.median_seconds):
        for technique in way.plan.techniques:
            if technique in network or technique.label in refused:
                continue
            refused.add(technique.label)
            if way.failure:
                reason = UNTRIED if UNTRIED in way.failure else f"failed: {way.failure}"
                rows.append(Refusal(technique.name, technique.label, reason))
            elif mine is not None and way.seconds:
                rows.append(Refusal(technique.name, technique.label, _slower(technique, way, mine)))
    return rows


def _slower(technique: Technique, way: Way, winner: Way) -> str:
    """Why ``technique``, best on ``way``, is not in the winner; other techniques are named where they had to be
    changed too."""
    speed = way.against(winner).inverse()
    if speed.n < SCREENING_ROUNDS or (speed.n < FEWEST_ROUNDS and speed.high >= 1.0 / FAR):
        reason = "not told apart in the time"
    else:  # so far behind that few rounds were enough, or enough rounds
        certain = verdict(way.against(winner)) if speed.n >= FEWEST_ROUNDS else Verdict.SLOWER
        reason = {Verdict.FASTER: "faster, but no plan with it held", Verdict.SLOWER: "slower"}.get(
            certain, "no faster for certain"
        )
    rest = [t for t in way.plan.techniques if t != technique]
    added = [t.label for t in rest if t not in winner.plan.techniques]
    than = "with it" if rest == list(winner.plan.techniques) else f"the speed of {winner.label}"
    beside = f", beside {' + '.join(added)}" if added else ""
    rounds = f"{speed.n} round{'s' if speed.n > 1 else ''}"
    return f"{reason}: {speed.ratio:.2f}x {than} here ({speed.low:.2f} to {speed.high:.2f}, {rounds}){beside}"
