"""Command line: arguments to public functions, no logic.  Answers ``--help`` without importing torch."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from hasten import __version__, console, guard
from hasten.errors import BadInput, HastenError, did_you_mean
from hasten.files import cache_folder, num_bytes, size, why


class Number(click.FloatRange):
    """A number in a range, and so no NaN, which click's own ranges let through."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """``value`` as a finite number."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is no finite number", param, ctx)
        return number


SEED = click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(0, 2**32 - 1), help="Seed of all random numbers."
)
OUT = click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write to.")
RESUME = click.option("--resume", is_flag=True, help="Go on from what --out holds.")
GUIDANCE = click.option(
    "--guidance", default=1.0, show_default=True, type=Number(-1000, 1000),
    help="Classifier-free guidance; 1 is none.",
)  # fmt: skip
STEPS = click.option(
    "--steps",
    default=50,
    show_default=True,
    type=click.IntRange(1, 1000),
    help="Of the model's own sampler: the baseline.",
)
DEVICE = click.option("--device", default="cpu", show_default=True, help="Where torch computes: cpu, cuda.")
FEATURES = click.option(
    "--features", metavar="MODULE:CALLABLE", help="Your own extractor: samples (n, *shape) to vectors (n, d)."
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output.")


LONGEST = 8760 * 3600  # seconds: a year
MOST_SHOWN = 1000  # characters of a message
RESULT_BYTES, TRACE_BYTES = 10**6, 3 * 10**7
NO_MEMORY = re.compile("can't allocate memory|out of memory|bad_alloc")  # as torch and engines say it


class Seconds(click.ParamType[float]):
    """``90``, ``90s``, ``5m`` or ``1h`` in seconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The seconds that ``value`` says."""
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", str(value))
        if not found or not float(found[1]):
            self.fail(f"{value!r} is no time; write 90s, 5m or 1h", param, ctx)
        seconds = float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]
        if seconds > LONGEST:
            self.fail(f"{value!r} is longer than {LONGEST // 3600}h", param, ctx)
        return seconds


class Budget(click.ParamType[tuple[str, float]]):
    """``quality=2%`` as 0.02 of quality, ``memory=500MB`` and ``size=5MB`` as bytes."""

    name = "budget"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, float]:
        """What is bounded, and by how much."""
        if isinstance(value, tuple):
            return value
        kind, _, amount = str(value).partition("=")
        percent = re.fullmatch(r"(\d+(?:\.\d+)?)%", amount)
        if kind == "quality" and percent and float(percent[1]) <= 1000:
            return kind, float(percent[1]) / 100
        size = num_bytes(amount) if kind in ("memory", "size") else None
        if not size:
            self.fail(f"{value!r} is no budget; write quality=2%, memory=500MB or size=5MB", param, ctx)
        return kind, size


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__)
@click.option("--debug", is_flag=True, help="Show a traceback when something fails.")
@click.pass_context
def cli(context: click.Context, debug: bool) -> None:
    """Make diffusion models fast, small and stable, and prove that they still make the same pictures."""
    context.obj = debug


@cli.command()
@click.option("--out", default=Path("runs/demo"), show_default=True, type=click.Path(path_type=Path))
@SEED
@RESUME
@JSON
def demo(out: Path, seed: int, resume: bool, as_json: bool) -> None:
    """Optimise the bundled emoji model against the bundled data."""
    from hasten.model import bundled

    _check(str(bundled.folder()), out=out, copies=3, prepares=True)
    budgets, folder = (("quality", 0.02),), str(bundled.folder())
    _optimize(folder, "emoji", out, budgets, "throughput", 240.0, 16, seed, resume, 1.0, as_json)


@cli.command()
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
    _check(source, *students, data=data, out=out, images=images, device=device, copies=3, prepares=True)
    _optimize(
        source, data, out, budgets, goal, seconds, batch, seed, resume, guidance, as_json, features, device, students,
        steps,
    )  # fmt: skip


