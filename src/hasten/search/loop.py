"""The search loop: what ``ask`` says, until nothing is undecided or the time is up; each trial is one line on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hasten.errors import BadInput
from hasten.files import text_lines, write_text
from hasten.search.factorised import Trial, ask
from hasten.search.space import Point, Space

POINT: dict[str, type] = {"way": str, "solver": str, "grid": str, "steps": int, "images": int}
FIGURES = ("worst", "loss", "drift_db", "evaluations")
LARGEST = 1 << 53
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
    rows = []
    lines = list(text_lines(history))
    for number, line in enumerate(lines, 1):
        try:
            rows.append(_row(json.loads(line)))
        except (ValueError, RecursionError) as error:
            if number < len(lines):
                where = f"{history}, line {number}"
                raise BadInput(
                    f"{where}: no trial ({_first(error)}); delete the line or choose another folder"
                ) from error
    return rows


def _row(value: Any) -> dict[str, Any]:
    """``value``, where it is a trial.  Raises ValueError."""
    if not isinstance(value, dict) or set(value) != {"point", "measured"}:
        raise ValueError("point and measured are needed")
    known, measured = value["point"], value["measured"]
    if not isinstance(known, dict) or {name: type(known.get(name)) for name in POINT} != POINT:
        raise ValueError("a point has a way, a solver, a grid, steps and images")
    if not isinstance(measured, dict):
        raise ValueError("measured is no object")
    if measured.get("worst") is not None and measured.get("drift_db") is None:
        raise ValueError("drift_db is missing")
    for name in FIGURES:
        figure = measured.get(name)
        number = isinstance(figure, float) or (type(figure) is int and abs(figure) < LARGEST)
        if figure is not None and (not number or figure != figure):
            raise ValueError(f"{name} is no number")
    return value


def _first(error: BaseException) -> str:
    return str(error).partition("\n")[0][:80]
