"""Puts measured figures into the README, between its markers: a finished demo's summary, the table of opponents.

    make demo && python benchmarks/readme.py        (make bench fills in the table)

What was measured last holds: runs/demo/result.json, if there is one, becomes benchmarks/results/demo.json, so that the
README's figures have their raw data; benchmarks/results/opponents.json is what benchmarks/opponents.py wrote.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from hasten.console import summary
from hasten.files import write_text

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "runs" / "demo" / "result.json"
RESULTS = ROOT / "benchmarks" / "results"


def main() -> None:
    if DEMO.exists():
        result = json.loads(DEMO.read_text(encoding="utf-8"))
        result["source"]["folder"] = Path(result["source"]["folder"]).name
        write_text(RESULTS / "demo.json", json.dumps(result, indent=1) + "\n")
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    demo, opponents = (json.loads((RESULTS / f"{name}.json").read_text("utf-8")) for name in ("demo", "opponents"))
    text = filled(text, "demo", f"```\n$ make demo\n{summary(demo, Path('runs/demo'))}\n```")
    write_text(readme, filled(text, "bench", f"{caption(opponents)}\n\n{table(opponents)}"))


def filled(text: str, name: str, block: str) -> str:
    """``text`` with ``block`` between its markers of that name.  Ends the program when it has not just one such pair."""
    pattern = f"<!-- {name} -->.*?<!-- /{name} -->"
    made, count = re.subn(pattern, lambda _: f"<!-- {name} -->\n{block}\n<!-- /{name} -->", text, flags=re.DOTALL)
    if count != 1:
        raise SystemExit(f"README.md has {count} blocks <!-- {name} --> ... <!-- /{name} -->; it should have one")
    return made


def caption(result: dict[str, Any]) -> str:
    """What the table compares, and where it was measured."""
    env = result["environment"]
    return (
        "What a person could run instead, at its own defaults, on the same weights and the same noise: "
        f"{result['images_per_case']} images at once, {result['rounds']} rounds in turns on {env['cores']} cores "
        f"({env['cpu']}). Speed is against diffusers' own loop, the first row. Drift is from the model's converged "
        "samples (more is closer), because samplers choose their own times. Preparation is conversion, compilation and "
        "the first sample."
    )


def table(result: dict[str, Any]) -> str:
    """The rows of benchmarks/opponents.py in Markdown: the reference, then slowest first, then what failed."""
    lines = [
        "| | s/image | speed (95 % interval) | drift | preparation | peak memory |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    measured = [row for row in result["rows"] if "failure" not in row]
    for row in sorted(measured, key=lambda row: (row["speedup"] is not None, -row["seconds_per_image"])):
        found = row["speedup"]
        speed = "1" if found is None else f"{found['ratio']:.3g}x ({found['low']:.3g} to {found['high']:.3g})"
        if found is not None and found["verdict"] == "UNDECIDED":
            speed += ", undecided"
        lines.append(
            f"| {row['name']} | {row['seconds_per_image']:.3g} | {speed} | {row['drift_db']:.1f} dB | "
            f"{row['prepare_seconds']:.1f} s | {row['peak_bytes'] / 2**20:.0f} MiB |"
        )
    return "\n".join(
        lines + [f"| {row['name']} | {row['failure']} | | | | |" for row in result["rows"] if row not in measured]
    )


if __name__ == "__main__":
    main()