@cli.command()
@click.argument("a")
@click.argument("b")
@click.option("--data", help="What to judge quality by, or to train on: emoji, digits or a folder of images.")
@click.option(
    "--kind",
    default="sample",
    show_default=True,
    type=click.Choice(["sample", "step", "train-step", "epoch"]),
    help="What is timed: whole samples, one evaluation of the network, a training step, all the data once.",
)
@click.option("--batch", default=16, show_default=True, type=click.IntRange(1, 4096), help="Images of one case.")
@click.option("--batches", help="Further batch sizes, for a curve: 1,4 for samples and steps by default; '' none.")
@click.option("--rounds", default=15, show_default=True, type=click.IntRange(1, 1000), help="Rounds, time allowing.")
@click.option("--gate", help="Conditions for the exit status: speed>=1.5,quality<=2%,memory<=1.1,drift>=30.")
@FEATURES
@click.option("--time", "seconds", default="5m", show_default=True, type=Seconds(), help="Time for the whole run.")
@click.option("--out", type=click.Path(path_type=Path), help="A .json file for the result, raw rounds and all.")
@DEVICE
@SEED
@JSON
def compare(
    a: str,
    b: str,
    data: str | None,
    kind: str,
    batch: int,
    batches: str | None,
    rounds: int,
    gate: str | None,
    features: str | None,
    seconds: float,
    out: Path | None,
    device: str,
    seed: int,
    as_json: bool,
) -> None:
    """Is B faster than A, and does it still make the same pictures?

    A and B are model folders, artifacts, or a folder with a plan: FOLDER+PLAN.toml.  With --gate the exit status is 0
    when all conditions hold, 3 when one does not, and 4 when the measurement can't tell.
    """
    from hasten import gate as gates

    conditions = gates.parse(gate) if gate is not None else ()
    if batches is None:
        batches = "1,4" if kind in ("sample", "step") else ""
    sizes = [size.strip() for size in batches.split(",") if size.strip()]
    if not all(re.fullmatch("[0-9]{1,4}", size) and 1 <= int(size) <= 4096 for size in sizes):
        raise BadInput(f"--batches {batches!r}: write sizes of 1 to 4096, such as 1,4,64")
    if out is not None and (out.suffix != ".json" or out.exists()):
        raise BadInput(f"--out {out}: {'exists; choose another' if out.exists() else 'the name must end in .json'}")
    most = max([batch, *map(int, sizes)])
    _check(a, b, data=data, out=out and out.parent, images=most, device=device)
    if out is not None:
        guard.check_room(out.parent, RESULT_BYTES, "the result")
    from hasten import commands

    with console.progress() as progress:
        result = commands.compare(
            a, b, data, kind, rounds, batch, [int(size) for size in sizes], conditions, features, seconds, seed, device,
            out, progress,
        )  # fmt: skip
    _say(json.dumps(result) if as_json else console.comparison(result))
    if conditions:
        sys.exit(gates.exit_status(answer["verdict"] for answer in result["gate"]))


@cli.command()
@click.argument("source")
@click.option(
    "--what",
    default="all",
    show_default=True,
    type=click.Choice(["python", "ops", "memory", "steps", "damage", "all"]),
    help="Python by function and line; the network by module and operator; memory; the sampling loop. Not in all: what "
    "INT8 does by layer and noise level.",
)
@click.option("--data", help="What to train on: emoji, digits or a folder of images.")
@click.option("--batch", default=16, show_default=True, type=click.IntRange(1, 4096), help="Images at once.")
@click.option("--train", is_flag=True, help="Profile a training step, not a sample.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for profile.html, profile.json and trace.json.")
@DEVICE
@SEED
@JSON
def profile(
    source: str,
    what: str,
    data: str | None,
    batch: int,
    train: bool,
    out: Path | None,
    device: str,
    seed: int,
    as_json: bool,
) -> None:
    """See where time and memory go, and how near to this machine's peaks.

    SOURCE is a model folder, an artifact, or a folder with a plan: FOLDER+PLAN.toml.
    """
    if train and data is None:
        raise BadInput("--train needs something to train on; say what with --data")
    if out is not None and (out / "profile.json").exists():
        raise BadInput(f"{out} holds a profile; choose another --out")
    _check(source, data=data, out=out, images=batch, device=device)
    if out is not None:
        guard.check_room(out, TRACE_BYTES, "the trace")
    from hasten import commands
    from hasten.report import profile_text

    words = [f" --data {data}" if data else "", " --train" if train else "", f" --out {out}" if out else ""]
    command = f"hasten profile {source} --what {what} --batch {batch}{''.join(words)}"
    with console.progress() as progress:
        result = commands.profile(command, source, what, data, batch, train, device, out, seed, progress)
    _say(json.dumps(result) if as_json else profile_text.summary(result, out))


