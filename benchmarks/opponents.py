"""hasten against what people run today, on the same weights and the same noise, through the same paired clock.

    make bench        (or: python benchmarks/opponents.py [--images 4] [--rounds 9] [--plan plan.toml])

Each opponent is run as its own documentation shows it, with its defaults:

* diffusers: the public sampling loop over ``UNet2DModel`` with the model's own ``DDIMScheduler`` at 50 steps, eager and
  by ``torch.compile``; and with ``DPMSolverMultistepScheduler`` at as many steps as hasten's winner takes.
  (``DDIMPipeline`` itself draws its own noise and knows no labels.)
* OpenVINO: ``ov.convert_model`` and ``compile_model`` with default settings under those two loops.
* ONNX Runtime: ``torch.onnx.export`` and the CPU provider with default settings, alike.
* azula: ``DDIMSampler`` at 50 steps around the same network.  Its times are uniform in t of the model's own schedule.
* hasten: the baseline, the winner's sampler on the fastest float engine, and the winner.

denoising-diffusion-pytorch is left out: it wants torchvision, which has no build for this torch on a CPU.

Samplers differ in their times, so drift is given from the model's own converged samples (UniPC, 100 steps): more is
closer.  Peak memory is that of a process of its own.  Writes benchmarks/results/opponents.json, which README's table
is made of (benchmarks/readme.py).  Run nothing else meanwhile; about ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UNet2DModel

from hasten import history
from hasten.environment import environment, quiet
from hasten.errors import HastenError
from hasten.files import write_text
from hasten.measure import pair, quality
from hasten.measure.memory import peak_bytes
from hasten.model import bundled, source
from hasten.model.source import Source
from hasten.model.workload import Case, draw
from hasten.technique import plan as plans
from hasten.technique.plan import Plan
from hasten.technique.runtime import Runtime
from hasten.technique.sampler import Sampler

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results" / "opponents.json"
STEPS = 50
SEED = 31
DRIFT_CASES = 4
REFERENCE = "diffusers, DDIM 50, eager"
Ask = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass
class Loop:
    """The sampling loop of diffusers' documentation around anything that answers like its network."""

    ask: Ask
    scheduler: Any
    steps: int

    @torch.inference_mode()
    def sample(self, case: Case) -> torch.Tensor:
        """Samples (n, *shape) float32 from the case's noise."""
        self.scheduler.set_timesteps(self.steps)
        x = case.noise * self.scheduler.init_noise_sigma
        for t in self.scheduler.timesteps:
            scaled = self.scheduler.scale_model_input(x, t)
            x = self.scheduler.step(self.ask(scaled, t.expand(len(x)), case.labels), t, x).prev_sample
        return x


def network(loaded: Source) -> UNet2DModel:
    """As ``UNet2DModel.from_pretrained`` gives it."""
    assert loaded.folder is not None
    folder = loaded.folder / "unet" if (loaded.folder / "unet").is_dir() else loaded.folder
    made: UNet2DModel = UNet2DModel.from_pretrained(
        folder, use_safetensors=True, torch_dtype=torch.float32, low_cpu_mem_usage=False
    ).eval()
    return made


def schedulers(loaded: Source, steps: int) -> tuple[Callable[[], Loop | Any], Callable[[], Any]]:
    """The model's own DDIM scheduler, and diffusers' fast one made from its configuration."""
    assert loaded.folder is not None
    own = DDIMScheduler.from_pretrained(loaded.folder / "scheduler")
    return (lambda: own), (lambda: DPMSolverMultistepScheduler.from_config(own.config))


def eager(loaded: Source) -> Ask:
    """PyTorch as it comes."""
    unet = network(loaded)
    return lambda x, t, labels: unet(x, t, class_labels=labels, return_dict=False)[0]


def compiled(loaded: Source) -> Ask:
    """``torch.compile`` with its defaults."""
    unet = torch.compile(network(loaded))
    return lambda x, t, labels: unet(x, t, class_labels=labels, return_dict=False)[0]


class Answer(torch.nn.Module):
    """Tensors in, one tensor out: what converters trace."""

    def __init__(self, unet: UNet2DModel) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The network's output."""
        output: torch.Tensor = self.unet(x, t, class_labels=labels, return_dict=False)[0]
        return output


def examples(loaded: Source, images: int) -> tuple[torch.Tensor, ...]:
    """Inputs of the right shapes; schedulers give whole timesteps."""
    shape = (images, *loaded.shape)
    return torch.zeros(shape), torch.zeros(images, dtype=torch.int64), torch.zeros(images, dtype=torch.int64)


