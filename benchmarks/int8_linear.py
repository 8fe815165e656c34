"""INT8 in the linear layers of a transformer against the other ways to run it, in pairs; on a CPU or a GPU.

    python benchmarks/int8_linear.py            # ten minutes, most of them compiling; a GPU is taken where there is one

The network is diffusers' `DiTTransformer2DModel` (Peebles and Xie 2023, arXiv:2212.09748) of the size DiT-S/2 with
random weights, on latents of 4x32x32, in batches of 8, DDIM of 4 steps.  So drift says how exactly its products are
computed, and nothing of pictures.  Ratios are against `torch.compile` in float32.  The result goes to
benchmarks/results/int8_linear.json.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import DiTTransformer2DModel

from hasten.diffusion import schedule
from hasten.environment import environment
from hasten.files import write_text
from hasten.measure import pair, quality
from hasten.model import source as sources
from hasten.model.workload import draw
from hasten.technique import plan as plans
from hasten.technique.compile import Compile
from hasten.technique.int8_linear import Int8Linear
from hasten.technique.plan import Plan
from hasten.technique.precision import Precision
from hasten.technique.quantize import Quantize
from hasten.technique.runtime import Runtime
from hasten.technique.sampler import Sampler

RESULT = Path(__file__).parent / "results" / "int8_linear.json"
SHAPE, BATCH, ROUNDS, REFERENCE = (4, 32, 32), 8, 15, "float32 + inductor"
PLANS = {
    REFERENCE: (Compile(),),
    "float32": (),
    "bf16": (Precision(),),
    "bf16 + inductor": (Precision(), Compile()),
    "int8 dynamic + inductor": (Int8Linear("dynamic"), Compile()),
    "int8 static + inductor": (Int8Linear("static"), Compile()),
    "bf16, int8 dynamic + inductor": (Precision(), Int8Linear("dynamic"), Compile()),
    "bf16, int8 static + inductor": (Precision(), Int8Linear("static"), Compile()),
    "OpenVINO float32": (Runtime("float32"),),
    "OpenVINO bf16": (Runtime("bfloat16"),),
    "OpenVINO float32 + int8": (Runtime("float32"), Quantize()),
    "OpenVINO bf16 + int8": (Runtime("bfloat16"), Quantize()),
}


def network() -> torch.nn.Module:
    """DiT-S/2: 12 blocks, 6 heads, 384 wide.  Its last layers start as zeros in training; here all is random."""
    torch.manual_seed(0)
    made = DiTTransformer2DModel(
        num_attention_heads=6, attention_head_dim=64, in_channels=4, out_channels=4, num_layers=12, sample_size=32,
        patch_size=2, num_embeds_ada_norm=10,
    )  # fmt: skip
    return made.eval()


def call(module: torch.nn.Module, x: torch.Tensor, time: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
    """How it is asked."""
    output: torch.Tensor = module(x, timestep=time, class_labels=labels, return_dict=False)[0]
    return output


def main() -> None:
    """All plans that this machine can take."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded = sources.load(
        network(), schedule=schedule.cosine(), prediction="v_prediction", shape=SHAPE, num_labels=10, call=call,
        device=device,
    )  # fmt: skip
    facts, sampler = loaded.build().facts, Sampler("ddim", 4, "uniform")
    wanted = {name: Plan((*techniques, sampler)) for name, techniques in PLANS.items()}
    refused = {name: reason for name, plan in wanted.items() if (reason := plan.refusal(facts)) is not None}
    builders = {name: partial(plans.build, loaded, plan) for name, plan in wanted.items() if name not in refused}
    workload = draw(SHAPE, 3, BATCH, 0, range(10))

    def told(done: int, rounds: int) -> None:
        print(f"round {done} of {rounds}", end="\r", flush=True)

    compared = pair.compare_many(builders, REFERENCE, workload, pair.Rounds(ROUNDS, on_round=told))
    exact = torch.cat(compared["float32"].samples_b)
    rows: dict[str, Any] = {}
    for name, found in compared.items():
        if found.interval is None:
            raise SystemExit(f"{name}: {found.reason}")
        speed, drift = found.interval.inverse(), quality.drift_db(exact, torch.cat(found.samples_b))
        rows[name] = {"speed": speed.ratio, "low": speed.low, "high": speed.high, "drift_db": drift}
        rows[name]["seconds_per_image"] = found.seconds_per_image(name)
        print(f"{name:32} {speed.ratio:.2f}x ({speed.low:.2f} to {speed.high:.2f}) {drift:.1f} dB")
    result = {"reference": REFERENCE, "rows": rows, "refused": refused, "environment": environment()}
    write_text(RESULT, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
