"""What a command prints once it is done, in lines of at most 80 columns; every figure from its result.  No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hasten.files import size
from hasten.report.terminal import WIDTH, filled

UNITS = {"sample": "case", "step": "evaluation", "train-step": "step", "epoch": "epoch"}


def written(path: Path, num_bytes: int | None = None) -> str:
    """The last line: where it is."""
    return f"{'written':<12}{path}{'' if num_bytes is None else f' ({size(num_bytes)})'}"


def verification(differences: Sequence[str], agreement_db: float | None, files: int) -> str:
    """What an artifact's check says beside problems."""
    lines = [f"{'environment':<12}{difference}" for difference in differences]
    lines += [] if agreement_db is None else [f"{'reference':<12}outputs agree to {agreement_db:.1f} dB"]
    return "\n".join([*lines, f"{'files':<12}{files} hashes checked"])


def summary(result: dict[str, Any], out: Path) -> str:
    """The run in a few lines of at most 80 columns; every figure from ``result``."""
    sides = [
        (name, result[side])
        for name, side in (("baseline", "baseline"), ("optimised" if result["passed"] else "lost", "candidate"))
    ]
    labels = [", ".join(side["label"]) for _, side in sides]
    seconds = [f"{side['seconds_per_image']:.3g} s/image" for _, side in sides]
    width = max(map(len, labels))
    width = width if 12 + width + 2 + max(map(len, seconds)) <= WIDTH else 0  # side by side where there is room
    lines = [
        f"{name:<12}{label:<{width}}  {each}" for (name, _), label, each in zip(sides, labels, seconds, strict=True)
    ]
    lines.append(f"{'speed':<12}{speed_line(result['speedup'])}")
    lines.append(f"{'quality':<12}{quality_line(result['quality'])}")
    memory = [side["peak_bytes"] for _, side in sides]
    if None not in memory:
        lines.append(f"{'memory':<12}peak {size(memory[0])} -> {size(memory[1])}")
    disk = [side["weight_bytes"] for _, side in sides]
    if None not in disk:
        lines.append(f"{'on disk':<12}network {size(disk[0])} -> {size(disk[1])}")
    adds = ", ".join(f"{row['label']} {row['ratio']:.2g}x" for row in result["attribution"])
    if adds:
        lines.append(f"{'each adds':<12}{adds}   (removed one at a time)")
    fronts = sum(row["front"] is not None for row in result["candidates"])
    if fronts > 1:
        lines.append(f"{'front':<12}{fronts} plans, none better than another in all; hasten apply {out}/front/1.toml")
    for n, row in enumerate(result["refused"]):
        lines.append(f"{'refused' if n == 0 else '':<12}{row['label']}: {row['reason']}")
    lines += [f"{'warning':<12}{warning}" for warning in dict.fromkeys(result["warnings"])]
    saved = ",plan.toml,artifact/" if result["passed"] else ""
    lines.append(f"{'written':<12}{out}/{{report.html,result.json{saved}}}")
    return "\n".join(filled(line) for line in lines)


def comparison(result: dict[str, Any]) -> str:
    """What `hasten compare` found, in a few lines of at most 80 columns; every figure from ``result``."""
    lines = []
    for name in ("a", "b"):
        side = result[name]
        shown = f"{side['seconds']:.3g} s/{UNITS[result['kind']]}"
        if result["kind"] == "sample":
            shown = f"{side['seconds_per_image']:.3g} s/image"
        elif "images_per_second" in side:
            shown += f", {side['images_per_second']:.3g} images/s"
        lines.append(f"{name.upper():<12}{', '.join(side['label'])} ({side['subject']}): {shown}")
    lines.append(f"{'speed':<12}B against A: {speed_line(result['speedup'])}")
    if result["quality"] is not None:
        lines.append(f"{'quality':<12}{quality_line(result['quality'])}")
    peaks = [result[name]["peak_bytes"] for name in ("a", "b")]
    if None not in peaks:
        lines.append(f"{'memory':<12}peak {size(peaks[0])} -> {size(peaks[1])}")
    if len(result["curve"]) > 1:
        lines.append(f"{'batch':<12}{'A images/s':>10}  {'B images/s':>10}  speed, 95 % interval")
        for row in result["curve"]:
            per_second = [row["images_per_second"][name] for name in ("a", "b")]
            figures = "  ".join(f"{'-' if v is None else format(v, '.3g'):>10}" for v in per_second)
            found = row["speedup"]
            interval = found["reason"]
            if found["ratio"] is not None:
                interval = f"{found['ratio']:.3g}x, {found['low']:.3g} to {found['high']:.3g}, {found['verdict']}"
            lines.append(f"{row['images_per_case']:<12}{figures}  {interval}")
    lines += [
        f"{'gate' if n == 0 else '':<12}{answer['condition']} {answer['verdict']} ({answer['reason']})"
        for n, answer in enumerate(result["gate"])
    ]
    overhead = result["clock"]["overhead_share"]
    if overhead is not None:
        lines.append(f"{'clock':<12}its own cost is {overhead:.2g} of the shorter sample")
    lines += [f"{'warning':<12}{warning}" for warning in dict.fromkeys(result["warnings"])]
    return "\n".join(filled(line) for line in lines)