@cli.command()
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
    if _exists(out):
        raise BadInput(f"--out {out} exists; choose another")
    _check(str(model), out=out.parent, images=batch, kept=count, device=device or "cpu")
    from hasten import commands

    with console.progress() as progress:
        commands.sample(str(model), count, out, label, batch, guidance, steps, device, seed, progress)
    _say(f"written     {out}")


@cli.command()
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("--device", help="Where torch computes: cpu, cuda; the artifact's own by default.")
@JSON
def verify(artifact: Path, device: str | None, as_json: bool) -> None:
    """Check an artifact's hashes and its reference outputs.

    What differs between its environment and this one is named.
    """
    from dataclasses import asdict

    if not _exists(artifact / "artifact.json"):
        raise BadInput(f"{artifact} is no artifact; pass a folder that hasten optimize or hasten apply wrote")
    from hasten import artifact as artifacts

    found = artifacts.verify(artifact, device=device)
    if as_json:
        click.echo(json.dumps(asdict(found)))
    else:
        for difference in found.differences:
            click.echo(f"environment {difference}")
        if found.agreement_db is not None:
            click.echo(f"reference   outputs agree to {found.agreement_db:.1f} dB")
        click.echo(f"files       {found.files} hashes checked")
    if found.problems:
        raise HastenError(f"{artifact} does not verify: {'; '.join(found.problems)}; make it again with hasten apply")
    if not as_json:
        click.echo("verified")


@cli.command()
@click.argument("plan", type=click.Path(path_type=Path))
@click.argument("source", type=click.Path(path_type=Path))
@OUT
@GUIDANCE
@STEPS
@DEVICE
@click.option("--slim", is_flag=True, help="Leave out the model's own weights; the plan must bring an engine.")
def apply(plan: Path, source: Path, out: Path, guidance: float, steps: int, device: str, slim: bool) -> None:
    """Apply a plan to a model folder and save the artifact."""
    if _exists(out):
        raise BadInput(f"{out} exists; choose another --out")
    if not _exists(plan):
        raise BadInput(f"plan {plan} does not exist; pass a plan.toml")
    _check(str(source), out=out, copies=2, prepares=True)
    from hasten import artifact, load
    from hasten.technique import plan as plans

    artifact.save(out, load(source, guidance=guidance, device=device, steps=steps), plans.read(plan), slim=slim)
    made = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    _say(f"written     {out} ({size(made)})")


