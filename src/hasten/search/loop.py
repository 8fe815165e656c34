"""The search loop: what ``ask`` says, until nothing is undecided or the time is up; each trial is one line on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hasten.errors import BadInput
from hasten.files import write_text
from hasten.search.factorised import Trial, ask
from hasten.search.space import Point, Space

Evaluate = Callable[[Point], dict[str, Any]]


def search(
    space: Space, evaluate: Evaluate, history: Path, stop: Callable[[list[Trial]], bool], budget: float
) -> list[Trial]:
    """All trials, those already in ``history`` (JSON lines) included; stopped or killed, nothing measured is lost.

    ``evaluate(point)`` measures; ``stop(trials)`` says when to begin no more.
    """
    rows = read(history)
    write_text(history, "".join(json.dumps(row) + "\n" for row in rows))  # drops a line that a kill cut off
    trials = [Trial(row["point"], row["measured"]) for row in rows]
    while not stop(trials):
        point = ask(space, trials, budget)
        if point is None:
            break
        measured = evaluate(point)
        trials.append(Trial(point, measured))
        with history.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"point": point, "measured": measured}) + "\n")
    return trials


def read(history: Path) -> list[dict[str, Any]]:
    """The rows of a history file; a last line that a kill cut off is left out."""
    if not history.exists():
        return []
    rows = []
    lines = history.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise BadInput(f"{history}, line {number}: not JSON; delete the line or use another --out") from error
    return rows