def speed_line(speedup: dict[str, Any]) -> str:
    """ "19.6x faster (95 % interval 19.1 to 20.2, 15 rounds)"."""
    if speedup["ratio"] is None:
        return f"not measured: {speedup['reason']}"
    interval = f"95 % interval {speedup['low']:.3g} to {speedup['high']:.3g}, {speedup['rounds']} rounds"
    if speedup["verdict"] == "FASTER":
        return f"{speedup['ratio']:.3g}x faster ({interval})"
    if speedup["verdict"] == "SLOWER":
        return f"{1 / speedup['ratio']:.3g}x slower ({interval})"
    return f"UNDECIDED at {speedup['ratio']:.3g}x ({interval}): {speedup['reason']}"


def quality_line(quality: dict[str, Any]) -> str:
    """ "distance 0.0312 -> 0.0309, noise floor 0.0011: no measurable loss; drift 31.2 dB"."""
    distances = f"distance {quality['baseline_distance']:.4g} -> {quality['candidate_distance']:.4g}"
    seen = f"loss from {quality['detectable']:.1%} would show" if quality["detectable"] is not None else "no power"
    return (
        f"{distances}, noise floor {quality['noise_floor']:.2g}: {quality['verdict']} ({seen}); "
        f"drift {quality['drift_db']:.1f} dB"
    )


def sparse(found: dict[str, Any], speeds: dict[str, Any]) -> str:
    """What zeros are worth: smaller once compressed, and by engine how much faster, or "no speed here"."""
    before, after = found["compressed"]
    lines = [
        f"{'zero':<12}{found['zero']:.1%} of the weights of convolutions and linear layers",
        f"{'compressed':<12}{size(before)} -> {size(after)} ({1 - after / before:.0%} smaller)",
    ]
    for name, comparison in speeds.items():
        interval = comparison.interval
        if interval is None:
            lines.append(f"{name:<14}{comparison.reason}")
            continue
        shown = interval.inverse()
        word = "faster" if comparison.verdict == "FASTER" else "no speed here"
        lines.append(f"{name:<14}{word}: {shown.ratio:.2f}x, {shown.low:.2f} to {shown.high:.2f}")
    return "\n".join(lines)


def blocks(found: dict[str, Any]) -> str:
    """What the answers lose without each block that could go, and which ones went."""
    lines = [f"{'without':<28}{'weights':>10}" + "".join(f"{level:>11}" for level in found["levels"])]
    for row in found["rows"]:
        shown = "".join(f"{each:>8.1f} dB" for each in row["decibels"])
        lines.append(f"{row['name']:<28}{row['parameters']:>10,}{shown}{'  gone' if row['gone'] else ''}")
    return "\n".join(lines)


def machine(
    found: Mapping[str, Any], fingerprint: str, peaks: dict[str, Any], rests_on: Mapping[str, str] | None = None
) -> str:
    """What `hasten env` says, in lines of at most 80 columns; of :func:`hasten.environment.environment`'s what is not
    known says so.  ``rests_on``: what each technique needs here, by its name."""
    gpu, memory_bytes = found["gpu"], found["memory_bytes"]
    if gpu is not None:
        parts = (gpu["name"], gpu["memory_bytes"] and size(gpu["memory_bytes"]), gpu["cuda"] and f"CUDA {gpu['cuda']}")
        gpu = ", ".join(part for part in (*parts, f"first of {gpu['count']}" if gpu["count"] > 1 else None) if part)
    rows = {
        "cpu": found["cpu"],
        "cpu flags": " ".join(found["cpu_flags"]) or "none of those that timings depend on",
        "cores": found["cores"],
        "threads": found["threads"] or "OMP_NUM_THREADS is not set",
        "memory": memory_bytes and size(memory_bytes),
        "gpu": gpu or "none",
        "os": found["os"],
        "python": found["python"],
        "packages": ", ".join(f"{name} {version}" for name, version in found["packages"].items() if version),
        "commit": found["commit"] or "not run from a checkout",
        "fingerprint": fingerprint,
        "peaks": peaks_line(peaks),
        **(rests_on or {}),
    }
    lines = [f"{name:<12}{value or 'not known'}" for name, value in rows.items()]
    return "\n".join(filled(line) for line in lines)


def peaks_line(peaks: dict[str, Any]) -> str:
    """Measured peaks of the machine for people."""
    named = {
        "float32_flops_per_second": ("GFLOP/s in float32", 1e9),
        "bf16_flops_per_second": ("in bf16", 1e9),
        "int8_flops_per_second": ("in int8", 1e9),
        "copy_bytes_per_second": ("GB/s copied", 1e9),
    }
    found = {key: peaks[key] for key in named if key in peaks}
    return ", ".join(
        f"none {named[key][0]}" if value is None else f"{value / named[key][1]:.0f} {named[key][0]}"
        for key, value in found.items()
    )
