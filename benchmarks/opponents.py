"""hasten against what people run today: the same weights, the same noise, the same paired clock.

    make bench        (or: python benchmarks/opponents.py [FOLDER] [--images 4] [--rounds 9] [--plan PLAN.toml])

Each opponent is run as its own documentation shows it, with its defaults:

* diffusers: the public sampling loop over ``UNet2DModel`` with the model's own ``DDIMScheduler`` at 50 steps, eager and
  by ``torch.compile``; and with ``DPMSolverMultistepScheduler`` at as many steps as hasten's winner takes.
  (``DDIMPipeline`` itself draws its own noise and knows no labels.)
* OpenVINO: ``ov.convert_model`` at the shapes of the case, which it runs faster than open ones, and ``compile_model``
  with default settings, under those two loops.
* ONNX Runtime: ``torch.onnx.export`` at the shapes of the case and the CPU provider with default settings, alike.
* azula: ``DDIMSampler`` at 50 steps around the same network.  Its times are uniform in t, as hasten's baseline's are.
* hasten: the baseline, the winner's sampler on the winner's engine in float32, and the winner.

azula asks for torchvision, whose wheels don't load beside a CPU build of torch ("operator torchvision::nms does not
exist") and which its samplers don't need: ``make bench`` installs azula alone.  denoising-diffusion-pytorch imports
torchvision at once, so it is left out.

Samplers choose their own times, so no one's samples are the yardstick: drift is from the model's converged samples
(UniPC, 100 steps, by hasten, over all cases), and more is closer.  Preparation is conversion, compilation and the first
sample, with no cache.  Peak memory is that of a process of its own which prepares and samples one case.  Writes
benchmarks/results/opponents.json, which README's table is made of (benchmarks/readme.py).  Run nothing else meanwhile;
about ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch._inductor.config
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UNet2DModel

from hasten import history
from hasten.environment import environment, quiet
from hasten.errors import BadInput
from hasten.files import size, write_text
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
REFERENCE = "diffusers, DDIM 50, eager"
Ask = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]  # (x, timesteps, labels) to output


@dataclass(frozen=True)
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


def folder_of(loaded: Source) -> Path:
    """The pipeline's folder.  Raises BadInput for a model that is not in diffusers' own layout."""
    if loaded.folder is None or not (loaded.folder / "model_index.json").is_file():
        raise BadInput(f"{loaded.name} is no diffusers pipeline folder, which opponents load; name one")
    return loaded.folder


def ddim(loaded: Source) -> Any:
    """The model's own scheduler."""
    return DDIMScheduler.from_pretrained(folder_of(loaded) / "scheduler")


def fast(loaded: Source) -> Any:
    """diffusers' own fast scheduler, made as its documentation shows."""
    return DPMSolverMultistepScheduler.from_config(ddim(loaded).config)


