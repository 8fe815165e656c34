"""Puts the summary of the last demo and the table of opponents into the README, between their markers.

    make demo && python benchmarks/readme.py
    make bench

The last demo's result.json is kept as benchmarks/results/demo.json, so that the README's figures have their raw data.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from opponents import table

from hasten.console import summary
from hasten.files import write_text

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
DEMO = ROOT / "runs" / "demo"


def filled(text: str, name: str, block: str) -> str:
    """``text`` with ``block`` between its markers ``name``.  Raises SystemExit where they are not there once."""
    marked = f"<!-- {name} -->\n{block}\n<!-- /{name} -->"
    text, count = re.subn(rf"<!-- {name} -->.*?<!-- /{name} -->", lambda _: marked, text, flags=re.DOTALL)
    if count != 1:
        raise SystemExit(f"README.md has {count} blocks <!-- {name} -->, one is needed")
    return text


def demo() -> str:
    """The summary of the last demo, whose result is kept."""
    result = json.loads((DEMO / "result.json").read_text(encoding="utf-8"))
    result["source"]["folder"] = Path(result["source"]["folder"]).name
    write_text(RESULTS / "demo.json", json.dumps(result, indent=1) + "\n")
    return f"```\n$ make demo\n{summary(result, Path('runs/demo'))}\n```"


def main() -> None:
    readme = ROOT / "README.md"
    text = readme.read_text("utf-8")
    if (DEMO / "result.json").exists():
        text = filled(text, "demo", demo())
    if (RESULTS / "opponents.json").exists():
        text = filled(text, "bench", table(json.loads((RESULTS / "opponents.json").read_text(encoding="utf-8"))))
    write_text(readme, text)


if __name__ == "__main__":
    main()