def openvino(loaded: Source, images: int) -> Ask:
    """A conversion with default settings."""
    import openvino as ov

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = ov.convert_model(Answer(network(loaded)), example_input=examples(loaded, images))
    running = ov.compile_model(model, "CPU")

    def ask(x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(running([x.numpy(), t.numpy(), labels.numpy()])[0].copy())

    return ask


def onnxruntime(loaded: Source, images: int) -> Ask:
    """An export and a session with default settings."""
    import onnxruntime as ort

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "model.onnx"
        torch.onnx.export(Answer(network(loaded)), examples(loaded, images), path, dynamo=True, verbose=False)
        session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [port.name for port in session.get_inputs()]

    def ask(x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        feed = dict(zip(names, (x.numpy(), t.numpy(), labels.numpy()), strict=True))
        return torch.from_numpy(session.run(None, feed)[0])

    return ask


class Azula:
    """azula's DDIM sampler around the same network, in azula's terms: a schedule and a denoiser."""

    def __init__(self, loaded: Source) -> None:
        from azula.denoise import Denoiser, DiracPosterior
        from azula.noise import Schedule
        from azula.sample import DDIMSampler

        target = loaded.build()

        class Ours(Schedule):  # type: ignore[misc]
            def __call__(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
                known = (target.schedule.alpha(t.numpy()), target.schedule.sigma(t.numpy()))
                alpha, sigma = (torch.as_tensor(np.asarray(part)).to(t.dtype) for part in known)
                return alpha, sigma

        class Asked(Denoiser):  # type: ignore[misc]
            schedule = Ours()

            def forward(self, x: torch.Tensor, t: torch.Tensor, **labels: Any) -> Any:
                return DiracPosterior(mean=target.denoise(x, float(t), labels["labels"]))

        first = float(target.table.times[0])  # where hasten's baseline starts: the noise is all there is
        self.start = float(target.schedule.sigma(first))
        self.sampler = DDIMSampler(Asked(), start=first, stop=0.0, steps=STEPS, silent=True, dtype=torch.float64)

    @torch.inference_mode()
    def sample(self, case: Case) -> torch.Tensor:
        """Samples (n, *shape) float32 from the case's noise."""
        made: torch.Tensor = self.sampler(case.noise * self.start, labels=case.labels)
        return made.float()


def entries(loaded: Source, winner: Plan, images: int) -> dict[str, pair.Builder]:
    """Everything that takes part, by the name that the table shows."""
    sampler = winner.find("sampler")
    steps = int(getattr(sampler, "steps", STEPS))
    own, fast = schedulers(loaded, steps)
    found: dict[str, pair.Builder] = {REFERENCE: lambda: Loop(eager(loaded), own(), STEPS)}
    makers: list[tuple[str, str, Callable[[], Ask]]] = [
        ("eager", "", lambda: eager(loaded)),
        ("torch.compile", "", lambda: compiled(loaded)),
        ("OpenVINO", "openvino", lambda: openvino(loaded, images)),
        ("ONNX Runtime", "onnxruntime", lambda: onnxruntime(loaded, images)),
    ]
    for name, needs, make in makers:
        if needs and find_spec(needs) is None:
            continue
        found.setdefault(f"diffusers, DDIM {STEPS}, {name}", lambda make=make: Loop(make(), own(), STEPS))  # type: ignore[misc]
        if name != "torch.compile":
            found[f"diffusers, DPM-Solver++ 2M {steps}, {name}"] = lambda make=make: Loop(make(), fast(), steps)  # type: ignore[misc]
    if find_spec("azula") is not None:
        found[f"azula, DDIM {STEPS}, eager"] = lambda: Azula(loaded)
    found["hasten, baseline: DDIM 50, eager"] = loaded.build
    if sampler is not None and winner.find("quantize") is not None:
        runtime = winner.find("runtime") or Runtime("float32", 1)
        exact = Plan((runtime, sampler))
        found[f"hasten, {', '.join(exact.label)}"] = lambda: plans.build(loaded, exact)
    found[f"hasten, {', '.join(winner.label)}"] = lambda: plans.build(loaded, winner)
    return found


def winner_of(path: Path | None) -> Plan:
    """The plan of a file, else of the last demo, else of the published one."""
    if path is not None:
        return plans.read(path)
    if (ROOT / "runs" / "demo" / "plan.toml").exists():
        return plans.read(ROOT / "runs" / "demo" / "plan.toml")
    published = json.loads((RESULTS.parent / "demo.json").read_text(encoding="utf-8"))
    return plans.from_list(published["candidate"]["plan"])


def peak(name: str, options: argparse.Namespace) -> int | None:
    """Peak resident bytes of building one entry and sampling one case, in a process of its own."""
    argv = [sys.executable, __file__, str(options.folder), "--only", name, "--images", str(options.images)]
    try:
        return peak_bytes([*argv, *(["--plan", str(options.plan)] if options.plan else [])], 600.0)
    except HastenError as error:
        print(f"peak memory of {name} was not measured: {error}", file=sys.stderr)
        return None


def drift(converged: torch.Tensor, samples: tuple[torch.Tensor, ...]) -> float:
    """Of the first cases, in dB from the converged samples of the same."""
    return quality.drift_db(converged, torch.cat(samples[:DRIFT_CASES])[: len(converged)])


def rows_of(
    comparisons: dict[str, pair.Comparison], converged: torch.Tensor, peaks: dict[str, int | None]
) -> list[dict[str, Any]]:
    """A row an entry, the reference first."""
    first = next(iter(comparisons.values()))
    rows = [
        {
            "name": REFERENCE,
            "seconds_per_image": first.seconds_per_image("baseline"),
            "speedup": None,
            "drift_db": drift(converged, first.samples_a),
            "prepare_seconds": (first.build_seconds_a or 0.0) + (first.warmup_seconds_a or 0.0),
            "peak_bytes": peaks[REFERENCE],
        }
    ]
    for name, comparison in comparisons.items():
        if comparison.interval is None:
            rows.append({"name": name, "failure": comparison.reason})
            continue
        found = comparison.interval.inverse()
        rows.append(
            {
                "name": name,
                "seconds_per_image": comparison.seconds_per_image(name),
                "speedup": asdict(found) | {"verdict": str(comparison.verdict), "reason": comparison.reason},
                "drift_db": drift(converged, comparison.samples_b),
                "prepare_seconds": (comparison.build_seconds_b or 0.0) + (comparison.warmup_seconds_b or 0.0),
                "peak_bytes": peaks[name],
            }
        )
    return rows


def table(result: dict[str, Any]) -> str:
    """The rows in Markdown, slowest first."""
    lines = [
        "| | s/image | speed (95 % interval) | drift | peak memory |",
        "| --- | --- | --- | --- | --- |",
    ]
    measured = [row for row in result["rows"] if "failure" not in row]
    for row in sorted(measured, key=lambda row: -row["seconds_per_image"]):
        found = row["speedup"]
        speed = "1" if found is None else f"{found['ratio']:.3g}x ({found['low']:.3g} to {found['high']:.3g})"
        if found is not None and found["verdict"] == "UNDECIDED":
            speed += ", undecided"
        memory = "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**20:.0f} MiB"
        drift = f"{row['drift_db']:.1f} dB" if math.isfinite(row["drift_db"]) else "-"
        lines.append(f"| {row['name']} | {row['seconds_per_image']:.3g} | {speed} | {drift} | {memory} |")
    lines += [f"| {row['name']} | failed: {row['failure']} | | | |" for row in result["rows"] if "failure" in row]
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default=bundled.folder(), type=Path)
    parser.add_argument("--images", default=4, type=int, help="images per case")
    parser.add_argument("--rounds", default=9, type=int)
    parser.add_argument("--plan", type=Path, help="hasten's winner; else that of the last demo")
    parser.add_argument("--only", help="build this entry, sample one case, and end")
    parser.add_argument("--results", default=RESULTS, type=Path)
    return parser.parse_args()


def main() -> None:
    quiet()
    options = arguments()
    loaded, winner = source.load(options.folder), winner_of(options.plan)
    workload = draw(loaded.shape, options.rounds, options.images, SEED, loaded.labels)
    builders = entries(loaded, winner, options.images)
    if options.only is not None:
        builders[options.only]().sample(workload.cases[0])
        return
    reference = builders.pop(REFERENCE)

    def on_round(done: int, rounds: int) -> None:
        print(f"round {done} of {rounds}", file=sys.stderr, flush=True)

    named = {"baseline": reference, **builders}
    comparisons = pair.compare_many(named, "baseline", workload, options.rounds, seed=SEED, on_round=on_round)
    goal = plans.build(loaded, Plan((Runtime("float32", 1), Sampler("unipc", 100, "logsnr"))))
    peaks = {name: peak(name, options) for name in (REFERENCE, *builders)}
    env = environment()
    result = {
        "model": loaded.name,
        "images_per_case": options.images,
        "rounds": options.rounds,
        "winner": winner.to_list(),
        "rows": rows_of(comparisons, torch.cat([goal.sample(c) for c in workload.cases[:DRIFT_CASES]]), peaks),
        "observations": [asdict(o) for o in {id(o): o for c in comparisons.values() for o in c.observations}.values()],
        "environment": env,
    }
    write_text(options.results, json.dumps(result, indent=1) + "\n")
    print(table(result))
    for name, comparison in comparisons.items():
        sides = {
            "a": history.Side(loaded.name, loaded.weight_hash, "", [REFERENCE]),
            "b": history.Side(loaded.name, loaded.weight_hash, name, [name]),
        }
        figures = history.of_pair(comparison, None, (peaks[REFERENCE], peaks[name]))
        settings = {"images": options.images}
        warning = history.record("bench", name, figures, sides=sides, settings=settings, env=env)
        if warning:
            print(f"warning: {warning}", file=sys.stderr)


if __name__ == "__main__":
    main()
