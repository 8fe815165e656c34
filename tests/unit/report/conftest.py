"""A result folder of the form that optimize writes, made without running a model."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PLAN = [
    {"technique": "sampler", "solver": "unipc", "steps": 8, "grid": "logsnr"},
    {"technique": "runtime", "engine": "openvino", "precision": "float32"},
    {"technique": "quantize", "weights": "int8", "activations": "int8", "cases": 64},
]
LABEL = ["UniPC 8 steps", "OpenVINO", "int8"]


def result() -> dict[str, Any]:
    """result.json of a run that went well."""
    return {
        "version": 1,
        "command": "hasten demo",
        "replay": "hasten apply runs/a/plan.toml emoji32 --out runs/a-faster",
        "seed": 0,
        "created": "2026-11-23T15:00:00Z",
        "seconds": 271.0,
        "source": {
            "name": "emoji32",
            "folder": "hasten/model/emoji32",
            "weight_hash": "9f2c" * 16,
            "parameters": 3.77e6,
            "shape": [3, 32, 32],
            "attribution": "Emoji drawings: OpenMoji, the open-source emoji and icon project (openmoji.org), "
            "CC BY-SA 4.0; pictures made from them are shared under the same licence.",
            "guidance": 1.0,
        },
        "data": {"name": "emoji", "samples": 4495, "reference": 1024},
        "baseline": {
            "plan": [],
            "label": ["DDIM 50 steps", "PyTorch eager", "float32"],
            "plan_hash": "00aa" * 16,
            "seconds_per_image": 0.4103,
            "peak_bytes": 812e6,
            "weight_bytes": 15.1e6,
            "evaluations": 50,
        },
        "candidate": {
            "plan": PLAN,
            "label": LABEL,
            "plan_hash": "c0de" * 16,
            "seconds_per_image": 0.02093,
            "peak_bytes": 4.2e8,
            "weight_bytes": 3.9e6,
            "evaluations": 8,
        },
        "speedup": {
            "ratio": 19.6,
            "low": 19.1,
            "high": 20.2,
            "rounds": 15,
            "verdict": "FASTER",
            "noise_floor": {"ratio": 1.001, "low": 0.991, "high": 1.012, "rounds": 9},
            "reason": "",
        },
        "break_even": {"preparation_seconds": 41.0, "images": 105},
        "quality": {
            "baseline_distance": 0.0312,
            "candidate_distance": 0.0309,
            "noise_floor": 0.0011,
            "loss": -0.010,
            "loss_low": -0.030,
            "loss_high": 0.012,
            "detectable": 0.031,
            "drift_db": 31.2,
            "drift_db_converged": {"baseline": 28.0, "candidate": 33.0},
            "second_opinion": {
                "name": "sliced",
                "baseline": 0.211,
                "candidate": 0.212,
                "loss": 0.004,
                "low": -0.02,
                "high": 0.027,
            },
            "pairs": 240,
            "reference": 1024,
            "features": "mid_block at s=0.05",
            "verdict": "no measurable loss",
            "budget": 0.02,
        },
        "attribution": [
            _part("sampler", "UniPC 8 steps", 6.1, 6.0, 6.3, "SLOWER"),
            _part("runtime", "OpenVINO float32, static shapes", 1.92, 1.87, 1.98, "SLOWER"),
            _part("quantize", "int8, calibrated on 64 states of all timesteps", 1.58, 1.52, 1.63, "SLOWER"),
        ],
        "candidates": candidates(),
        "refused": [
            {"technique": "compile", "label": "inductor", "reason": "slower than OpenVINO here (0.71x)"},
            {"technique": "precision", "label": "bfloat16", "reason": "this processor has no bfloat16 units"},
            {"technique": "layout", "label": None, "reason": "OpenVINO chooses its own layout"},
        ],
        "proposed": [
            {"label": "UniPC 8 steps", "reason": "50 evaluations where 8 of a multistep solver converge: up to 6.2x"},
            {"label": "int8", "reason": "61 % of the time is in convolutions; the processor has VNNI: up to 3.9x"},
        ],
        "profile": {
            "baseline": {
                "seconds_per_image": 0.41,
                "rows": [
                    _row("Conv2d 3x3", 1150, 0.251, 0.612, 0.121),
                    _row("GroupNorm", 1100, 0.062, 0.151, 0.018),
                    _row("scaled_dot_product_attention", 250, 0.041, 0.1, 0.02),
                    _row("Linear", 900, 0.024, 0.058, 0.016),
                    _row("SiLU", 1050, 0.018, 0.044, 0.009),
                    _row("sampler arithmetic", 50, 0.014, 0.035, None),
                ],
            },
            "candidate": {
                "seconds_per_image": 0.0209,
                "rows": [
                    _row("Convolution int8 (brgconv_avx512_vnni)", 184, 0.0121, 0.58, 0.0071),
                    _row("GroupNormalization", 176, 0.0043, 0.206, 0.0029),
                    _row("ScaledDotProductAttention", 40, 0.0024, 0.115, 0.002),
                    _row("Reorder", 96, 0.0021, 0.1, None),
                ],
            },
        },
        "observations": observations(),
        "environment": {
            "cpu": "Intel(R) Xeon(R) Processor @ 2.70GHz",
            "cores": 2,
            "memory_bytes": 16.5e9,
            "gpu": None,
            "os": "Linux 6.1, glibc 2.36",
            "python": "3.11.7",
            "packages": {"hasten": "0.1.0", "torch": "2.13.0+cpu", "openvino": "2026.4.1", "nncf": "3.4.0"},
            "commit": "81700dd",
        },
        "interrupted": False,
        "warnings": ["The machine was busy in 2 of 15 rounds; they were kept."],
    }


def _row(name: str, calls: int, seconds: float, share: float, bound: float | None) -> dict[str, Any]:
    return {"name": name, "calls": calls, "seconds": seconds, "share": share, "bound_seconds": bound}


def _part(technique: str, label: str, ratio: float, low: float, high: float, verdict: str) -> dict[str, Any]:
    return {
        "technique": technique,
        "label": label,
        "removed": [technique],
        "ratio": ratio,
        "low": low,
        "high": high,
        "rounds": 9,
        "verdict": verdict,
    }


def candidates() -> list[dict[str, Any]]:
    """The chosen plan among others, one of which failed."""
    rng = np.random.default_rng(1)
    found = []
    engines = (("PyTorch eager", 1.0, 0.0), ("OpenVINO", 0.52, 0.001), ("OpenVINO, int8", 0.32, 0.004))
    for engine, factor, harm in engines:
        for solver, best in (("DDIM", 0.9), ("DPM-Solver++ 2M", 0.16), ("UniPC", 0.09)):
            for steps in (6, 8, 12, 20):
                name = f"{solver} {steps} steps"
                chosen = (solver, steps, engine) == ("UniPC", 8, "OpenVINO, int8")
                found.append(
                    {
                        "plan": PLAN if chosen else [{"technique": "sampler", "solver": name}, {"technique": engine}],
                        "label": [name, *engine.split(", ")],
                        "reason": "proposed: few evaluations of a multistep solver" if steps == 8 else "searched",
                        "seconds_per_image": round(0.0082 * steps * factor * float(rng.uniform(0.97, 1.03)), 5),
                        "loss": round(-0.012 + 4 * best / steps**2 + harm + float(rng.normal(0, 0.003)), 4),
                        "drift_db": round(22 + 10 * np.log10(steps / best) / 2, 2),
                        "evaluations": steps,
                        "ok": True,
                        "failure": None,
                    }
                )
    found.append(
        {
            "plan": [{"technique": "compile"}],
            "label": ["DDIM 50 steps", "inductor"],
            "reason": "searched",
            "seconds_per_image": None,
            "loss": None,
            "drift_db": None,
            "evaluations": 50,
            "ok": False,
            "failure": "no C++ compiler on this machine",
        }
    )
    return found


def observations(rounds: int = 15, cases: int = 2) -> list[dict[str, Any]]:
    """Rounds outermost; the baseline is timed twice in the first nine."""
    rng = np.random.default_rng(0)
    found = []
    for index in range(rounds):
        plans = ["baseline", "candidate", *(["baseline again"] if index < 9 else [])]
        for case in range(cases):
            for plan in rng.permutation(plans).tolist():
                seconds = (0.335 if plan == "candidate" else 6.56) * float(rng.lognormal(0, 0.015))
                found.append(
                    {"plan": plan, "case": case, "round": index, "seconds": seconds, "images": 16, "failure": None}
                )
    return found


def samples(count: int = 64, shape: tuple[int, ...] = (3, 32, 32)) -> dict[str, np.ndarray]:
    """Smooth blobs of any shape and slightly changed ones, in [-1, 1]."""
    rng = np.random.default_rng(2)
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape[1:]), indexing="ij") if len(shape) > 1 else []
    before = np.empty((count, *shape), np.float32)
    for index in range(count):
        if not axes:
            before[index] = np.sin(np.linspace(0, rng.uniform(4, 20), shape[0]))
            continue
        inside = sum((a - rng.uniform(-0.3, 0.3)) ** 2 for a in axes) < rng.uniform(0.15, 0.6)
        colours = rng.uniform(-1, 1, (shape[0], *(1 for _ in axes)))
        before[index] = np.where(inside, colours * np.cos(3 * axes[0]), 1.0)
    after = (before + rng.normal(0, 0.02, before.shape)).clip(-1, 1).astype(np.float32)
    return {"baseline": before, "candidate": after, "labels": np.arange(count) % 11}


GPU = {
    "name": "NVIDIA H200",
    "memory_bytes": 150_109_880_320,
    "capability": "9.0",
    "cuda": "13.0",
    "count": 2,
}


def profile() -> dict[str, Any]:
    """profile.json with every part in it."""
    kind = {"calls": 4, "seconds": 0.01, "share": 0.6, "flops": 2e9, "bytes": 1e7, "bound_seconds": 0.004}
    module = {"calls": 1, "inclusive_seconds": 0.02, "exclusive_seconds": 0.01, "flops": 2e9, "bytes": 1e7}
    operator = {"calls": 1, "inclusive_seconds": 0.02, "exclusive_seconds": 0.01, "flops": 1e9, "bytes": 1e7}
    function = {"place": "a.py:1", "calls": 3, "inclusive_seconds": 0.1, "exclusive_seconds": 0.05}
    return {
        "command": "hasten profile folder", "created": "2026-11-23T15:00:00Z", "subject": "emoji32",
        "label": "DDIM 50 steps", "train": False, "device": "cpu", "images": 16, "evaluations": 8, "parameters": 10,
        "environment": result()["environment"], "headline": "61 % of the time is in convolutions",
        "modules": {
            "rows": [
                {"name": "outside the network", "kind": "", "depth": 0, **module, "bound_seconds": 0.01},
                {"name": "conv_in", "kind": "Conv2d", "depth": 1, **module, "bound_seconds": None},
            ],
            "kinds": [{"name": "Conv2d 3x3", **kind}, {"name": "other", **kind, "bound_seconds": None}],
            "whole_seconds": 0.02, "residual_seconds": -0.001, "overhead": 1.03,
        },
        "engine": [{"name": "Convolution", "calls": 9, "seconds": 0.01, "share": 1.0}],
        "ops": {
            "rows": [{"name": "aten::conv2d", **operator, "bound_seconds": 0.004}], "plain_seconds": 0.02,
            "overhead": 1.2,
        },
        "steps": {
            "seconds": 0.1, "network_seconds": [0.03, 0.02, 0.02], "outside_seconds": 0.03, "plain_seconds": 0.1,
            "first_seconds": 0.03, "steady_seconds": 0.02, "overhead": 1.01, "cold_seconds": 0.2,
        },
        "phases": {"seconds": {"forward": 0.1, "backward": 0.2, "update": 0.1}, "whole_seconds": 0.4, "overhead": 1.0},
        "python": {
            "plain_seconds": 0.1, "functions": [{"name": "sample", **function}], "functions_overhead": 1.3,
            "lines": [{"function": "run", "place": "a.py:2", "code": "x = 1", "hits": 3, "seconds": 0.1}],
            "lines_overhead": 2.0,
        },
        "memory": {
            "peak_bytes": 3 * 2**20, "peak_seconds": 0.1, "peak_phase": "forward",
            "holders": [{"owner": "weights", "operator": "aten::empty", "bytes": 2**20}],
            "timeline": [[0.0, 1], [0.1, 3 * 2**20]], "phase_peaks": {"forward": 3 * 2**20},
            "resident_peak_bytes": 2**30, "allocator_peak_bytes": None, "overhead": 2.0,
        },
        "damage": {
            "levels": ["early", "late"], "least_db": 30.0,
            "rows": [{"name": "conv_in", "share": 0.1, "decibels": [20.0, 50.0], "kept": True}],
        },
        "notes": ["a note"], "seconds": 3.0,
    }  # fmt: skip


def build(folder: Path, arrays: dict[str, np.ndarray] | None = None, **changes: Any) -> Path:
    """Write result.json, with ``changes`` to its top level, and samples.npz (``arrays`` {}: none) into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps({**result(), **changes}), encoding="utf-8")
    arrays = samples() if arrays is None else arrays
    if arrays:
        np.savez(folder / "samples.npz", **arrays)
    return folder


@pytest.fixture(scope="session")
def example() -> Any:
    """This module: its builders, for fixtures of a wider scope."""
    return sys.modules[__name__]


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """``folder(arrays, **changes)`` builds a result folder in a fresh place."""
    return lambda arrays=None, **changes: build(tmp_path / "run", arrays, **changes)