class Answer(torch.nn.Module):
    """The network as diffusers loads it: tensors in, one tensor out, as converters want it."""

    def __init__(self, loaded: Source) -> None:
        super().__init__()
        folder = folder_of(loaded) / "unet"  # low_cpu_mem_usage wants the accelerate package
        self.unet = UNet2DModel.from_pretrained(folder, use_safetensors=True, low_cpu_mem_usage=False)
        self.eval()

    def forward(self, x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """The network's output (n, *shape)."""
        output: torch.Tensor = self.unet(x, t, class_labels=labels, return_dict=False)[0]
        return output


def eager(loaded: Source, images: int) -> Ask:
    """PyTorch as it comes."""
    return Answer(loaded)


def compiled(loaded: Source, images: int) -> Ask:
    """``torch.compile`` with its defaults."""
    torch._inductor.config.force_disable_caches = True  # compiling is to be timed, not a cache of an earlier run
    return torch.compile(Answer(loaded))


def openvino(loaded: Source, images: int) -> Ask:
    """A conversion with default settings."""
    import openvino as ov

    inputs = examples(loaded, images)
    with torch.no_grad():
        model = ov.convert_model(Answer(loaded), example_input=inputs, input=[tuple(part.shape) for part in inputs])
    running = ov.compile_model(model, "CPU")

    def ask(*parts: torch.Tensor | None) -> torch.Tensor:
        return torch.from_numpy(running([part.numpy() for part in parts if part is not None])[0].copy())

    return ask


def onnxruntime(loaded: Source, images: int) -> Ask:
    """An export and a session with default settings."""
    import onnxruntime as ort

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        torch.onnx.export(Answer(loaded), examples(loaded, images), path, dynamo=True, verbose=False)
        session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [port.name for port in session.get_inputs()]

    def ask(*parts: torch.Tensor | None) -> torch.Tensor:
        feed = [part.numpy() for part in parts if part is not None]
        return torch.from_numpy(session.run(None, dict(zip(names, feed, strict=True)))[0])

    return ask


def examples(loaded: Source, images: int) -> tuple[torch.Tensor, ...]:
    """Inputs of the right shapes; schedulers give whole timesteps."""
    whole = [torch.zeros(images, dtype=torch.int64) for _ in range(1 if loaded.num_labels is None else 2)]
    return (torch.zeros((images, *loaded.shape)), *whole)  # apart, or a tracer takes two inputs for one


class Azula:
    """azula's DDIM sampler around the same network, in azula's terms: a schedule and a denoiser."""

    def __init__(self, loaded: Source) -> None:
        from azula.denoise import Denoiser, DiracPosterior
        from azula.noise import Schedule
        from azula.sample import DDIMSampler

        target = loaded.build()

        class Ours(Schedule):
            def __call__(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
                known = (target.schedule.alpha(t.numpy()), target.schedule.sigma(t.numpy()))
                return torch.as_tensor(known[0], dtype=t.dtype), torch.as_tensor(known[1], dtype=t.dtype)

        class Asked(Denoiser):
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


ENGINES: dict[str, Callable[[Source, int], Ask]] = {
    "eager": eager,
    "torch.compile": compiled,
    "OpenVINO": openvino,
    "ONNX Runtime": onnxruntime,
}
NEEDED = {"ONNX Runtime": ("onnxruntime", "onnxscript")}


def entries(loaded: Source, winner: Plan, images: int) -> dict[str, pair.Builder]:
    """Everything that takes part, by the name that the table shows; what is not installed does not."""
    sampler = next((technique for technique in winner.techniques if isinstance(technique, Sampler)), None)
    steps = STEPS if sampler is None else sampler.steps
    found: dict[str, pair.Builder] = {}
    for name, engine in ENGINES.items():
        if any(find_spec(needed) is None for needed in NEEDED.get(name, ())):
            continue
        found[f"diffusers, DDIM {STEPS}, {name}"] = partial(opponent, loaded, engine, images, ddim, STEPS)
        if name != "torch.compile":  # another minute of compiling, for the same ratio to eager
            found[f"diffusers, DPM-Solver++ 2M {steps}, {name}"] = partial(
                opponent, loaded, engine, images, fast, steps
            )
    if find_spec("azula") is not None:
        found[f"azula, DDIM {STEPS}, eager"] = partial(Azula, loaded)
    found["hasten, baseline: DDIM 50, eager"] = loaded.build
    for plan in (winner.without("quantize")[0], winner):
        found[f"hasten, {', '.join(plan.label)}"] = partial(plans.build, loaded, plan)
    return found


def opponent(
    loaded: Source, engine: Callable[[Source, int], Ask], images: int, scheduler: Callable[[Source], Any], steps: int
) -> Loop:
    """An engine in diffusers' loop, built anew."""
    return Loop(engine(loaded, images), scheduler(loaded), steps)


def winner_of(path: Path | None) -> Plan:
    """The plan of a file, else of the last demo, else of the published one."""
    if path is not None:
        return plans.read(path)
    if (ROOT / "runs" / "demo" / "plan.toml").exists():
        return plans.read(ROOT / "runs" / "demo" / "plan.toml")
    published = json.loads((RESULTS.parent / "demo.json").read_text(encoding="utf-8"))
    return plans.from_list(published["candidate"]["plan"])


def peak(name: str, plan: Path, options: argparse.Namespace) -> int:
    """Peak resident bytes of building one entry and sampling one case, in a process of its own."""
    argv = [sys.executable, __file__, str(options.folder), "--images", str(options.images), "--plan", str(plan)]
    return peak_bytes([*argv, "--only", name], 600.0)


def row(name: str, side: str, comparison: pair.Comparison, converged: torch.Tensor) -> dict[str, Any]:
    """The figures of side "a" (the reference) or "b" of a comparison; ``converged`` holds all of its cases."""
    if comparison.interval is None:
        return {"name": name, "failure": comparison.reason}
    samples, build, warmup = (
        getattr(comparison, f"{what}_{side}") for what in ("samples", "build_seconds", "warmup_seconds")
    )
    speedup = asdict(comparison.interval.inverse()) | {
        "verdict": str(comparison.verdict),
        "reason": comparison.reason,
    }
    return {
        "name": name,
        "seconds_per_image": comparison.seconds_per_image(name),
        "speedup": speedup if side == "b" else None,
        "drift_db": quality.drift_db(converged, torch.cat(samples)),
        "prepare_seconds": build + warmup,
    }


def table(result: dict[str, Any]) -> str:
    """The rows in Markdown, slowest first, then what failed."""
    lines = [
        "| | s/image | speed (95 % interval) | drift | preparation | peak memory |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    measured = [row for row in result["rows"] if "failure" not in row]
    for row in sorted(measured, key=lambda row: -row["seconds_per_image"]):
        found = row["speedup"]
        speed = "1" if found is None else f"{found['ratio']:.3g}x ({found['low']:.3g} to {found['high']:.3g})"
        if found is not None and found["verdict"] == "UNDECIDED":
            speed += f", undecided: {found['reason'].partition(':')[0]}"
        lines.append(
            f"| {row['name']} | {row['seconds_per_image']:.3g} | {speed} | {row['drift_db']:.1f} dB | "
            f"{row['prepare_seconds']:.1f} s | {size(row['peak_bytes'])} |"
        )
    lines += [f"| {row['name']} | failed: {row['failure']} | | | | |" for row in result["rows"] if "failure" in row]
    return "\n".join(lines)


def remember(comparisons: dict[str, pair.Comparison], result: dict[str, Any], loaded: Source, winner: Plan) -> None:
    """Add a line to the person's history for each entry."""
    peaks = {found["name"]: found.get("peak_bytes") for found in result["rows"]}
    for name, comparison in comparisons.items():
        renamed = tuple(
            replace(o, plan="baseline" if o.plan == REFERENCE else "candidate") for o in comparison.observations
        )
        unwritten = history.record(
            "bench",
            name,
            history.of_pair(replace(comparison, observations=renamed), None, (peaks[REFERENCE], peaks[name])),
            sides={
                side: history.Side(loaded.name, loaded.weight_hash, label, (label,))
                for side, label in (("a", REFERENCE), ("b", name))
            },
            settings={"images_per_case": result["images_per_case"], "winner": winner.hash},
            env=result["environment"],
        )
        if unwritten:
            print(f"warning: {unwritten}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default=bundled.folder(), type=Path)
    parser.add_argument("--images", default=4, type=int, help="images per case")
    parser.add_argument("--rounds", default=9, type=int)
    parser.add_argument("--plan", type=Path, help="hasten's winner; else that of the last demo, else the published one")
    parser.add_argument("--only", help="build this entry, sample one case, and end")
    parser.add_argument("--results", default=RESULTS, type=Path)
    options = parser.parse_args()
    quiet()
    loaded, winner = source.load(options.folder), winner_of(options.plan)
    workload = draw(loaded.shape, options.rounds, options.images, SEED, loaded.labels)
    builders = entries(loaded, winner, options.images)
    if options.only is not None:
        builders[options.only]().sample(workload.cases[0])
        return

    def on_round(done: int, rounds: int) -> None:
        print(f"round {done} of {rounds}", file=sys.stderr, flush=True)

    comparisons = pair.compare_many(
        builders, REFERENCE, workload, pair.Rounds(options.rounds, seed=SEED, on_round=on_round)
    )
    goal = plans.build(loaded, Plan((Runtime("float32", 1), Sampler("unipc", 100, "logsnr"))))
    converged = torch.cat([goal.sample(case) for case in workload.cases])
    rows = [row(REFERENCE, "a", next(iter(comparisons.values())), converged)]
    rows += [row(name, "b", comparison, converged) for name, comparison in comparisons.items()]
    with tempfile.TemporaryDirectory() as folder:
        plan = Path(folder) / "plan.toml"  # what is named may be written anew meanwhile
        plans.write(winner, plan)
        for found in rows:
            if "failure" not in found:
                found["peak_bytes"] = peak(found["name"], plan, options)
    observations = {id(o): asdict(o) for comparison in comparisons.values() for o in comparison.observations}
    result = {
        "model": loaded.name,
        "images_per_case": options.images,
        "rounds": options.rounds,
        "winner": winner.to_list(),
        "rows": rows,
        "observations": list(observations.values()),
        "environment": environment(),
    }
    write_text(options.results, json.dumps(result, indent=1) + "\n")
    remember(comparisons, result, loaded, winner)
    print(table(result))


if __name__ == "__main__":
    main()