@cli.command()
@click.option("--figure", default="speedup", show_default=True, help="What to show: speedup, quality_loss, ...")
@click.option("--kind", help="Runs of one command only: optimize, compare, profile, bench.")
@click.option("--subject", help="Runs of one subject only.")
@click.option(
    "--last", default=20, show_default=True, type=click.IntRange(1, 10**6), help="The newest runs of each series."
)
@click.option("--file", type=click.Path(path_type=Path), help="Another history than HASTEN_HISTORY or the usual one.")
@JSON
def history(figure: str, kind: str | None, subject: str | None, last: int, file: Path | None, as_json: bool) -> None:
    """Show a figure over past runs, and where it changed.

    Every run adds a line to the history.  Only runs of the same things on the same machine are held against each other,
    and only by figures that were measured in pairs.
    """
    from dataclasses import asdict

    from hasten import history as runs
    from hasten.report import history_text

    path = file or runs.place()
    if path is None:
        off = os.environ.get("HASTEN_HISTORY") is not None
        raise BadInput(f"{'HASTEN_HISTORY is off' if off else 'no home folder is known'}; name a history with --file")
    entries, unreadable = runs.read(path)
    found = runs.series(runs.select(entries, kind, subject), figure)
    if as_json:
        shown = [asdict(one) | {"runs": [asdict(run) for run in one.runs[-last:]]} for one in found]
        click.echo(json.dumps({"file": str(path), "unreadable": unreadable, "series": shown}))
    else:
        _say(history_text.table(found, last, unreadable))


@cli.command()
@JSON
def env(as_json: bool) -> None:
    """Show this machine as timings see it, with its measured peaks."""
    from dataclasses import asdict

    from hasten.environment import environment, fingerprint
    from hasten.measure import roofline
    from hasten.technique.plan import TECHNIQUES

    found = environment()
    peaks = asdict(roofline.peaks("cpu", fingerprint(found)))
    rests_on = {technique.name: technique.rests_on() for technique in TECHNIQUES}
    if as_json:
        click.echo(json.dumps({**found, "fingerprint": fingerprint(found), "peaks": peaks, "techniques": rests_on}))
        return
    _say(console.machine(found, fingerprint(found), peaks, rests_on))


@cli.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@OUT
@click.option("--resume", is_flag=False, flag_value="newest", help="Go on from the newest checkpoint, or from PATH.")
@click.option("--plan", is_flag=True, help="Only print the peak memory and time of a step, by choice, and check them.")
def train(recipe: Path, out: Path, resume: str | None, plan: bool) -> None:
    """Train a model as RECIPE.toml says."""
    if not _exists(recipe):
        raise BadInput(f"recipe {recipe} does not exist; pass a recipe.toml")
    _check(out=None if plan else out)
    from hasten.train import recipe as recipes

    read = recipes.read(recipe)
    guard.check_memory(read.least_bytes, f"{recipe}: a step of {read.train.batch_size:,} samples")
    if plan:
        from hasten.report import train_text
        from hasten.train import forecast as plans

        with console.progress() as report:
            found = list(plans.measured(read, list(plans.rows(read)), lambda row: report("plan", row, 0.0)))
        click.echo(train_text.step_table(found))
        return
    from hasten.report import train_text
    from hasten.train import loop

    where: bool | Path = True if resume == "newest" else Path(resume) if resume else False
    with train_text.training() as (progress, warn):
        folder = loop.train(read, out, where, progress, warn)
    _say(f"written     {folder}")


@cli.command()
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
    _check(source, data=data, out=out, copies=1)
    from hasten import commands, load
    from hasten.distill import sparse, student

    loaded = load(source)
    if count is not None:
        given = commands.data_for(loaded, data)
        if given is None:
            raise BadInput("the damage of blocks is measured on data; give --data")
        with console.progress() as progress:
            found = student.drop_blocks(loaded, count, given, out, console.counted(progress, "damage"))
        click.echo(console.blocks(found))
        _say(f"{'written':<12}{out}")
        return
    if channels is None:
        with console.progress() as progress:
            found = sparse.prune(loaded, sparsity, pattern, out, console.counted(progress, "speed"))
        click.echo(console.sparse(found, found["speeds"]))
        _say(f"{'written':<12}{out}")
        return
    share = student.asked(channels if Path(channels).is_file() else f"channels={channels}")
    given = commands.data_for(loaded, data)
    with console.progress() as progress:
        config = student.prune(loaded, share, importance, given, out, console.counted(progress, "prune"))
    click.echo(f"{'channels':<12}{config['block_out_channels']}")
    _say(f"{'written':<12}{out}")


