"""Puts the summary of a finished demo into the README, between its markers.

    make demo && python benchmarks/readme.py

Also keeps the run's result.json as benchmarks/results/demo.json, so that the README's figures have their raw data.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from hasten.console import summary
from hasten.files import write_text

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "runs" / "demo"


def main() -> None:
    result = json.loads((DEMO / "result.json").read_text(encoding="utf-8"))
    result["source"]["folder"] = Path(result["source"]["folder"]).name
    readme = ROOT / "README.md"
    block = f"<!-- demo -->\n```\n$ make demo\n{summary(result, Path('runs/demo'))}\n```\n<!-- /demo -->"
    text, count = re.subn(
        r"<!-- demo -->.*?<!-- /demo -->", lambda _: block, readme.read_text("utf-8"), flags=re.DOTALL
    )
    if count != 1:
        raise SystemExit("README.md has no <!-- demo --> marker")
    write_text(readme, text)
    write_text(ROOT / "benchmarks" / "results" / "demo.json", json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
