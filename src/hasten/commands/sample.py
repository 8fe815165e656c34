"""Samples to files."""

from __future__ import annotations

from pathlib import Path

import click

from hasten.commands.options import GUIDANCE, SEED, STEPS, check, exists, say
from hasten.errors import BadInput
from hasten.report import result_text, terminal


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-n", "--count", default=64, show_default=True, type=click.IntRange(1, 100_000), help="How many samples.")
@click.option(
    "--out", default="samples.png", show_default=True, type=click.Path(path_type=Path),
    help="A PNG grid, or an .npy file for any shape; must not be there yet.",
)  # fmt: skip
@click.option("--label", type=click.IntRange(0, 10**9), help="One label for all samples; else all labels in turn.")
@click.option("--batch", default=16, show_default=True, type=click.IntRange(1, 4096), help="Images sampled at once.")
@GUIDANCE
@STEPS
@click.option("--device", help="Where torch computes: cpu, cuda; an artifact's own by default.")
@SEED
def sample(
    model: Path,
    count: int,
    out: Path,
    label: int | None,
    batch: int,
    guidance: float,
    steps: int,
    device: str | None,
    seed: int,
) -> None:
    """Sample from a model folder, an artifact or FOLDER+PLAN.toml."""
    if out.suffix not in (".png", ".npy"):
        raise BadInput(f"--out {out}: the name must end in .png or .npy")
    if exists(out):
        raise BadInput(f"--out {out} exists; choose another")
    check(str(model), out=out.parent, images=batch, kept=count, device=device or "cpu")
    from hasten import subject
    from hasten.commands import sampling

    named = subject.read(str(model), guidance=guidance, device=device, steps=steps)
    with terminal.progress() as progress:
        sampling.sample(named, count, out, label, batch, seed, terminal.counted(progress, "sample"))
    say(result_text.written(out))
