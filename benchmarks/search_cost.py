"""The factorised search against trying everything, on the bundled model.

    python benchmarks/search_cost.py            # 20 minutes; benchmarks/results/search_cost.json

The space is small enough to enumerate: the ways to run the network that `hasten optimize` keeps, all its solvers and
time grids, 6 to 10 evaluations; three seeds of the noise.  Every point is judged on the same 64 images as the search
judges by.  Cost is counted in images times evaluations, ranking included, so it does not depend on the clock.  How much
slower the plan found is than the fastest plan that holds the budget is told at several budgets, with all ways and with
the slowest.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from hasten import propose
from hasten.data import emoji
from hasten.environment import environment
from hasten.files import write_text
from hasten.model import bundled
from hasten.model import source as sources
from hasten.search import factorised
from hasten.search.factorised import Trial
from hasten.search.loop import search
from hasten.search.space import ALL, Point, Space, key, point
from hasten.story.stages import keeping, reference, trials, trying, ways
from hasten.story.stages.run import Limits, Run, Settings
from hasten.story.stages.trials import SEARCH_IMAGES

RESULT = Path(__file__).parent / "results" / "search_cost.json"
STEPS = (6, 7, 8, 9, 10)
BUDGETS = (0.01, 0.02, 0.03, 0.05)
SEEDS = (0, 1, 2)


class Measured:
    """Points measured once and for all, and what asking for them would have cost."""

    def __init__(self, bench: trials.Bench) -> None:
        self.bench = bench
        self.known: dict[str, dict[str, Any]] = {}
        self.cost, self.steps = 0, 0
        self.made: dict[str, int] = {}

    def __call__(self, asked: Point) -> dict[str, Any]:
        if key(asked) not in self.known:
            self.known[key(asked)] = self.bench.evaluate(asked)
        sampler = key({**asked, "images": 0})
        images = asked["images"] or SEARCH_IMAGES
        if asked["steps"] != self.steps:  # as the bench, which keeps the samples of one number of evaluations
            self.made, self.steps = {}, asked["steps"]
        self.cost += max(images - self.made.get(sampler, 0), 0) * asked["steps"]
        self.made[sampler] = max(images, self.made.get(sampler, 0))
        return self.known[key(asked)]


def prepared(out: Path, seed: int) -> tuple[Space, Measured]:
    """The space with measured costs, and where its points are judged: as in `hasten optimize`."""
    source, data = sources.load(bundled.folder()), emoji.load(32)
    settings = Settings(1e6, seed=seed)
    run = Run(source, data, out, Limits(), settings, lambda *said: print(*said[:2], flush=True), lambda: False)
    target = source.build()
    rows = trying.profile_network(run, target)
    tried = trying.try_ways(run, propose.ways(target.facts, rows, 0.0)[0])
    kept = keeping.keep(tried, run)
    bench = trials.Bench(run, kept, tried, reference.read(run, target, tried))
    space = propose.space(target.facts, trials.costs(kept, run.limits.goal), ways.closest(kept).hash)
    return replace(space, steps=STEPS), Measured(bench)


def compared(space: Space, measured: Measured, out: Path, budget: float) -> dict[str, Any]:
    """The search at one budget against all points."""
    cells = [point(c.way, table, n, ALL) for c in space.costs for table in space.tables for n in space.steps]
    everything = [Trial(each, measured(each)) for each in cells]
    whole = sum(SEARCH_IMAGES * each["steps"] for each in cells)
    least = factorised.best(space, everything, budget)
    measured.made, measured.cost = {}, 0
    decided: list[tuple[int, float | None]] = []

    def stop(done: list[Trial]) -> bool:
        found = factorised.best(space, done, budget)
        decided.append(
            (measured.cost, space.cost(found[0].point["way"], found[0].point["steps"])[1] if found else None)
        )
        return measured.cost > 0.1 * whole

    history = out / f"{budget}.jsonl"
    history.unlink(missing_ok=True)
    done = search(space, measured, history, stop, budget)
    found = factorised.best(space, done, budget)
    seconds = [space.cost(t[0].point["way"], t[0].point["steps"])[1] if t else None for t in (least, found)]
    ratio = None if None in seconds else seconds[1] / seconds[0]  # type: ignore[operator]
    first = next((cost for cost, value in decided if ratio is not None and value == seconds[1]), None)
    return {
        "budget": budget,
        "points": len(cells),
        "within_budget": len([t for t in everything if t.within(budget)]),
        "exhaustive_cost": whole,
        "search_cost": measured.cost,
        "share_of_cost": measured.cost / whole,
        "share_when_found": None if first is None else first / whole,
        "times_the_least_seconds": ratio,
        "best": None if not least else least[0].point,
        "found": None if not found else found[0].point,
        "rank_correlation": factorised.rank_correlation(done),
    }


def main() -> None:
    """All budgets and seeds, with all ways and with the slowest alone."""
    rows, costs = [], []
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as folder:
            space, measured = prepared(Path(folder), seed)
            slowest = replace(space, costs=space.costs[-1:], ranked_on=space.costs[-1].way)
            costs.append([vars(cost) | {"label": measured.bench.ways[cost.way].label} for cost in space.costs])
            for searched, budget in product((space, slowest), BUDGETS):
                rows.append({"seed": seed} | compared(searched, measured, Path(folder), budget))
                print(json.dumps(rows[-1]), flush=True)
                result = {"rows": rows, "costs": costs, "steps": STEPS, "environment": environment()}
                write_text(RESULT, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
