"""Wall-clock to the same held-out distance on emoji at 32x32: hasten's recipe against the plain loop of diffusers.

    python benchmarks/time_to_distance.py plain 1500 PLAIN      # its averages every 100 steps into PLAIN
    hasten train recipes/emoji32.toml --out RUN                 # ours: its averages are in RUN's checkpoints
    python benchmarks/time_to_distance.py table PLAIN RUN       # the distances of all of them, and the ratio of steps

Same network, data, batch and machine.  The distance is that of :mod:`hasten.measure.quality`: 512 samples of the
averaged weights (UniPC, 20 evaluations, one noise for all) to the training data, in the bundled model's features.  Time
is steps times the seconds of a step of each side, which benchmarks/train_speed.py measures in pairs.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from plain_loop import PlainLoop
from safetensors.torch import load_file, save_file

from hasten.data import emoji
from hasten.data.array import Data
from hasten.diffusion import schedule, solvers
from hasten.diffusion.schedule import Schedule
from hasten.environment import environment
from hasten.files import replacing, write_text
from hasten.measure import distance, quality
from hasten.model import bundled
from hasten.model import source as sources
from hasten.model.folder import unet
from hasten.model.source import Source
from hasten.model.workload import draw

EVERY, BATCH, SAMPLES, EVALUATIONS = 100, 64, 512, 20
RESULT = Path(__file__).parent / "results" / "time_to_distance.json"


def network(data: Data) -> torch.nn.Module:
    """The bundled architecture, fresh."""
    torch.manual_seed(0)
    return unet(data.shape, len(data.label_names) + 1, [32, 96, 144], 1, [2], 48, 8)


def plain(steps: int, out: Path, learning_rate: float) -> None:
    """Train the plain loop, keeping its averages."""
    data = emoji.load(32)
    pictures, labels = (torch.from_numpy(part) for part in data.part(held_out=False))
    trained = network(data)
    loop = PlainLoop(trained, pictures, labels, BATCH, steps, learning_rate=learning_rate)
    names = [name for name, _ in trained.named_parameters()]
    out.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    for step in range(1, steps + 1):
        loss = loop.step()
        if step % 10 == 0:
            print(step, f"{loss:.4f}", f"{time.perf_counter() - began:.0f} s", flush=True)
        if step % EVERY == 0:
            kept = dict(zip(names, (value.clone() for value in loop.average.shadow_params), strict=True))
            with replacing(out / f"average-{step:07d}.safetensors") as temporary:
                save_file(kept, temporary)


def weights(path: Path) -> dict[str, torch.Tensor]:
    """Averaged weights: of the plain loop, or in a checkpoint of ours."""
    found = load_file(path)
    ours = {name.removeprefix("average."): value for name, value in found.items() if name.startswith("average.")}
    return ours or found


def source_of(data: Data, values: dict[str, torch.Tensor], kind: Schedule, prediction: Any) -> Source:
    """The network with these weights."""
    module = network(data)
    module.load_state_dict(values)
    count = len(data.label_names)
    return sources.load(
        module, schedule=kind, prediction=prediction, shape=data.shape, num_labels=count + 1, null_label=count,
        call=sources.call_unet,
    )  # fmt: skip


def table(plain_folder: Path, run: Path) -> None:
    """Distances of all averages, written to RESULT."""
    data = emoji.load(32)
    judge = sources.load(bundled.folder()).build()
    reference = quality.reference(judge, data.part(False)[0], real=data.part(True)[0])
    workload = draw(data.shape, SAMPLES // BATCH, BATCH, 77, data.labels)
    rows = []
    for side, paths, kind, prediction in (
        ("plain", sorted(plain_folder.glob("average-*.safetensors")), schedule.linear(), "epsilon"),
        ("hasten", sorted(run.glob("checkpoint-*.safetensors")), schedule.cosine(), "v_prediction"),
    ):
        for path in paths:
            target = source_of(data, weights(path), kind, prediction).build()
            target.table = solvers.sampler(target.schedule, "unipc", "logsnr", EVALUATIONS)
            view = reference.view(torch.cat([target.sample(case) for case in workload.cases]))
            found = distance.nearest(distance.distances(view.features[0], reference.own.features[0]))[0]
            bands = [distance.distances(a, b) for a, b in zip(view.bands, reference.own.bands, strict=True)]
            second = distance.nearest(np.mean(bands, axis=0))[0]
            step = int(path.stem.rpartition("-")[2])
            rows.append({"side": side, "step": step, "distance": found, "second_opinion": second})
            print(rows[-1], flush=True)
    ours = [row for row in rows if row["side"] == "hasten"]
    for row in ours:
        better = [each["step"] for each in rows if each["side"] == "plain" and each["distance"] <= row["distance"]]
        row["plain_steps"] = min(better) if better else None
        last = max((each["step"] for each in rows if each["side"] == "plain"), default=0)
        row["steps_ratio_at_least"] = (row["plain_steps"] or last) / row["step"]
    result = {"rows": rows, "samples": SAMPLES, "evaluations": EVALUATIONS, "environment": environment()}
    write_text(RESULT, json.dumps(result, indent=1) + "\n")
    print(json.dumps(ours, indent=1))


if __name__ == "__main__":
    if sys.argv[1] == "plain":
        plain(int(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4]) if len(sys.argv) > 4 else 1e-4)
    else:
        table(Path(sys.argv[2]), Path(sys.argv[3]))
