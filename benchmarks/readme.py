"""Writes what of README and docs is made by commands: the demo's lines, every table of figures, the pages of commands.

    python benchmarks/readme.py            # all of it anew, from benchmarks/results/ and the code
    make demo; python benchmarks/readme.py --demo     # keeps that run first: its figures and its pictures

A block stands between ``<!-- NAME -->`` and ``<!-- /NAME -->``.  benchmarks/results/demo.json keeps the last run of
each kind of processor, so that the figures have their raw data.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import data
import numpy as np
import opponents
import pages
from PIL import Image

from hasten.files import size, write_text
from hasten.report.result_text import summary

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
DEMO = ROOT / "runs" / "demo"
IMAGES = ROOT / "docs" / "images"
ROWS, COLUMNS, SCALE = 3, 8, 2  # of the pictures: samples, and screen pixels to a pixel
SHORT = 6  # lines of the demo that README shows
SHOWN = 12  # packages that the table of what is installed names


def filled(text: str, name: str, block: str, where: str = "README.md") -> str:
    """``text`` with ``block`` between its markers ``name``.  Raises SystemExit where they are not there once."""
    marked = f"<!-- {name} -->\n\n{block}\n\n<!-- /{name} -->"
    text, count = re.subn(rf"<!-- {name} -->.*?<!-- /{name} -->", lambda _: marked, text, flags=re.DOTALL)
    if count != 1:
        raise SystemExit(f"{where} has {count} blocks <!-- {name} -->, one is needed")
    return text


def result(name: str) -> dict[str, Any]:
    """What a benchmark wrote."""
    read: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return read


def keep_demo() -> None:
    """The last demo's result in place of an older one of the same kind of processor, and its first pictures."""
    made = json.loads((DEMO / "result.json").read_text(encoding="utf-8"))
    made["source"]["folder"] = Path(made["source"]["folder"]).name
    kept = result("demo") | {pages.processor(made["environment"]): made}
    write_text(RESULTS / "demo.json", json.dumps(kept, indent=1) + "\n")
    IMAGES.mkdir(exist_ok=True)
    with np.load(DEMO / "samples.npz", allow_pickle=False) as samples:
        for side, name in (("baseline", "before"), ("candidate", "after")):
            picture(samples[side]).save(IMAGES / f"{name}.png", optimize=True)


def picture(samples: np.ndarray) -> Image.Image:
    """The first samples (n, 3, height, width) in [-1, 1] as one grid."""
    tiles = ((samples[: ROWS * COLUMNS].clip(-1, 1) + 1) * 127.5).round().astype(np.uint8)
    _, channels, height, width = tiles.shape
    grid = tiles.reshape(ROWS, COLUMNS, channels, height, width).transpose(0, 3, 1, 4, 2)
    image = Image.fromarray(grid.reshape(ROWS * height, COLUMNS * width, channels))
    return image.resize((image.width * SCALE, image.height * SCALE), Image.Resampling.NEAREST)


def newest() -> dict[str, Any]:
    """The demo that was run last, which the pictures are of."""
    made: dict[str, Any] = max(result("demo").values(), key=lambda each: each["created"])
    return made


def demo_lines() -> list[str]:
    """The newest demo as its terminal has it."""
    return summary(newest(), Path("runs/demo")).splitlines()


def before_and_after() -> str:
    """Both pictures side by side, each with its seconds, and the speed-up."""
    made = newest()
    sides = [f"{made[side]['seconds_per_image']:.3g} s an image" for side in ("baseline", "candidate")]
    labels = [", ".join(made[side]["label"]) for side in ("baseline", "candidate")]
    faster = f"**{made['speedup']['ratio']:.3g} times as fast**"
    return "\n".join(
        (
            f"| before: {labels[0]} | after: {labels[1]} |",
            "| --- | --- |",
            "| ![24 samples of the model as it was](docs/images/before.png) "
            "| ![the same 24 samples, optimised](docs/images/after.png) |",
            f"| {sides[0]} | {sides[1]}: {faster} |",
        )
    )


