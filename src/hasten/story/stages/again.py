"""How a run of optimize can be made again, and its plan alone: in the shell where the command takes all that it was
given, else in Python, with ``...`` for what only its author has.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from hasten.story.stages.run import Run

BROUGHT = re.compile(r"[\w.]+:[\w.]+")  # the name of features that --features brings


def whole(run: Run) -> str:
    """The whole run, into a folder beside its own."""
    settings, limits = run.settings, run.limits
    features = None if settings.features is None else settings.features.name
    students = [swap.folder for swap in settings.students]
    source, data, out = run.source, run.data, _beside(run.out, "again")
    if source.folder is None or (data is not None and not data.again) or not BROUGHT.fullmatch(features or "m:f"):
        return _in_python(run, features, students, out)
    words = ["hasten", "optimize", str(source.folder)]
    words += ["--data", data.again] if data is not None else []
    for student in students:
        words += ["--student", student]
    words += ["--features", features] if features is not None else []
    words += ["--budget", f"quality={_number(100 * limits.quality)}%"]
    for kind, most in (("memory", limits.memory_bytes), ("size", limits.size_bytes)):
        words += ["--budget", f"{kind}={math.floor(most)}B"] if most is not None else []
    words += [
        "--goal",
        limits.goal,
        "--time",
        f"{_number(settings.seconds)}s",
        "--batch",
        str(settings.images_per_case),
    ]
    return shlex.join([*words, *_sampling(run), "--seed", str(settings.seed), "--out", str(out)])


def plan(run: Run) -> str:
    """The plan alone, applied to the same model and verified."""
    file, out = run.out / "plan.toml", _beside(run.out, "faster")
    if run.source.folder is not None:
        words = ["hasten", "apply", str(file), str(run.source.folder), *_sampling(run), "--out", str(out)]
        return f"{shlex.join(words)}\n{shlex.join(['hasten', 'verify', str(out)])}"
    lines = ["from pathlib import Path", "", "import hasten", "from hasten import artifact"]
    lines += ["from hasten.technique import plan", "", *_source(run)]
    lines += [f"artifact.save(Path({str(out)!r}), source, plan.read({str(file)!r}))"]
    return "\n".join([*lines, f"print(hasten.verify({str(out)!r}, source))"])


def _in_python(run: Run, features: str | None, students: Sequence[str], out: Path) -> str:
    lines, data = ["import hasten", "", *_source(run)], run.data
    if data is not None and data.again:
        channels, *size = run.source.shape
        lines += [f"data = hasten.load_data({data.again!r}, {tuple(size)}, channels={channels}, skip_bad=True)"]
    elif data is not None:
        lines += [f"data = ...  # {data.name!r}: {len(data.samples)} samples of shape {data.shape}"]
    lines += [f"features = ...  # the extractor {features!r}"] if features is not None else []
    given = {
        "out": str(out),
        "budget": run.limits.quality,
        "goal": run.limits.goal,
        "memory_bytes": run.limits.memory_bytes,
        "size_bytes": run.limits.size_bytes,
        "seconds": run.settings.seconds,
        "images_per_case": run.settings.images_per_case,
        "seed": run.settings.seed,
        "students": list(students) or None,
    }
    words = ["source", *(["data"] if data is not None else []), *_named(given)]
    return "\n".join(
        [*lines, *_call("hasten.optimize", words + (["features=features"] if features is not None else []))]
    )


def _source(run: Run) -> list[str]:
    """The lines that load ``source`` and hold it against the one of the run."""
    source = run.source
    sampling = _named({"guidance": source.guidance, "steps": source.steps, "device": source.device})
    same = f"assert source.weight_hash == {source.weight_hash!r}"
    if source.folder is not None:
        return [*_call("source = hasten.load", [repr(str(source.folder)), *sampling]), same]
    own = {
        "prediction": source.prediction,
        "shape": source.shape,
        "num_labels": source.num_labels,
        "null_label": source.null_label,
        "sigma_data": source.sigma_data,
    }
    return [
        f"module = ...  # your {source.name}, with the weights that it had",
        f"schedule = ...  # its noise schedule ({source.schedule.kind}), of hasten.diffusion.schedule",
        "call = None  # or the function that was given",
        *_call("source = hasten.load", ["module", "schedule=schedule", "call=call", *_named(own), *sampling]),
        same,
    ]


def _named(values: Mapping[str, object]) -> list[str]:
    return [f"{name}={value!r}" for name, value in values.items() if value is not None]


def _call(name: str, words: Sequence[str]) -> list[str]:
    return [f"{name}(", *(f"    {word}," for word in words), ")"]


def _sampling(run: Run) -> list[str]:
    """The options that say how the model itself samples."""
    source = run.source
    words = ["--guidance", _number(source.guidance)] if source.guidance != 1.0 else []
    return [*words, "--steps", str(source.steps), "--device", source.device]


def _beside(out: Path, word: str) -> Path:
    out = Path(out)
    return out.with_name(f"{out.name}-{word}") if out.name else out / word


def _number(value: float) -> str:
    """Without an exponent, and short: ``2``, ``0.5``."""
    return f"{value:.9f}".rstrip("0").rstrip(".")
