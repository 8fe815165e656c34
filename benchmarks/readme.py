"""Puts the summary of the last demo, the table of opponents and what training costs into the README.

    make demo && python benchmarks/readme.py
    make bench
    python benchmarks/smaller.py
    python benchmarks/train_speed.py; python benchmarks/train_faults.py; python benchmarks/train_kills.py

The last demo's result.json is kept as benchmarks/results/demo.json, so that the README's figures have their raw data.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from opponents import table

from hasten.console import summary
from hasten.files import write_text

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
DEMO = ROOT / "runs" / "demo"


def filled(text: str, name: str, block: str) -> str:
    """``text`` with ``block`` between its markers ``name``.  Raises SystemExit where they are not there once."""
    marked = f"<!-- {name} -->\n{block}\n<!-- /{name} -->"
    text, count = re.subn(rf"<!-- {name} -->.*?<!-- /{name} -->", lambda _: marked, text, flags=re.DOTALL)
    if count != 1:
        raise SystemExit(f"README.md has {count} blocks <!-- {name} -->, one is needed")
    return text


def demo() -> str:
    """The summary of the last demo, whose result is kept."""
    made = json.loads((DEMO / "result.json").read_text(encoding="utf-8"))
    made["source"]["folder"] = Path(made["source"]["folder"]).name
    write_text(RESULTS / "demo.json", json.dumps(made, indent=1) + "\n")
    return shown(made)


def shown(made: dict[str, Any]) -> str:
    """A demo's result as its terminal has it."""
    return f"```\n$ make demo\n{summary(made, Path('runs/demo'))}\n```"


def result(name: str) -> dict[str, Any]:
    """What a benchmark wrote."""
    read: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return read


def train() -> str:
    """Seconds and peaks of a training step against the plain loop, then faults and kills in a sentence each."""
    measured = result("train_speed")
    cores, halves = measured["environment"], []
    lines = ["| | s/step | images/s (95 % interval) | peak memory |", "| --- | --- | --- | --- |"]
    for speed, peaks in zip(measured["speed"], measured["peaks"], strict=True):
        shape = f"{speed['size']}x{speed['size']}, batch {speed['batch']}"
        for name, side in speed["sides"].items():
            ratio = f"{side['speedup']:.2f}x ({side['low']:.2f} to {side['high']:.2f})"
            peak = peaks["sides"].get(name, {}).get("share")
            memory = "" if peak is None else f"{peak:.2f}x"
            if name == "plain float32":
                ratio, memory = "1", f"{peaks['plain']['peak_bytes'] / 2**20:.0f} MiB"
            lines.append(f"| {shape}: {name} | {side['seconds']:.2f} | {ratio} | {memory} |")
            if "of_plain_bfloat16" in side and name != "plain bfloat16":
                of, low, high = side["of_plain_bfloat16"]
                halves.append(f"{speed['size']}x{speed['size']} {name} {of:.2f}x ({low:.2f} to {high:.2f})")
    if halves:
        lines += ["", f"Images/s against the plain loop in bfloat16: {'; '.join(halves)}."]
    lines += ["", f"Measured on {cores['cores']} cores with {', '.join(cores['cpu_flags'])}."]
    faults, kills = result("train_faults"), result("train_kills")
    lines += [
        "",
        f"Of {len(faults['rows'])} runs with planted faults {faults['finished']} finished, {faults['within']} of them "
        f"within 2 % of the clean run's held-out loss, the furthest {faults['furthest']:.1%} off "
        "(`benchmarks/train_faults.py`).",
        f"{kills['kills']} times `kill -9`, {kills['in_a_save']} of them in the middle of a save: {kills['lost']} "
        f"checkpoints lost, {kills['unreadable']} unreadable, {kills['ends_that_differ']} of {kills['runs']} runs "
        "ended with other bytes (`benchmarks/train_kills.py`).",
    ]
    return "\n".join(lines)


def smaller() -> str:
    """Half the channels: what recovery took, the comparison with the teacher, and the search with it."""
    found = result("smaller")
    compared, stack = found["compare"], found["stack"]

    def figures(speedup: dict[str, Any], quality: dict[str, Any], before: str, after: str) -> str:
        times = f"{speedup['ratio']:.3g}x as fast ({speedup['low']:.3g} to {speedup['high']:.3g})"
        distances = f"distance {quality[before]:.4g} to {quality[after]:.4g}"
        loss = f"{quality['loss_low']:+.1%} to {quality['loss_high']:+.1%}"
        return f"{times}, {distances} ({loss}; {quality['verdict']})"

    before, after = (stack[each]["weight_bytes"] / 1e6 for each in ("baseline", "candidate"))
    sides = ("baseline_distance", "candidate_distance")
    lines = (
        f"the student: {found['share_of_weights']:.0%} of the weights, {found['share_of_flops']:.0%} of the FLOPs, "
        f"recovered in {found['steps']} steps, {found['share_of_training_flops']:.1%} of the FLOPs of its teacher's "
        "training",
        f"against its teacher, PyTorch as it comes: {figures(compared['speedup'], compared['quality'], *sides)}",
        f"with {', '.join(stack['candidate']['label'][:-1])}: {figures(stack['speedup'], stack['quality'], *sides)}, "
        f"{after:.2f} MB instead of {before:.2f} MB",
    )
    return "\n".join(f"- {line}" for line in lines)


def linear() -> str:
    """A transformer's engines against `torch.compile` in float32, the fastest first."""
    found = result("int8_linear")
    lines = [f"| against {found['reference']} | faster | drift from float32 |", "| --- | --- | --- |"]
    for name, row in sorted(found["rows"].items(), key=lambda each: -each[1]["speed"]):
        lines.append(
            f"| {name} | {row['speed']:.2f}x ({row['low']:.2f} to {row['high']:.2f}) | {row['drift_db']:.1f} dB |"
        )
    return "\n".join(lines)


def main() -> None:
    readme = ROOT / "README.md"
    text = readme.read_text("utf-8")
    if (DEMO / "result.json").exists():
        text = filled(text, "demo", demo())
    if (RESULTS / "opponents.json").exists():
        text = filled(text, "bench", table(result("opponents")))
    if (RESULTS / "smaller.json").exists():
        text = filled(text, "smaller", smaller())
    if (RESULTS / "int8_linear.json").exists():
        text = filled(text, "linear", linear())
    if all((RESULTS / f"train_{name}.json").exists() for name in ("speed", "faults", "kills")):
        text = filled(text, "train", train())
    write_text(readme, text)


if __name__ == "__main__":
    main()
