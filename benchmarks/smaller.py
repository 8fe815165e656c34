"""The bundled model at half its channels: a student distilled, compared with its teacher, and put under the search.

    python benchmarks/smaller.py            # half an hour, about; nothing else should run after the first 15 minutes

Three commands, which print as they go: `hasten distill` (one thread, 15 minutes, the teacher's answers to 200 batches
kept), `hasten compare` (PyTorch as it comes) and `hasten optimize --student`.  What runs/smaller/ holds is not made
again.  Their figures, and the FLOPs of the student's training over the teacher's, go to
benchmarks/results/smaller.json.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import torch

from hasten.environment import environment
from hasten.files import write_text
from hasten.measure.work import Counter
from hasten.model import bundled
from hasten.model import source as sources
from hasten.model.source import Source

RESULT = Path(__file__).parent / "results" / "smaller.json"
ROOT = Path(__file__).parent.parent.resolve()
OUT = ROOT / "runs" / "smaller"
TEACHER, STUDENT = bundled.folder(), OUT / "student" / "model"
TIMES_FORWARD = 3  # a training step's FLOPs: the forward pass, and twice that backward
COMMANDS: dict[Path, list[str | Path]] = {
    STUDENT: ["distill", TEACHER, "--student", "channels=0.5", "--data", "emoji", "--time", "15m", "--cached", "200",
              "--out", OUT / "student"],
    OUT / "compare.json": ["compare", TEACHER, STUDENT, "--data", "emoji", "--batches", "", "--gate",
                           "speed>=1.8,quality<=10%", "--out", OUT / "compare.json"],
    OUT / "stack" / "result.json": ["optimize", TEACHER, "--student", STUDENT, "--data", "emoji", "--budget",
                                    "quality=10%", "--out", OUT / "stack"],
}  # fmt: skip


def flops(loaded: Source) -> float:
    """Of one evaluation for one image."""
    labels = None if loaded.num_labels is None else torch.zeros(1, dtype=torch.int64)
    with Counter() as counter, torch.inference_mode():
        loaded.call(loaded.module(), torch.zeros((1, *loaded.shape)), torch.full((1,), 0.5), labels)
    return counter.total.flops


def parameters(loaded: Source) -> int:
    """Of the network."""
    return sum(each.numel() for each in loaded.module().parameters())


def main() -> None:
    """Run what is missing, then gather."""
    for made, arguments in COMMANDS.items():
        if not made.exists():
            threads = {"OMP_NUM_THREADS": "1"} if arguments[0] == "distill" else {}
            argv = [sys.executable, "-m", "hasten", *map(str, arguments)]
            subprocess.run(argv, env={**os.environ, **threads}, check=True)
    teacher, student = sources.load(TEACHER), sources.load(STUDENT)
    recipe = tomllib.loads((OUT / "student" / "recipe.toml").read_text(encoding="utf-8"))
    taught = tomllib.loads((TEACHER / "recipe.toml").read_text(encoding="utf-8"))["train"]
    steps, cached = recipe["train"]["steps"], recipe["teacher"]["cached"]
    spent = TIMES_FORWARD * steps * flops(student) + cached * flops(teacher)  # of as many images a step in both
    compared = json.loads((OUT / "compare.json").read_text(encoding="utf-8"))
    stack = json.loads((OUT / "stack" / "result.json").read_text(encoding="utf-8"))
    result: dict[str, Any] = {
        "steps": steps,
        "share_of_weights": parameters(student) / parameters(teacher),
        "share_of_flops": flops(student) / flops(teacher),
        "share_of_training_flops": spent / (TIMES_FORWARD * taught["steps"] * flops(teacher)),
        "compare": {key: compared[key] for key in ("a", "b", "speedup", "quality", "gate")},
        "stack": {key: stack[key] for key in ("baseline", "candidate", "speedup", "quality", "attribution")},
        "environment": environment(),
    }
    write_text(RESULT, json.dumps(result, indent=1).replace(f"{ROOT}/", "") + "\n")
    print(json.dumps({key: value for key, value in result.items() if key.startswith("share") or key == "steps"}))


if __name__ == "__main__":
    main()
