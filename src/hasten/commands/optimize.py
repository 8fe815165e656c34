"""Commands that make a model faster, and what is made of that: artifacts."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from hasten.commands.options import (
    DEVICE,
    FEATURES,
    GUIDANCE,
    JSON,
    OUT,
    RESUME,
    SEED,
    STEPS,
    Budget,
    Seconds,
    check,
    data_for,
    exists,
    say,
)
from hasten.errors import BadInput, HastenError
from hasten.report import result_text, terminal


@click.command()
@click.option("--out", default=Path("runs/demo"), show_default=True, type=click.Path(path_type=Path))
@SEED
@RESUME
@JSON
def demo(out: Path, seed: int, resume: bool, as_json: bool) -> None:
    """Optimise the bundled emoji model against the bundled data."""
    from hasten.model import bundled

    given = {"source": str(bundled.folder()), "data": "emoji", "out": out, "seconds": 240.0}
    click.get_current_context().invoke(optimize, **given, seed=seed, resume=resume, as_json=as_json)


@click.command()
@click.argument("source")
@click.option("--data", help="What to judge quality by: emoji, digits or a folder of images.")
@click.option(
    "--budget", "budgets", default=["quality=2%"], multiple=True, show_default=True, type=Budget(),
    help="What a plan may lose or need: quality=2%, memory=500MB, size=5MB; repeatable.",
)  # fmt: skip
@click.option(
    "--goal", default="throughput", show_default=True, type=click.Choice(["throughput", "latency", "memory", "size"]),
    help="What is made small: time per image of a batch or alone, peak memory, bytes on disk.",
)  # fmt: skip
@click.option("--time", "seconds", default="5m", show_default=True, type=Seconds(), help="Time for the whole run.")
@click.option("--batch", type=click.IntRange(1, 4096), help="Images sampled at once: 16; 1 with --goal latency.")
@click.option("--student", "students", multiple=True, help="A model folder that may take SOURCE's place; repeatable.")
@FEATURES
@DEVICE
@OUT
@GUIDANCE
@SEED
@RESUME
@JSON
@STEPS
def optimize(
    source: str,
    data: str | None,
    budgets: tuple[tuple[str, float], ...],
    goal: str,
    seconds: float,
    batch: int | None,
    students: tuple[str, ...],
    features: str | None,
    device: str,
    out: Path,
    guidance: float,
    seed: int,
    resume: bool,
    as_json: bool,
    steps: int,
) -> None:
    """Make a model faster or smaller, keep its quality, and prove it.

    Of all plans of which none beats another in time, loss, memory and size, --out gets one file each in front/, for
    hasten apply.  The exit status is 3 when no plan held the budget.
    """
    images = batch or (1 if goal == "latency" else 16)
    check(source, *students, data=data, out=out, images=images, device=device, copies=3, prepares=True)
    from hasten import load
    from hasten.measure.features import bring
    from hasten.story import optimize as story

    limits, loaded = {"quality": 0.02, **dict(budgets)}, load(source, guidance=guidance, device=device, steps=steps)
    with terminal.progress() as progress:
        result = story.optimize(
            loaded,
            data_for(loaded, data),
            out=out,
            budget=limits["quality"],
            goal=goal,
            memory_bytes=limits.get("memory"),
            size_bytes=limits.get("size"),
            seconds=seconds,
            images_per_case=batch,
            seed=seed,
            resume=resume,
            progress=progress,
            features=None if features is None else bring(features),
            students=students,
        )
    say(json.dumps(result) if as_json else result_text.summary(result, out))
    if result["interrupted"]:
        sys.exit(130)
    if not result["passed"]:
        sys.exit(3)


@click.command()
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("--device", help="Where torch computes: cpu, cuda; the artifact's own by default.")
@JSON
def verify(artifact: Path, device: str | None, as_json: bool) -> None:
    """Check an artifact's hashes and its reference outputs.

    What differs between its environment and this one is named.
    """
    from dataclasses import asdict

    if not exists(artifact / "artifact.json"):
        raise BadInput(f"{artifact} is no artifact; pass a folder that hasten optimize or hasten apply wrote")
    from hasten import verification

    found = verification.verify(artifact, device=device)
    lines = result_text.verification(found.differences, found.agreement_db, found.files)
    click.echo(json.dumps(asdict(found)) if as_json else lines)
    if found.problems:
        raise HastenError(f"{artifact} does not verify: {'; '.join(found.problems)}; make it again with hasten apply")
    if not as_json:
        click.echo("verified")


@click.command()
@click.argument("plan", type=click.Path(path_type=Path))
@click.argument("source", type=click.Path(path_type=Path))
@OUT
@GUIDANCE
@STEPS
@DEVICE
@click.option("--slim", is_flag=True, help="Leave out the model's own weights; the plan must bring an engine.")
def apply(plan: Path, source: Path, out: Path, guidance: float, steps: int, device: str, slim: bool) -> None:
    """Apply a plan to a model folder and save the artifact."""
    if exists(out):
        raise BadInput(f"{out} exists; choose another --out")
    if not exists(plan):
        raise BadInput(f"plan {plan} does not exist; pass a plan.toml")
    check(str(source), out=out, copies=2, prepares=True)
    from hasten import artifact, load
    from hasten.technique import plan as plans

    artifact.save(out, load(source, guidance=guidance, device=device, steps=steps), plans.read(plan), slim=slim)
    made = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    say(result_text.written(out, made))
