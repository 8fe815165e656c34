"""Is a newly trained model nearer to held-out data than the one before?

    python benchmarks/retrained.py OLD NEW      # model folders; four minutes; results/retrained.json

Both sample the same 512 cases (UniPC, 20 evaluations, OpenVINO float32).  The distance is that of
:mod:`hasten.measure.quality` to the held-out drawings, once in the old network's features and once in the new one's,
since each may flatter its own, with the interval of its relative change; and copies of training drawings are counted.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from hasten.data import emoji
from hasten.environment import environment
from hasten.files import write_text
from hasten.measure import quality
from hasten.model import source as sources
from hasten.model.source import Source
from hasten.model.workload import draw
from hasten.technique import plan as plans
from hasten.technique.plan import Plan
from hasten.technique.runtime import Runtime
from hasten.technique.sampler import Sampler

RESULT = Path(__file__).parent / "results" / "retrained.json"
SAMPLES, BATCH, SEED = 512, 16, 99
PLAN = Plan((Runtime("float32", 2), Sampler("unipc", 20, "logsnr")))


def samples(source: Source) -> torch.Tensor:
    """Of all cases."""
    target = plans.build(source, PLAN)
    cases = draw(source.shape, SAMPLES // BATCH, BATCH, SEED, source.labels_of(emoji.load(32))).cases
    return torch.cat([target.sample(case) for case in cases])


def main(old: str, new: str) -> None:
    """Both judges, then the sentence."""
    data = emoji.load(32)
    sides = {"old": sources.load(old), "new": sources.load(new)}
    made = {name: samples(source) for name, source in sides.items()}
    rows: dict[str, Any] = {}
    for judge, source in sides.items():
        for part, held_out in (("held-out", True), ("training", False)):
            real = None if held_out else data.part(held_out=True)[0]
            reference = quality.reference(source.build(), data.part(held_out)[0], real=real)
            found = quality.compare(reference, reference.view(made["old"]), reference.view(made["new"]))
            rows[f"{judge} features, {part}"] = found.to_json()
            print(
                f"{judge} features, to {part} data: {found.baseline_distance:.4f} -> {found.candidate_distance:.4f} "
                f"({found.loss:+.1%}, {found.loss_low:+.1%} to {found.loss_high:+.1%}), by bands "
                f"{found.second_opinion.loss:+.1%}, copies {found.copies}",
                flush=True,
            )
    hashes = {name: source.weight_hash for name, source in sides.items()}
    result = {"weights": hashes, "samples": SAMPLES, "rows": rows, "environment": environment()}
    write_text(RESULT, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