@cli.command()
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
    _check(source, *begun, data=data, out=out, images=1, copies=0 if begun else 1)
    if "=" not in student and not _exists(Path(student)):
        raise BadInput(f"--student {student}: no file or folder; give channels=0.5, a config.json or a model folder")
    from hasten import load
    from hasten.distill import student as students
    from hasten.report import train_text

    with train_text.training() as (progress, warn):
        folder = students.distill(
            load(source), student, data, seconds, out, resume=resume, seed=seed, batch_size=batch, cached=cached,
            features=features, progress=progress, warn=warn,
        )  # fmt: skip
    _say(f"written     {folder}")


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
def report(run: Path) -> None:
    """Write the page of a RUN: of training, of optimize, or a profile."""
    if not _exists(run):
        raise BadInput(f"{run} does not exist; pass the --out of a command")
    from hasten.report import page, profile_page, train_page

    writers = {"result.json": page.write, "profile.json": profile_page.write, "metrics.jsonl": train_page.write}
    found = [write for name, write in writers.items() if (run / name).is_file()]
    if not found:
        raise BadInput(f"{run} holds no run (none of {', '.join(writers)}); pass the --out of a command")
    _say(f"{'written':<12}{found[0](run)}")


@cli.command()
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
    if not _exists(run):
        raise BadInput(f"{run} does not exist; pass the --out of hasten train")
    if _exists(out):
        raise BadInput(f"{out} exists; choose another --out")
    _check(out=out)
    from hasten.train import reaverage

    with console.progress() as report:
        tried = reaverage.reaverage(run, out, length, step, lambda what: report("average", what, 0.0))
    for number, each in enumerate(tried):
        click.echo(f"{'taken' if number == 0 else '':<12}sigma_rel {each.sigma_rel:<6g} held-out loss {each.loss:.5g}")
    _say(f"{'written':<12}{out}")


def _optimize(
    source: str,
    data: str | None,
    out: Path,
    budgets: tuple[tuple[str, float], ...],
    goal: str,
    seconds: float,
    batch: int | None,
    seed: int,
    resume: bool,
    guidance: float,
    as_json: bool,
    features: str | None = None,
    device: str = "cpu",
    students: tuple[str, ...] = (),
    steps: int = 50,
) -> None:
    from hasten import commands

    with console.progress() as progress:
        result = commands.optimize(
            source, data, out, {"quality": 0.02, **dict(budgets)}, goal, seconds, batch, seed, resume,
            guidance, progress, features, device, students, steps,
        )  # fmt: skip
    _say(json.dumps(result) if as_json else console.summary(result, out))
    if result["interrupted"]:
        sys.exit(130)
    if not result["passed"]:
        sys.exit(3)


def _exists(path: Path) -> bool:
    """Whether something is there, be it a link to nothing; raises BadInput for what can't be a path here."""
    try:
        str(path).encode()
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except UnicodeEncodeError:
        raise BadInput(f"{path}: the name is not UTF-8; rename it") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: {why(error)}; check the path") from None
    return True


def _check(
    *sources: str,
    data: str | None = None,
    out: Path | None = None,
    images: int = 0,
    kept: int = 0,
    device: str = "cpu",
    copies: int = 0,
    prepares: bool = False,
) -> None:
    """Raise BadInput, before torch is imported, for a model, data or a folder to write to that can't be used.

    A model's sampling of ``images`` at once must have room in memory, with ``kept`` samples beside; so many ``copies``
    of the first model's float32 weights on the disk of ``out``, and, where a command ``prepares`` graphs, of the cache.
    """
    if out is not None:
        _check_out(out)
    if data is not None and data not in ("emoji", "digits") and not (_exists(Path(data)) and Path(data).is_dir()):
        raise BadInput(f"data {data!r} is no folder and no known name{did_you_mean(data, ('emoji', 'digits'))}")
    for text in sources:
        folder, plus, plan = text.rpartition("+")
        if not plus or _exists(Path(text)):
            folder, plan = text, ""
        if plan and not _exists(Path(plan)):
            raise BadInput(f"plan {plan} does not exist; pass a plan.toml")
        from hasten.model.config import read_folder

        place, weights = Path(folder), True
        if _exists(place) and _exists(place / "artifact.json"):
            if not (place / "source").is_dir():  # a module of a person's own
                continue
            place, weights = place / "source", False
        spec = read_folder(place, weights)
        if device == "cpu":
            many = f"{text}: {images} at once of shape {spec.shape}" if images else text
            guard.check_memory(spec.least_bytes(images) + kept * spec.sample_bytes, many)
        if out is not None and copies and text == sources[0]:
            needed = copies * spec.float32_bytes
            for disk in (out, *([cache_folder()] if prepares else ())):
                guard.check_room(disk, needed, f"{copies} copies of the weights" if copies > 1 else "the weights")


