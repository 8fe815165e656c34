"""Does the quality gate rank planted damage rightly, and how small a loss would it have seen?

    python benchmarks/planted_damage.py [MODEL_FOLDER] [--pairs 512] [--samples runs/planted_damage]

The bundled model samples by DDIM-50; its samples are then damaged in known steps, each family on its own, and each set
is compared with the undamaged one by ``hasten.measure.quality``.  Prints a Markdown table, writes the raw figures to
benchmarks/results/planted_damage.json, and exits with 1 when more of a damage is ranked as less by the worst of the two
opinions and of the share of copies, which is what the search goes by, or when copies of training pictures aren't found.
Sampling runs on OpenVINO float32, which differs from PyTorch by rounding.  Half an hour on two cores; what was sampled
is kept in ``--samples``, so that a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from hasten.data import emoji
from hasten.environment import environment
from hasten.files import write_bytes, write_text
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
MUST_RANK = ("noise added", "DDIM steps", "weights in bits", "class dropped", "collapse to copies")


def coarse(bits: int, module: torch.nn.Module) -> torch.nn.Module:
    """Every weight rounded to ``bits`` bits, symmetric, a scale an output channel."""
    for layer in module.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            weight = layer.weight.data
            largest = weight.flatten(1).abs().amax(1).clamp_min(1e-9) / (2 ** (bits - 1) - 1)
            scale = largest.reshape(-1, *[1] * (weight.dim() - 1))
            layer.weight.data = torch.round(weight / scale) * scale
    return module


def sampled(loaded: Source, workload: Workload, kept: Path, sampler: Sampler, bits: int | None = None) -> torch.Tensor:
    """All cases by ``sampler``, on weights of ``bits`` bits; what ``kept`` holds of it is not made again."""
    path = kept / f"{loaded.weight_hash[:12]}-{len(workload.cases)}-{sampler.solver}-{sampler.steps}-{bits}.safetensors"
    if path.exists():
        return load_file(path)["samples"]
    target = build(loaded, Plan((Runtime("float32", 2), sampler)))
    if bits is not None:
        module = coarse(bits, loaded.module())
        network = TorchNetwork(module, loaded.call)
        graph = openvino.convert(network.module, network.call, loaded.shape, loaded.num_labels is not None)
        target.network = openvino.Network(lambda: graph, "float32", 2)
    made = torch.cat([target.sample(case) for case in workload.cases])
    write_bytes(path, save({"samples": made}))
    return made


def damaged(
    loaded: Source, workload: Workload, kept: Path, baseline: torch.Tensor, real: torch.Tensor
) -> Iterator[tuple[str, str, torch.Tensor]]:
    """Family, how much, and the damaged samples."""
    noise = torch.randn(baseline.shape, generator=torch.Generator().manual_seed(SEED))
    for scale in (0.01, 0.02, 0.05, 0.1, 0.2):
        yield "noise added", f"{scale:g}", baseline + scale * noise
    for steps in (25, 15, 10, 7, 5):
        yield "DDIM steps", str(steps), sampled(loaded, workload, kept, Sampler("ddim", steps, "uniform"))
    for bits in (8, 6, 5, 4, 3):
        yield "weights in bits", str(bits), sampled(loaded, workload, kept, Sampler("ddim", 50, "uniform"), bits)
    blurred = torch.nn.functional.avg_pool2d(baseline, 3, stride=1, padding=1, count_include_pad=False)
    for share in (0.1, 0.3, 1.0):
        yield "blur", f"{share:.0%}", (1 - share) * baseline + share * blurred
    labels = torch.cat([case.labels for case in workload.cases if case.labels is not None])
    places = torch.arange(len(baseline))
    rng = torch.Generator().manual_seed(SEED)
    largest, others = ((labels == labels.mode().values) == side for side in (True, False))
    for share in (0.5, 1.0):  # the dropped samples' places are taken by samples of other classes
        dropped = largest & (torch.rand(len(labels), generator=rng) < share)
        left = others.nonzero()[:, 0]
        yield (
            "class dropped",
            f"{share:.0%} of the largest",
            torch.where(dropped[:, None, None, None], baseline[left[places % len(left)]], baseline),
        )
    few = real[torch.randperm(len(real), generator=rng)[:8]]
    for share in (0.1, 0.3, 1.0):
        collapsed = torch.rand(len(labels), generator=rng) < share
        yield (
            "collapse to copies",
            f"{share:.0%} are 8 training pictures",
            torch.where(collapsed[:, None, None, None], few[places % len(few)], baseline),
        )
    for count in (64, 8):
        yield "mode collapse", f"{count} samples repeated", baseline[places % count]
    yield "copies", "of training pictures", real[torch.randperm(len(real), generator=rng)[: len(baseline)]]


def ranked_wrongly(rows: list[dict[str, Any]]) -> list[str]:
    """Families whose losses do not rise with the damage: by each opinion and by the worst, as the search scores."""
    wrong = []
    for family in MUST_RANK:
        own = [row for row in rows if row["family"] == family]
        opinions = {
            "features": [row["loss"] for row in own],
            "samples": [row["second_opinion"]["loss"] for row in own],
            "copies": [row["copies"]["candidate"] for row in own],
            "the worst": [row["worst"] for row in own],
        }
        wrong += [f"{family} by {name}" for name, losses in opinions.items() if losses != sorted(losses)]
    return wrong


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", nargs="?", default=bundled.folder(), type=Path)
    arguments.add_argument("--pairs", default=512, type=int)
    arguments.add_argument("--samples", default=Path("runs/planted_damage"), type=Path)
    options = arguments.parse_args()
    loaded = source.load(options.folder)
    data = emoji.load(loaded.shape[-1])
    real, labels = data.part(held_out=False)
    reference = quality.reference(loaded.build(), real, origin=data.name, real=data.part(held_out=True)[0])
    workload = draw(loaded.shape, -(-options.pairs // BATCH), BATCH, SEED, labels)
    baseline = sampled(loaded, workload, options.samples, Sampler("ddim", 50, "uniform"))
    before = reference.view(baseline)
    rows = []
    print(
        "| damage | | loss (features) | 90 % interval | would have seen | loss (samples) | copies | drift | verdict |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for family, amount, samples in damaged(loaded, workload, options.samples, baseline, torch.from_numpy(real)):
        found = quality.compare(reference, before, reference.view(samples))
        rows.append({"family": family, "amount": amount, "worst": found.worst, **found.to_json()})
        print(
            f"| {family} | {amount} | {found.loss:+.2%} | {found.loss_low:+.2%} to {found.loss_high:+.2%} "
            f"| {found.detectable:.2%} | {found.second_opinion.loss:+.2%} | {found.copies.candidate:.0%} "
            f"| {found.drift_db:.1f} dB | {found.verdict} |",
            flush=True,
        )
    wrong = ranked_wrongly(rows)
    remembered = [row for row in rows if row["family"] in ("collapse to copies", "copies")]
    wrong += [f"{row['family']} {row['amount']} not found" for row in remembered if not row["copies"]["more"]]
    real_at = f"{rows[0]['real_distance']:.4f}" if rows[0]["real_distance"] is not None else "not measured"
    print(
        f"\nThe baseline's distance is {rows[0]['baseline_distance']:.4f}, that of as many held-out pictures {real_at}."
    )
    print(f"Ranked wrongly: {', '.join(wrong) or 'nothing'}.")
    write_text(
        RESULTS, json.dumps({"rows": rows, "ranked_wrongly": wrong, "environment": environment()}, indent=1) + "\n"
    )
    return 1 if any("the worst" in name or "not found" in name for name in wrong) else 0


if __name__ == "__main__":
    sys.exit(main())