def demo_short() -> str:
    """The first things that the demo says, and where it was run."""
    lines = demo_lines()
    starts = [n for n, line in enumerate(lines) if not line.startswith(" ")]
    text = "\n".join(lines[: starts[SHORT]])
    return f"```text\n{text}\n```\n\n{measured_on(newest())}"


def demo_whole() -> str:
    """All that the demo says, and where it was run."""
    text = "\n".join(demo_lines())
    return f"```text\n{text}\n```\n\n{measured_on(newest())}"


def processors() -> str:
    """A row for each kind of processor that the demo was run on, the newest run first."""
    lines = [
        "| demo on | before | after | faster (95 % interval) | loss of quality | run |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for made in sorted(result("demo").values(), key=lambda each: each["created"], reverse=True):
        seconds = [f"{made[side]['seconds_per_image']:.3g} s" for side in ("baseline", "candidate")]
        speed = made["speedup"]
        lines.append(
            f"| {pages.machine(made['environment'])} | {seconds[0]} | {seconds[1]} | {speed['ratio']:.3g}x "
            f"({speed['low']:.3g} to {speed['high']:.3g}) | {made['quality']['verdict']} | {made['created'][:10]}, "
            f"`{made['environment']['commit'][:7]}` |"
        )
    return "\n".join(lines)


def measured_on(*results: dict[str, Any]) -> str:
    """A sentence on the machine, or machines, that figures are from."""
    found = dict.fromkeys(pages.machine(each["environment"]) for each in results)
    return f"Measured on {'; '.join(found)}."


def bench() -> str:
    """hasten against what people run today."""
    return f"{opponents.table(result('opponents'))}\n\n{measured_on(result('opponents'))}"


def loading() -> str:
    """Folders of many pictures."""
    return f"{data.table(result('data'))}\n\n{measured_on(result('data'))}"


def train() -> str:
    """Seconds and peaks of a training step against the plain loop."""
    measured, halves = result("train_speed"), []
    lines = ["| | s/step | images/s (95 % interval) | peak memory |", "| --- | --- | --- | --- |"]
    for speed, peaks in zip(measured["speed"], measured["peaks"], strict=True):
        shape = f"{speed['size']}x{speed['size']}, batch {speed['batch']}"
        for name, side in speed["sides"].items():
            ratio = f"{side['speedup']:.2f}x ({side['low']:.2f} to {side['high']:.2f})"
            peak = peaks["sides"].get(name, {}).get("share")
            memory = "" if peak is None else f"{peak:.2f}x"
            if name == "plain float32":
                ratio, memory = "1", size(peaks["plain"]["peak_bytes"])
            lines.append(f"| {shape}: {name} | {side['seconds']:.2f} | {ratio} | {memory} |")
            if "of_plain_bfloat16" in side and name != "plain bfloat16":
                of, low, high = side["of_plain_bfloat16"]
                halves.append(f"{speed['size']}x{speed['size']} {name} {of:.2f}x ({low:.2f} to {high:.2f})")
    if halves:
        lines += ["", f"Images/s against the plain loop in bfloat16: {'; '.join(halves)}."]
    return "\n".join([*lines, "", measured_on(measured)])


def faults() -> str:
    """What planted faults and kills did to training, a sentence each."""
    planted, kills = result("train_faults"), result("train_kills")
    return "\n".join(
        (
            f"- Of {len(planted['rows'])} runs with planted faults {planted['finished']} finished, "
            f"{planted['within']} of them within 2 % of the clean run's held-out loss, the furthest "
            f"{planted['furthest']:.1%} off (`benchmarks/train_faults.py`).",
            f"- {kills['kills']} times `kill -9`, {kills['in_a_save']} of them in the middle of a save: "
            f"{kills['lost']} checkpoints lost, {kills['unreadable']} unreadable, "
            f"{kills['ends_that_differ']} of {kills['runs']} runs ended with other bytes "
            "(`benchmarks/train_kills.py`).",
            "",
            measured_on(planted, kills),
        )
    )


def smaller() -> str:
    """Half the channels: what recovery took, the comparison with the teacher, and the search with it."""
    found = result("smaller")
    compared, stack = found["compare"], found["stack"]

    def figures(speedup: dict[str, Any], quality: dict[str, Any], before: str, after: str) -> str:
        times = f"{speedup['ratio']:.3g}x as fast ({speedup['low']:.3g} to {speedup['high']:.3g})"
        distances = f"distance {quality[before]:.4g} to {quality[after]:.4g}"
        loss = f"{quality['loss_low']:+.1%} to {quality['loss_high']:+.1%}"
        return f"{times}, {distances} ({loss}; {quality['verdict']})"

    before, after = (size(stack[each]["weight_bytes"]) for each in ("baseline", "candidate"))
    sides = ("baseline_distance", "candidate_distance")
    lines = (
        f"the student: {found['share_of_weights']:.0%} of the weights, {found['share_of_flops']:.0%} of the FLOPs, "
        f"recovered in {found['steps']} steps, {found['share_of_training_flops']:.1%} of the FLOPs of its teacher's "
        "training",
        f"against its teacher, PyTorch as it comes: {figures(compared['speedup'], compared['quality'], *sides)}",
        f"with {', '.join(stack['candidate']['label'][:-1])}: {figures(stack['speedup'], stack['quality'], *sides)}, "
        f"{after} instead of {before}",
    )
    return "\n".join([*(f"- {line}" for line in lines), "", measured_on(found)])


def linear() -> str:
    """A transformer's engines against `torch.compile` in float32, the fastest first."""
    found = result("int8_linear")
    lines = [f"| against {found['reference']} | faster | drift from float32 |", "| --- | --- | --- |"]
    for name, row in sorted(found["rows"].items(), key=lambda each: -each[1]["speed"]):
        lines.append(
            f"| {name} | {row['speed']:.2f}x ({row['low']:.2f} to {row['high']:.2f}) | {row['drift_db']:.1f} dB |"
        )
    return "\n".join([*lines, "", measured_on(found)])


def install() -> str:
    """Packages by what they take on disk, the largest first."""
    found = result("install")
    rows = sorted(found["rows"], key=lambda row: -row["bytes"])
    lines = ["| package | on disk | to install |", "| --- | --- | --- |"]
    lines += [f"| {row['name']} | {size(row['bytes'])} | {row['seconds']:.1f} s |" for row in rows[:SHOWN]]
    rest = rows[SHOWN:]
    for name, part in ((f"{len(rest)} others", rest), (f"all {len(rows)}", rows)):
        lines.append(f"| {name} | {size(sum(r['bytes'] for r in part))} | {sum(r['seconds'] for r in part):.0f} s |")
    return "\n".join([*lines, "", measured_on(found)])


# What stands between which markers of which file.
BLOCKS: tuple[tuple[str, str, Callable[[], str]], ...] = (
    ("README.md", "pictures", before_and_after),
    ("README.md", "demo", demo_short),
    ("README.md", "processors", processors),
    ("docs/getting-started.md", "demo", demo_whole),
    ("docs/getting-started.md", "install", install),
    ("docs/figures.md", "processors", processors),
    ("docs/figures.md", "bench", bench),
    ("docs/figures.md", "train", train),
    ("docs/figures.md", "faults", faults),
    ("docs/figures.md", "smaller", smaller),
    ("docs/figures.md", "linear", linear),
    ("docs/figures.md", "data", loading),
    ("docs/figures.md", "results", pages.results),
    ("docs/design.md", "layers", pages.layers),
    ("docs/files.md", "files", pages.file_map),
)


def made() -> dict[Path, str]:
    """Every file that has something made in it, as it should be."""
    texts = dict(pages.written())
    for name, block, make in BLOCKS:
        path = ROOT / name
        texts[path] = filled(texts.get(path) or path.read_text("utf-8"), block, make(), name)
    return texts


def main() -> None:
    """Write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", action="store_true", help="keep the figures and pictures of runs/demo first")
    if parser.parse_args().demo:
        keep_demo()
    for path, text in made().items():
        path.parent.mkdir(exist_ok=True)
        write_text(path, text)
    stale = set((ROOT / "docs" / "commands").glob("*.md")) - set(made())
    for path in stale:
        path.unlink()


if __name__ == "__main__":
    main()