def _check_out(out: Path) -> None:
    if _exists(out) and not out.is_dir():
        raise BadInput(f"--out {out} is a file; name a folder that is not there yet")
    there = out.absolute()
    while not _exists(there):
        there = there.parent
    if not there.is_dir():
        raise BadInput(f"--out {out}: {there} is no folder; choose another")
    if not os.access(there, os.W_OK | os.X_OK):
        raise BadInput(f"--out {out}: {there} can't be written to; choose another")


def _say(text: str) -> None:
    """Print what may hold names of files, none of which reaches the terminal as a command to it."""
    click.echo(console.plain(text, keep="\n"))


def _complain(text: str) -> None:
    """One line on standard error, of a length that can be read."""
    line = console.plain(text)
    if len(line) > MOST_SHOWN:
        line = f"{line[: MOST_SHOWN // 2]} ... {line[-MOST_SHOWN // 2 :]}"
    click.echo(line, err=True)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; the errors that hasten raises become one line and an exit status."""
    debug = "--debug" in (sys.argv[1:] if arguments is None else arguments)
    # remarks on parts that are not used here, and on folders of a person without a home
    for name in ("torchao", "diffusers.quantizers", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.DEBUG if debug else logging.ERROR)
    given = sys.argv[1:] if arguments is None else arguments
    command = next((f"hasten {word}" for word in given if word in cli.commands), "hasten")
    sys.exit(_exit_status(lambda: cli.main(arguments, prog_name="hasten", standalone_mode=False), debug, command))


def _exit_status(call: Callable[[], Any], debug: bool, command: str = "hasten") -> int:
    try:
        call()
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.exceptions.NoArgsIsHelpError as help:
        click.echo(help.format_message())
        return 2
    except click.ClickException as error:
        _complain(f"error: {' '.join(error.format_message().split()).rstrip('.')}; see {command} --help")
        return 2
    except (KeyboardInterrupt, click.Abort) as stop:  # click puts its own exception before the one that says where
        said = str(stop) or str(stop.__cause__ or "")
        _complain(said or "interrupted; what was written is whole, and a command with --resume goes on")
        return 130
    except BrokenPipeError:  # who reads the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except (HastenError, OSError, OverflowError) as error:
        _complain(f"error: {_line(error)}")
        if debug:
            traceback.print_exc()
        return error.exit_code if isinstance(error, HastenError) else 2
    except Exception as error:
        if debug:
            raise
        if isinstance(error, MemoryError) or NO_MEMORY.search(str(error)):
            _complain("error: there is not enough memory; use a smaller --batch or model")
            return 2
        first = (str(error).strip().splitlines() or [""])[0]
        _complain(f"error: {type(error).__name__}: {first}; run again with --debug for the traceback")
        return 1
    return 0


def _line(error: Exception) -> str:
    """What a person reads of an error; of the system's own, with the path it is about."""
    if isinstance(error, HastenError):
        return str(error)
    if isinstance(error, OverflowError):
        return f"a number is too large ({error}); use a smaller one"
    path = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
    return f"{path}{why(error)}; check the path, or run again with --debug for the traceback"
