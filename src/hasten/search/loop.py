"""The search loop: what was proposed, then what ``ask`` says, until the deadline; each trial is one line on disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hasten.errors import BadInput
from hasten.files import write_text
from hasten.search.bayes import Trial, ask
from hasten.search.space import Point, Space, key

Evaluate = Callable[[Point], dict[str, Any]]
Score = Callable[[dict[str, Any]], float | None]


def search(
    space: Space,
    proposed: Sequence[Point],
    evaluate: Evaluate,
    score: Score,
    history: Path,
    stop: Callable[[int], bool],
    seed: int,
) -> list[Trial]:
    """All trials, those already in ``history`` (JSON lines) included; KeyboardInterrupt ends it early, nothing lost.

    ``evaluate(point)`` measures; ``score`` turns what it measured into the value to minimise, None for a failure;
    ``stop(trials)``, told how many there are, says when to begin no more.
    """
    rows = read(history)
    write_text(history, "".join(json.dumps(row) + "\n" for row in rows))  # drops a line that a kill cut off
    trials = [Trial(row["point"], score(row["measured"]), row["measured"]) for row in rows]
    tried = {key(trial.point) for trial in trials}
    waiting = [point for point in proposed if space.holds(point) and key(point) not in tried]
    while not stop(len(trials)):
        point = waiting.pop(0) if waiting else ask(space, trials, seed)
        if point is None:
            break
        measured = evaluate(point)
        trials.append(Trial(point, score(measured), measured))
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
