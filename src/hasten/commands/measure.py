"""Commands that measure, and show what was measured."""

from __future__ import annotations

import json
import os
import re
import sys
from contextlib import nullcontext
from pathlib import Path

import click

from hasten import guard
from hasten.commands.options import DEVICE, FEATURES, JSON, SEED, Seconds, check, data_for, exists, say
from hasten.errors import BadInput
from hasten.files import write_text
from hasten.report import result_text, terminal

RESULT_BYTES, TRACE_BYTES = 10**6, 3 * 10**7


@click.command()
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
    check(a, b, data=data, out=out and out.parent, images=most, device=device)
    if out is not None:
        guard.check_room(out.parent, RESULT_BYTES, "the result")
    from hasten import subject
    from hasten.measure.features import bring
    from hasten.story import compare as story

    brought = None if features is None else bring(features)
    first, second = (subject.read(text, device=device) for text in (a, b))
    with nullcontext() if out is None else guard.claimed(out), terminal.progress() as progress:
        result = story.compare(
            first,
            second,
            data=data_for(first.source, data),
            kind=kind,
            rounds=rounds,
            images=batch,
            batches=[int(size) for size in sizes],
            conditions=conditions,
            features=brought,
            seconds=seconds,
            seed=seed,
            device=device,
            progress=progress,
        )
        if out is not None:
            write_text(out, json.dumps(result, indent=1) + "\n")
    say(json.dumps(result) if as_json else result_text.comparison(result))
    if conditions:
        sys.exit(gates.exit_status(answer["verdict"] for answer in result["gate"]))


@click.command()
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
    check(source, data=data, out=out, images=batch, device=device)
    if out is not None:
        guard.check_room(out, TRACE_BYTES, "the trace")
    from hasten import subject
    from hasten.report import profile_page, profile_text
    from hasten.story import profile as story

    words = [f" --data {data}" if data else "", " --train" if train else "", f" --out {out}" if out else ""]
    command = f"hasten profile {source} --what {what} --batch {batch}{''.join(words)}"
    named = subject.read(source, device=device)
    with terminal.progress() as progress:
        result = story.profile(
            named,
            what=what,
            data=data_for(named.source, data),
            images=batch,
            train=train,
            device=device,
            out=out,
            seed=seed,
            command=command,
            progress=progress,
        )
    if out is not None:
        profile_page.write(out)
    say(json.dumps(result) if as_json else profile_text.summary(result, out))


@click.command()
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
        say(history_text.table(found, last, unreadable))


@click.command()
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
    say(result_text.machine(found, fingerprint(found), peaks, rests_on))


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
def report(run: Path) -> None:
    """Write the page of a RUN: of training, of optimize, or a profile."""
    if not exists(run):
        raise BadInput(f"{run} does not exist; pass the --out of a command")
    from hasten.report import page, profile_page, train_page

    writers = {"result.json": page.write, "profile.json": profile_page.write, "metrics.jsonl": train_page.write}
    found = [write for name, write in writers.items() if (run / name).is_file()]
    if not found:
        raise BadInput(f"{run} holds no run (none of {', '.join(writers)}); pass the --out of a command")
    say(result_text.written(found[0](run)))
