"""The baseline against itself: how often the interval holds 1, and how far the median ratio is from it.

    python benchmarks/aa.py [MODEL_FOLDER] [--runs 20] [--images 1] [--rounds 15]

Prints a Markdown table and writes benchmarks/results/aa.json.  Run nothing else meanwhile.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from hasten.environment import environment
from hasten.files import write_text
from hasten.measure.pair import Rounds, noise_floor
from hasten.model import bundled, source
from hasten.model.workload import draw

RESULTS = Path(__file__).parent / "results" / "aa.json"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", nargs="?", default=bundled.folder(), type=Path)
    arguments.add_argument("--runs", default=20, type=int)
    arguments.add_argument("--images", default=1, type=int, help="images per case")
    arguments.add_argument("--rounds", default=15, type=int)
    options = arguments.parse_args()
    loaded = source.load(options.folder)
    runs = []
    print("| run | median ratio | 95 % interval | rounds | holds 1 | verdict |\n| --- | --- | --- | --- | --- | --- |")
    for run in range(options.runs):
        workload = draw(loaded.shape, options.rounds, options.images, seed=500 + run, labels=loaded.labels)
        found = noise_floor(loaded.build, workload, Rounds(options.rounds, seed=run))
        assert found.interval is not None, found.reason
        ratio, low, high = found.interval.ratio, found.interval.low, found.interval.high
        runs.append({"ratio": ratio, "low": low, "high": high, "verdict": str(found.verdict), "reason": found.reason})
        holds = "yes" if low <= 1 <= high else "no"
        print(
            f"| {run} | {ratio:.4f} | {low:.4f} to {high:.4f} | {options.rounds} | {holds} | {found.verdict} |",
            flush=True,
        )
    held = sum(row["low"] <= 1 <= row["high"] for row in runs)
    worst = max(abs(row["ratio"] - 1) for row in runs)
    print(f"\nThe interval held 1 in {held} of {len(runs)} runs; the median ratio was off by at most {worst:.2%}.")
    settings = {"images_per_case": options.images, "rounds": options.rounds}
    write_text(RESULTS, json.dumps({**settings, "runs": runs, "environment": environment()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
