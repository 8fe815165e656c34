"""Does the quality gate rank planted damage rightly, and how small a loss would it have seen?

    python benchmarks/planted_damage.py [MODEL_FOLDER] [--pairs 240]

The bundled model samples by DDIM-50; its samples are then damaged in known steps, each family on its own, and each set
is compared with the undamaged one by ``hasten.measure.quality``.  Prints a Markdown table, writes the raw figures to
benchmarks/results/planted_damage.json, and exits with 1 when more noise, fewer steps or coarser weights are ranked
wrongly by the worse of the two opinions, which is what the gate looks at.  Sampling runs on OpenVINO float32, which
differs from PyTorch by rounding.  A few minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from hasten.data import emoji
from hasten.environment import environment
from hasten.files import write_text
from hasten.measure import quality
from hasten.model import bundled, source
from hasten.model.source import Source
from hasten.model.target import TorchNetwork
from hasten.model.workload import Workload, draw
from hasten.runtime import openvino
from hasten.technique.plan import Plan, build
from hasten.technique.runtime import Runtime
from hasten.technique.sampler import Sampler

RESULTS = Path(__file__).parent / "results" / "planted_damage.json"
BATCH, SEED = 16, 77
MUST_RANK = ("noise added", "DDIM steps", "weights in bits")


def coarse(bits: int, module: torch.nn.Module) -> torch.nn.Module:
    """Every weight rounded to ``bits`` bits, symmetric, a scale an output channel."""
    for layer in module.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            weight = layer.weight.data
            largest = weight.flatten(1).abs().amax(1).clamp_min(1e-9) / (2 ** (bits - 1) - 1)
            scale = largest.reshape(-1, *[1] * (weight.dim() - 1))
            layer.weight.data = torch.round(weight / scale) * scale
    return module


def sampled(loaded: Source, workload: Workload, sampler: Sampler, bits: int | None = None) -> torch.Tensor:
    """All cases by ``sampler``, on weights of ``bits`` bits."""
    target = build(loaded, Plan((Runtime("float32", 2), sampler)))
    if bits is not None:
        module = coarse(bits, loaded.module())
        network = TorchNetwork(module, loaded.call)
        graph = openvino.convert(network.module, network.call, loaded.shape, loaded.num_labels is not None)
        target.network = openvino.Network(graph, "float32", 2)
    return torch.cat([target.sample(case) for case in workload.cases])


def damaged(
    loaded: Source, workload: Workload, baseline: torch.Tensor, real: torch.Tensor
) -> Iterator[tuple[str, str, torch.Tensor]]:
    """Family, how much, and the damaged samples."""
    noise = torch.randn(baseline.shape, generator=torch.Generator().manual_seed(SEED))
    for scale in (0.01, 0.02, 0.05, 0.1, 0.2):
        yield "noise added", f"{scale:g}", baseline + scale * noise
    for steps in (25, 15, 10, 7, 5):
        yield "DDIM steps", str(steps), sampled(loaded, workload, Sampler("ddim", steps, "uniform"))
    for bits in (8, 6, 5, 4, 3):
        yield "weights in bits", str(bits), sampled(loaded, workload, Sampler("ddim", 50, "uniform"), bits)
    blurred = torch.nn.functional.avg_pool2d(baseline, 3, stride=1, padding=1, count_include_pad=False)
    for share in (0.1, 0.3, 1.0):
        yield "blur", f"{share:.0%}", (1 - share) * baseline + share * blurred
    labels = torch.cat([case.labels for case in workload.cases if case.labels is not None])
    kept = (labels != labels.mode().values).nonzero()[:, 0]
    yield "a class dropped", "the largest", baseline[kept[torch.arange(len(baseline)) % len(kept)]]
    for count in (64, 8):
        yield "mode collapse", f"{count} samples repeated", baseline[torch.arange(len(baseline)) % count]
    drawn = torch.randperm(len(real), generator=torch.Generator().manual_seed(SEED))[: len(baseline)]
    yield "copies", "of training pictures", real[drawn]


def ranked_wrongly(rows: list[dict[str, Any]]) -> list[str]:
    """Families whose losses do not rise with the damage: by each opinion and by the worse of both, as the gate does."""
    wrong = []
    for family in MUST_RANK:
        own = [(row["loss"], row["second_opinion"]["loss"]) for row in rows if row["family"] == family]
        opinions = {"features": [a for a, _ in own], "samples": [b for _, b in own], "the worse": [max(r) for r in own]}
        wrong += [f"{family} by {name}" for name, losses in opinions.items() if losses != sorted(losses)]
    return wrong


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", nargs="?", default=bundled.folder(), type=Path)
    arguments.add_argument("--pairs", default=240, type=int)
    options = arguments.parse_args()
    loaded = source.load(options.folder)
    data = emoji.load(loaded.shape[-1])
    real, labels = data.part(held_out=False)
    reference = quality.reference(loaded.build(), real, origin=data.name, real=data.part(held_out=True)[0])
    workload = draw(loaded.shape, -(-options.pairs // BATCH), BATCH, SEED, labels)
    baseline = sampled(loaded, workload, Sampler("ddim", 50, "uniform"))
    before = reference.view(baseline)
    rows = []
    print("| damage | | loss (features) | 90 % interval | would have seen | loss (samples) | drift | verdict |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for family, amount, samples in damaged(loaded, workload, baseline, torch.from_numpy(real)):
        found = quality.compare(reference, before, reference.view(samples))
        rows.append({"family": family, "amount": amount, **found.to_json()})
        print(
            f"| {family} | {amount} | {found.loss:+.2%} | {found.loss_low:+.2%} to {found.loss_high:+.2%} "
            f"| {found.detectable:.2%} | {found.second_opinion.loss:+.2%} | {found.drift_db:.1f} dB "
            f"| {found.verdict} |",
            flush=True,
        )
    wrong = ranked_wrongly(rows)
    real_at = f"{rows[0]['real_distance']:.4f}" if rows[0]["real_distance"] is not None else "not measured"
    print(
        f"\nThe baseline's distance is {rows[0]['baseline_distance']:.4f}, that of as many held-out pictures {real_at}."
    )
    print(f"Ranked wrongly: {', '.join(wrong) or 'nothing'}.")
    write_text(
        RESULTS, json.dumps({"rows": rows, "ranked_wrongly": wrong, "environment": environment()}, indent=1) + "\n"
    )
    return 1 if any("the worse" in name for name in wrong) else 0


if __name__ == "__main__":
    sys.exit(main())
