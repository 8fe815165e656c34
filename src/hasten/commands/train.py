"""Commands that train, and that make a model smaller."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hasten import guard
from hasten.commands.options import OUT, RESUME, SEED, Number, Seconds, check, data_for, exists, say
from hasten.errors import BadInput
from hasten.report import result_text, terminal


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@OUT
@click.option("--resume", is_flag=False, flag_value="newest", help="Go on from the newest checkpoint, or from PATH.")
@click.option("--plan", is_flag=True, help="Only print the peak memory and time of a step, by choice, and check them.")
def train(recipe: Path, out: Path, resume: str | None, plan: bool) -> None:
    """Train a model as RECIPE.toml says."""
    if not exists(recipe):
        raise BadInput(f"recipe {recipe} does not exist; pass a recipe.toml")
    check(out=None if plan else out)
    from hasten.train import recipe as recipes

    read = recipes.read(recipe)
    guard.check_memory(read.least_bytes, f"{recipe}: a step of {read.train.batch_size:,} samples")
    if plan:
        from hasten.report import train_text
        from hasten.train import forecast as plans

        with terminal.progress() as report:
            found = list(plans.measured(read, list(plans.rows(read)), lambda row: report("plan", row, 0.0)))
        click.echo(train_text.step_table(found))
        return
    from hasten.report import train_text
    from hasten.train import loop

    where: bool | Path = True if resume == "newest" else Path(resume) if resume else False
    with train_text.training() as (progress, warn):
        folder = loop.train(read, out, where, progress, warn)
    say(result_text.written(folder))


@click.command()
@click.argument("source")
@click.option("--channels", help="Share of the channels to keep, such as 0.7, or a config.json.")
@click.option("--blocks", "count", type=click.IntRange(1, 10**4), help="Instead: how many whole blocks to remove.")
@click.option(
    "--sparsity",
    type=Number(0, 1, min_open=True, max_open=True),
    help="Instead: the share of weights to make zero, such as 0.5.",
)
@click.option(
    "--pattern",
    default="global",
    show_default=True,
    type=click.Choice(["global", "layer", "2:4"]),
    help="Of --sparsity: the least weights of all, of each layer alike, or two of every four inputs.",
)
@click.option(
    "--importance",
    default="taylor",
    show_default=True,
    type=click.Choice(["taylor", "magnitude"]),
    help="What is kept: what the loss on --data needs most, or what weighs most.",
)
@click.option("--data", help="What loss and damage are measured on: emoji, digits or a folder of images.")
@OUT
def prune(
    source: str,
    channels: str | None,
    count: int | None,
    sparsity: float | None,
    pattern: Any,
    importance: Any,
    data: str | None,
    out: Path,
) -> None:
    """Remove channels and heads, or whole blocks, or make weights zero.

    What is left is an ordinary model, to be trained further.

    hasten distill SOURCE --student DIR does that, with SOURCE's answers to learn from.
    """
    zeros = sparsity is not None or pattern == "2:4"
    if [channels is not None, count is not None, zeros].count(True) != 1:
        raise BadInput("give --channels, --blocks or --sparsity (or --pattern 2:4), one of them")
    check(source, data=data, out=out, copies=1)
    from hasten import load
    from hasten.distill import sparse, student

    loaded = load(source)
    if count is not None:
        given = data_for(loaded, data)
        if given is None:
            raise BadInput("the damage of blocks is measured on data; give --data")
        with terminal.progress() as progress:
            found = student.drop_blocks(loaded, count, given, out, terminal.counted(progress, "damage"))
        click.echo(result_text.blocks(found))
        say(result_text.written(out))
        return
    if channels is None:
        with terminal.progress() as progress:
            found = sparse.prune(loaded, sparsity, pattern, out, terminal.counted(progress, "speed"))
        click.echo(result_text.sparse(found, found["speeds"]))
        say(result_text.written(out))
        return
    share = student.asked(channels if Path(channels).is_file() else f"channels={channels}")
    given = data_for(loaded, data)
    with terminal.progress() as progress:
        config = student.prune(loaded, share, importance, given, out, terminal.counted(progress, "prune"))
    click.echo(f"{'channels':<12}{config['block_out_channels']}")
    say(result_text.written(out))


@click.command()
@click.argument("source")
@click.option("--student", required=True, help="channels=0.5, a config.json, or a model folder to go on with.")
@click.option("--data", required=True, help="What to train on: emoji, digits or a folder of images.")
@click.option("--time", "seconds", default="60m", show_default=True, type=Seconds(), help="Time to train for.")
@click.option("--batch", default=64, show_default=True, type=click.IntRange(1, 4096), help="Samples of a step.")
@click.option("--cached", type=click.IntRange(1, 10**6), help="Ask SOURCE about so many batches once, and repeat them.")
@click.option("--feature", "features", multiple=True, help="Learn the output of this module too, such as mid_block.")
@OUT
@SEED
@RESUME
def distill(
    source: str,
    student: str,
    data: str,
    seconds: float,
    batch: int,
    cached: int | None,
    features: tuple[str, ...],
    out: Path,
    seed: int,
    resume: bool,
) -> None:
    """Train a smaller student to answer as SOURCE does.

    The student begins as SOURCE with its least important channels pruned; OUT/recipe.toml says how it is trained.
    """
    begun = [student] if "=" not in student and Path(student).is_dir() else []
    check(source, *begun, data=data, out=out, images=1, copies=0 if begun else 1)
    if "=" not in student and not exists(Path(student)):
        raise BadInput(f"--student {student}: no file or folder; give channels=0.5, a config.json or a model folder")
    from hasten import load
    from hasten.distill import student as students
    from hasten.report import train_text

    with train_text.training() as (progress, warn):
        lessons = students.Lessons(data, seconds, batch, seed, cached, features)
        folder = students.distill(load(source), student, lessons, out, resume=resume, progress=progress, warn=warn)
    say(result_text.written(folder))


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@OUT
@click.option(
    "--length",
    type=Number(0, 1, min_open=True),
    help="sigma_rel of the average, 0.01 to 0.25; by held-out loss if not given.",
)
@click.option("--step", type=click.IntRange(1, 2**63 - 1), help="The average after so many steps, not after the last.")
def average(run: Path, out: Path, length: float | None, step: int | None) -> None:
    """The model of a training RUN with an average of another length."""
    if not exists(run):
        raise BadInput(f"{run} does not exist; pass the --out of hasten train")
    if exists(out):
        raise BadInput(f"{out} exists; choose another --out")
    check(out=out)
    from hasten.train import reaverage

    with terminal.progress() as report:
        tried = reaverage.reaverage(run, out, length, step, lambda what: report("average", what, 0.0))
    for number, each in enumerate(tried):
        click.echo(f"{'taken' if number == 0 else '':<12}sigma_rel {each.sigma_rel:<6g} held-out loss {each.loss:.5g}")
    say(result_text.written(out))
