"""Does the quality gate rank planted damage rightly, and how many pairs does it need to see a loss of 5 %?

    python benchmarks/planted_damage.py [MODEL_FOLDER] [--pairs 512] [--out benchmarks/results]

The bundled model (or a folder of a model that makes pictures like the bundled data's) samples by DDIM-50; its samples
are then damaged in known steps, each family on its own, and every set is compared with the baseline by
``hasten.measure.quality``.  Prints Markdown tables, writes the raw figures to ``planted_damage.json`` and exits with 1
when noise, steps or weights are ranked wrongly.  Sampling runs on OpenVINO float32, which differs from PyTorch by
rounding.  About 15 minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hasten.data import emoji
from hasten.diffusion import solvers
from hasten.diffusion.table import Table
from hasten.environment import environment
from hasten.files import write_text
from hasten.measure import quality
from hasten.measure.quality import Quality, Reference, View
from hasten.model import bundled, source
from hasten.model.source import Source
from hasten.model.target import Network, Target
from hasten.model.workload import Workload, draw
from hasten.runtime import openvino
from hasten.technique.plan import Plan, build
from hasten.technique.quantize import Quantize
from hasten.technique.runtime import Runtime
from hasten.technique.sampler import Sampler

BATCH = 32
SEED = 7
NOISES = (0.02, 0.05, 0.1, 0.2)
STEPS = (25, 15, 10, 7, 5)
BITS = (8, 6, 5, 4, 3)
COPIES = (0.02, 0.05, 0.1, 0.25)
REALISTIC = (("dpmpp_2m", 8), ("dpmpp_2m", 10), ("dpmpp_2m", 12), ("unipc", 8), ("unipc", 10), ("dpmpp_3m", 10))
COUNTS = (64, 128, 256, 512)
MUST_RANK = ("more noise", "fewer steps", "coarser weights")


@dataclass(frozen=True)
class Damage:
    """One damaged set; those of a family come in the order of their damage."""

    family: str
    label: str
    samples: torch.Tensor


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, default=bundled.folder())
    parser.add_argument("--pairs", type=int, default=512, help="pairs of the power table; half of them for damage")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    began = time.perf_counter()
    model = source.load(options.model)
    data = emoji.load(model.shape[-1])
    real, labels = data.part(held_out=False)
    target = model.build()
    workload = draw(model.shape, -(-options.pairs // BATCH), BATCH, SEED, labels)
    asked = torch.cat([case.labels for case in workload.cases if case.labels is not None])[: options.pairs]
    engine = on_openvino(target)

    def sample(table: Table, network: Network = engine) -> torch.Tensor:
        made = Target(target.facts, network, target.schedule, target.prediction, table, target.sigma_data)
        return torch.cat([made.sample(case) for case in workload.cases])[: options.pairs]

    reference = quality.reference(target, real)
    baseline = sample(target.table)
    converged = sample(solvers.build("dpmpp_2m", target.schedule, "logsnr", 50))
    half = options.pairs // 2
    seen = reference.view(baseline)
    first = reference.view(baseline[:half])
    rows = []
    for damage in damages(model, target, sample, baseline, asked, half):
        found = quality.compare(reference, first, reference.view(damage.samples), converged=converged[:half])
        rows.append({"family": damage.family, "label": damage.label, **found.to_json()})
        print(f"# {damage.family}, {damage.label}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
    power = list(realistic(model, target, sample, reference, seen, converged, workload))
    wrong = [
        f"{family} by {opinion}"
        for family in MUST_RANK
        for opinion, values in ranked(rows, family).items()
        if not all(a < b for a, b in zip(values, values[1:], strict=False))
    ]
    print(table_of_damage(rows), table_of_power(power), sep="\n\n")
    print(f"\nranked wrongly: {', '.join(wrong) or 'nothing'}")
    result = {
        "model": model.name,
        "weight_hash": model.weight_hash,
        "seed": SEED,
        "damage": rows,
        "power": power,
        "ranked_wrongly": wrong,
        "seconds": time.perf_counter() - began,
        "environment": environment(),
    }
    write_text(options.out / "planted_damage.json", json.dumps(result, indent=1, default=str) + "\n")
    return 1 if wrong else 0
