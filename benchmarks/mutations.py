"""Two thousand inputs with something wrong: does any end in a traceback, a bare exception, a crash, over 5 s or 1 GiB?

    python benchmarks/mutations.py                           # about ten minutes; results/mutations.json
    python benchmarks/mutations.py --kind plans --only 17    # that one again: what was given and all that was said

An input is a good one with one to three things wrong, drawn from seed, kind and number alone, and is given to a command
that reads it.  Each runs in a child forked from this process, which has imported everything, so that the seconds are
the command's own; what it waited for processors that others had is taken off.  "Bad" is also a message of more than
three lines, and a control character that reaches the terminal.

What works for long on good input is cut off where the work begins, when all was read and checked, and counts as taken:
the search of optimize, the measuring of compare, profile and of what to prune, all but the first step of training and
the first sampling.  The machine is said to have 1 GiB free, so that a size that needs more must be refused, not tried.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import random
import re
import resource
import shutil
import signal
import socket
import struct
import sys
import tempfile
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import psutil
import torch
from PIL import Image
from safetensors.numpy import load_file, save

import hasten
from hasten import cli
from hasten.environment import environment, quiet
from hasten.files import sha256, toml, write_text
from hasten.report import terminal

RESULT = Path(__file__).parent / "results" / "mutations.json"
DEMO = Path(__file__).parent / "results" / "demo.json"
MOST_SECONDS, MOST_BYTES, KILL_SECONDS = 5.0, 1 << 30, 15.0
MOST_LINES, MOST_CHARACTERS = 3, 1500
STATUSES = (0, 1, 2, 3, 4)  # of the command line, without Ctrl-C
SHARES = {
    "weights": 270, "configs": 360, "indexes": 150, "plans": 280, "artifacts": 280, "recipes": 220, "runs": 220,
    "arguments": 160, "data": 60,
}  # fmt: skip
WEIGHTS = "diffusion_pytorch_model.safetensors"
DEEP = 30_000


class Taken(BaseException):
    """The input was read and checked, and the long work would begin now."""


def taken(*_arguments: Any, **_named: Any) -> NoReturn:
    """In the place of long work."""
    raise Taken


# ---------------------------------------------------------------------------------------------------- good inputs


class Good:
    """Inputs that are right, each made when it is first asked for, by the commands themselves."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def model(self) -> Path:
        """A small ``UNet2DModel`` for digits."""
        config = {
            "data": {"name": "digits", "size": 8},
            "model": {"block_out_channels": [16, 32], "attention_levels": [1], "attention_head_dim": 8},
            "train": {
                "steps": 2, "batch_size": 4, "warmup_steps": 1, "checkpoint_every": 1, "log_every": 1,
                "sample_every": 1, "ema_profiles": [0.05, 0.1], "profile_every": 1, "validate_every": 1,
                "validate_samples": 16,
            },
        }  # fmt: skip
        self.recipe.write_text(toml(config), encoding="utf-8")
        self.run_whole("train", self.recipe, "--out", self.folder / "run")
        return self.folder / "run" / "model"

    @property
    def recipe(self) -> Path:
        """How it was trained."""
        return self.folder / "recipe.toml"

    @cached_property
    def run(self) -> Path:
        """The run of training that made it."""
        return self.model.parent

    @cached_property
    def sharded(self) -> Path:
        """The model with its weights in two files and an index."""
        made = Path(shutil.copytree(self.model, self.folder / "sharded"))
        whole = made / "unet" / WEIGHTS
        tensors, names = load_file(whole), sorted(load_file(whole))
        whole.unlink()
        parts = {f"shard-{n}.safetensors": names[n::2] for n in range(2)}
        for file, held in parts.items():
            (whole.parent / file).write_bytes(save({name: tensors[name] for name in held}))
        index = {"metadata": {"total_size": 1}, "weight_map": {n: f for f, held in parts.items() for n in held}}
        (whole.parent / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
        return made

    @cached_property
    def plan(self) -> Path:
        """A plan of two techniques."""
        path = self.folder / "plan.toml"
        path.write_text(
            'version = 1\n[[techniques]]\ntechnique = "layout"\n'
            '[[techniques]]\ntechnique = "sampler"\nsolver = "ddim"\ngrid = "uniform"\nsteps = 3\n'
        )
        return path

    @cached_property
    def plans(self) -> list[dict[str, Any]]:
        """Plans as they are read."""
        sampler = {"technique": "sampler", "solver": "deis", "grid": "logsnr", "steps": 4}
        engine = {"technique": "runtime", "precision": "float32", "streams": 1}
        lists = [[sampler], [{"technique": "layout"}, sampler], [{"technique": "precision"}], [engine, sampler], []]
        return [{"version": 1, "techniques": each} for each in lists]

    @cached_property
    def artifact(self) -> Path:
        """One that runs the model's own weights."""
        self.run_whole("apply", self.plan, self.model, "--steps", "3", "--out", self.folder / "artifact")
        return self.folder / "artifact"

    @cached_property
    def converted(self) -> Path:
        """An artifact without them, that runs an engine's graph."""
        plan = self.folder / "converted.toml"
        plan.write_text(toml({"version": 1, "techniques": [{"technique": "runtime"}]}))
        self.run_whole("apply", plan, self.model, "--steps", "3", "--slim", "--out", self.folder / "converted")
        return self.folder / "converted"

    @cached_property
    def profiled(self) -> Path:
        """A profile's folder."""
        self.run_whole("profile", self.model, "--what", "ops", "--batch", "1", "--out", self.folder / "profiled")
        return self.folder / "profiled"

    @cached_property
    def optimised(self) -> Path:
        """A run of optimize, whose result is the demo's, begun by hand."""
        made = self.folder / "optimised"
        made.mkdir()
        shutil.copyfile(DEMO, made / "result.json")
        pictures = np.zeros((4, 3, 32, 32), np.float32)
        np.savez(made / "samples.npz", baseline=pictures, candidate=pictures)
        return made

    @cached_property
    def begun(self) -> Path:
        """An optimize that was stopped: its folder can be resumed."""
        made = self.folder / "begun"
        self.run_whole("optimize", self.model, "--out", made, cut=True)
        rows = [
            {"point": {"way": "a", "solver": "ddim", "grid": "uniform", "steps": n, "images": 3}, "measured": {}}
            for n in (1, 2)
        ]
        (made / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        kept = {"plan": self.plans[1]["techniques"], "reason": "", "seconds": [0.1, 0.2], "drift_db": 60.0}
        (made / "ways.json").write_text(json.dumps([kept | {"plan": []}, kept]) + "\n")
        return made

    @cached_property
    def history(self) -> Path:
        """A history of three runs."""
        path, figure = self.folder / "history.jsonl", {"value": 2.0, "low": 1.9, "high": 2.1, "n": 15, "paired": True}
        entry = {
            "kind": "compare", "subject": "a against b", "created": "2026-01-01T00:00:00+00:00", "commit": None,
            "fingerprint": "0" * 12, "machine": {}, "version": 1, "settings": {}, "figures": {"speedup": figure},
            "sides": {n: {"source": n, "weight_hash": "0", "plan_hash": "0", "label": ["x"]} for n in "ab"},
        }  # fmt: skip
        path.write_text(
            "".join(json.dumps(entry | {"created": f"2026-01-0{n}T00:00:00+00:00"}) + "\n" for n in (1, 2, 3))
        )
        return path

    @cached_property
    def pictures(self) -> Path:
        """Ten pictures in two folders."""
        made, rng = self.folder / "pictures", np.random.default_rng(0)
        for n in range(10):
            (made / "ab"[n % 2]).mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 255, (12, 12, 3), np.uint8)
            Image.fromarray(pixels).save(made / "ab"[n % 2] / f"{n}.{'png' if n < 5 else 'jpg'}")
        return made

    def run_whole(self, *arguments: object, cut: bool = False) -> None:
        """A command that must end well."""
        place = Path(tempfile.mkdtemp(dir=self.folder))
        ended = next(
            iter(ran([Case("good", 0, place, [str(each) for each in arguments], cut)], jobs=1, kill_seconds=120.0))
        )
        if ended.status:
            raise SystemExit(f"a good input was refused: {arguments}\n{ended.error}")


# ------------------------------------------------------------------------------------------------ what goes wrong

NUMBERS = (
    0, 1, -1, 2, 7, 65_536, 2**31, 2**32 - 1, 2**63, 2**64, 10**12, 10**400, 0.5, -0.0, 1e-320, 1e-9, 1e9, 1e38, 1e308,
    float("nan"), float("inf"), float("-inf"),
)  # fmt: skip
TEXTS = (
    "", " ", "0", "-1", "nan", "true", "null", "../../etc/passwd", "/etc/passwd", "C:\\x", "~", "a" * 5000, "\x1b[31mr",
    "a\nb", "\x00", "\u202e", "\ud800", "%s%n", "{0}", "__import__('os')", "\U0001f600", "cuda:99", "meta", "mps",
    "é" * 300, "[bold]x", "x" * 300, "SomeClass", "DDPMScheduler", "linear",
)  # fmt: skip


def nested(depth: int, leaf: Any = 0) -> Any:
    """Lists in lists."""
    for _ in range(depth):
        leaf = [leaf]
    return leaf


def odd_value(rng: random.Random) -> Any:
    """Anything that JSON can hold."""
    others: tuple[Any, ...] = (
        None, True, False, [], {}, [[]], [None], {"a": {"b": 1}}, [1] * 3, list(range(3000)), nested(40), nested(400),
        {"auto_map": "x"}, ["diffusers", "DDIMScheduler"], [0, 0], {"": 0},
    )  # fmt: skip
    return rng.choice(rng.choice((NUMBERS, TEXTS, others)))


def nodes(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each container in ``value``, and each of its keys."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield value, key
        yield from nodes(inner)


def spoil(rng: random.Random, value: Any) -> Any:
    """``value``, of which one thing is changed in place; rarely something else altogether."""
    found = list(nodes(value))
    if not found or rng.random() < 0.03:
        return odd_value(rng)
    parent, key = rng.choice(found)
    ways: list[Callable[[], Any]] = [lambda: parent.__setitem__(key, odd_value(rng))] * 5 + [lambda: parent.pop(key)]
    if isinstance(parent[key], int | float) and not isinstance(parent[key], bool):
        factor = rng.choice((-1, 0, 2, 3, 10, 1000, 10**9, 0.5, 1.5, 1e-9))
        ways += [lambda: parent.__setitem__(key, parent[key] * factor)] * 3
        ways += [lambda: parent.__setitem__(key, parent[key] + rng.choice((-1, 1)))]
        ways += [lambda: parent.__setitem__(key, str(parent[key]))]
    if isinstance(parent[key], list):
        ways += [lambda: parent[key].append(odd_value(rng)), lambda: parent.__setitem__(key, parent[key] * 2)]
    if isinstance(parent[key], str):
        ways += [lambda: parent.__setitem__(key, parent[key] + rng.choice(("x", " ", "\x1b[2J", "\n", "/..")))]
    if isinstance(parent, dict):
        other = rng.choice(found)
        ways += [
            lambda: parent.__setitem__(rng.choice(TEXTS), odd_value(rng)),
            lambda: parent.__setitem__(f"{key}s", parent.pop(key)),
            lambda: parent.__setitem__(key, json.loads(json.dumps(other[0][other[1]]))),
        ]
    rng.choice(ways)()
    return value


def spoil_bytes(rng: random.Random, content: bytes) -> bytes:
    """``content`` with its bytes changed."""
    place = rng.randrange(len(content) + 1)
    flipped = bytearray(content)
    for _ in range(rng.choice((1, 1, 3, 50)) if content else 0):
        flipped[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return rng.choice(
        (
            content[:place],
            b"",
            bytes(flipped),
            bytes(flipped),
            content * 2,
            content[:place] + bytes(rng.randrange(1, 300)) + content[place:],
            content[:place] + rng.randbytes(20) + content[place:],
            b"\xef\xbb\xbf" + content,
            content.decode("latin-1").encode("utf-16"),
            b"[" * DEEP,
            b'{"a":' * DEEP,
            b"a=" + b"[" * DEEP,
            b"a." * 4000 + b"b=1",
            content + b" " * (2 << 20),
            rng.randbytes(1000),
            re.sub(rb"\d+", b"9" * 5000, content, count=1),
            re.sub(rb'"', b"", content, count=rng.randrange(1, 4)),
            re.sub(rb'"[^"]*"', rb"\g<0>,\g<0>", content, count=1),
            b"\x80\x81" + content,
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            b"PK\x03\x04" + content,
        )
    )


def spoil_file(rng: random.Random, path: Path) -> None:
    """Something else in the place of the file ``path``, or nothing."""
    content = path.read_bytes() if path.is_file() else b""
    path.unlink(missing_ok=True)
    way = rng.randrange(9)
    if way == 0:
        path.mkdir()
    elif way == 1:
        os.mkfifo(path)
    elif way == 2:
        path.symlink_to(rng.choice(("/etc/passwd", "/dev/zero", "/", "/proc/self/mem", "nowhere", "..")))
    elif way == 3:
        path.symlink_to(path.name)
    elif way == 4:
        path.write_bytes(content)
        os.truncate(path, rng.choice((1 << 20, 3 << 30, 1 << 40)))
    elif way == 5:
        path.with_name(rng.choice(("\x1b[31m", "a\nb", "x" * 255))).write_bytes(content)
    elif way == 6:
        bind(path)
    elif way == 7:
        path.write_bytes(content)
        path.rename(path.with_suffix(rng.choice((".bin", ".pt", ".JSON", ".bak"))))


def bind(path: Path) -> None:
    """A socket, by a short name in its folder, for the system takes no long ones."""
    here = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def spoil_json(rng: random.Random, path: Path) -> None:
    """One to three things wrong with a JSON file: mostly its values, else its bytes, else the file itself."""
    chance = rng.random()
    if chance < 0.7:
        value = json.loads(path.read_text())
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            value = spoil(rng, value)
        path.write_text(json.dumps(value))
    elif chance < 0.9:
        path.write_bytes(spoil_bytes(rng, path.read_bytes()))
    else:
        spoil_file(rng, path)


def spoil_lines(rng: random.Random, path: Path) -> None:
    """The same for JSON lines."""
    lines = path.read_text().splitlines()
    if not lines or rng.random() < 0.3:
        path.write_bytes(spoil_bytes(rng, path.read_bytes()))
        return
    for _ in range(rng.choice((1, 1, 3))):
        number = rng.randrange(len(lines))
        with contextlib.suppress(ValueError):
            lines[number] = json.dumps(spoil(rng, json.loads(lines[number])))
        if rng.random() < 0.1:
            lines[number] = lines[number][: len(lines[number]) // 2]
    path.write_text("\n".join(lines) + "\n")


def write_toml(rng: random.Random, path: Path, value: Any) -> None:
    """``value`` as TOML with one to three things wrong, in values, text or file."""
    chance = rng.random()
    good = toml(value)
    for _ in range(rng.choice((1, 1, 1, 2, 3)) if chance < 0.75 else 0):
        value = spoil(rng, value)
    try:
        text = toml(value)
    except (TypeError, AttributeError, RecursionError, ValueError):  # what TOML can't hold, as null
        text = good.replace(rng.choice(re.findall(r"\w+", good) or [""]), rng.choice(TEXTS), 1)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    if 0.75 <= chance < 0.92:
        path.write_bytes(spoil_bytes(rng, path.read_bytes()))
    elif chance >= 0.92:
        spoil_file(rng, path)


def spoil_safetensors(rng: random.Random, path: Path) -> None:
    """Weights whose header lies, whose bytes were changed, or whose tensors are other ones."""
    chance = rng.random()
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    if chance < 0.35:
        header = json.loads(content[8 : 8 + length])
        for _ in range(rng.choice((1, 1, 2))):
            header = spoil(rng, header)
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
    elif chance < 0.42:
        lie = rng.choice((0, 1, length - 1, length + 1, len(content), 1 << 40, (1 << 64) - 1, 100_000_000))
        path.write_bytes(struct.pack("<Q", lie) + content[8:])
    elif chance < 0.57:
        path.write_bytes(spoil_bytes(rng, content))
    elif chance < 0.65:
        spoil_file(rng, path)
    else:
        tensors = load_file(path)
        for _ in range(rng.choice((1, 1, 3))):
            spoil_tensor(rng, tensors)
        path.write_bytes(save(tensors))


def spoil_tensor(rng: random.Random, tensors: dict[str, Any]) -> None:
    """One of the arrays gets other values, another shape or dtype, another name, or goes."""
    name = rng.choice(sorted(tensors) or [""])
    array = np.array(tensors.get(name, 0.0))
    way = rng.randrange(10)
    if way < 2 and array.size and array.dtype.kind == "f":
        array.reshape(-1)[rng.randrange(array.size)] = rng.choice((np.nan, np.inf, -np.inf, 6e4))
    elif way == 2:
        array = array.astype(rng.choice((np.float64, np.int8, np.int64, np.bool_, np.uint8, np.float16)))
    elif way == 3:
        array = np.ascontiguousarray(array.T)
    elif way == 4:
        array = array[..., :-1] if array.ndim else array
    elif way == 5:
        array = array.reshape(-1)
    elif way == 6:
        array = array * rng.choice((0, 1e3, -1))
    elif way == 7:
        array = np.zeros(rng.choice(((), (0,), (1,), (1,) * 20, (2, 0, 3))), array.dtype)
    if way == 8:
        tensors.pop(name, None)
    else:
        tensors[rng.choice(TEXTS[:11]) if way == 9 else name] = np.ascontiguousarray(array)


# ---------------------------------------------------------------------------------------------- what it is given to


@dataclass(frozen=True)
class Case:
    """A command in a folder of its own."""

    kind: str
    number: int
    place: Path
    arguments: list[str]
    cut: bool = True


def on_model(rng: random.Random, good: Good, model: str, place: Path) -> list[str]:
    """A command that reads the model ``model``."""
    out, way = str(place / "out"), rng.randrange(12)
    if way < 4:
        return ["sample", model, "-n", "1", "--batch", "1", "--steps", "2", "--out", f"{out}.npy"]
    if way == 4:
        return ["apply", str(good.plan), model, "--steps", "2", "--out", out]
    if way == 5:
        return ["prune", model, "--channels", "0.5", "--importance", "magnitude", "--out", out]
    if way == 6:
        return ["prune", model, "--blocks", "1", "--data", "digits", "--out", out]
    if way == 7:
        return ["optimize", model, "--data", "digits", "--out", out]
    if way == 8:
        pair = [model, str(good.model)]
        return ["compare", *(pair if rng.random() < 0.5 else pair[::-1]), "--data", "digits"]
    if way == 9:
        return ["profile", model, "--what", rng.choice(("ops", "damage", "memory")), "--batch", "1"]
    if way == 10:
        student = ["--student", "channels=0.5", "--data", "digits", "--time", "1s", "--batch", "4"]
        return ["distill", model, *student, "--out", out]
    further = {"data": {"name": "digits", "size": 8}, "model": {"folder": model}}
    recipe = place / "further.toml"
    recipe.write_text(toml({**further, "train": {"steps": 2, "batch_size": 4, "warmup_steps": 0}}))
    return ["train", str(recipe), "--out", out]


def weights(rng: random.Random, good: Good, place: Path) -> list[str]:
    """A model folder whose weights are not what they should be."""
    model = copied(good.model, place / "model")
    spoil_safetensors(rng, model / "unet" / WEIGHTS)
    return on_model(rng, good, str(model), place)


def configs(rng: random.Random, good: Good, place: Path) -> list[str]:
    """A model folder with a configuration that is not right."""
    model = copied(good.model, place / "model")
    names = (
        "unet/config.json",
        "unet/config.json",
        "scheduler/scheduler_config.json",
        "model_index.json",
        "hasten.json",
    )
    name = rng.choice(names)
    if name == "scheduler/scheduler_config.json":
        scheduler(rng, model)
    spoil_json(rng, model / name)
    return on_model(rng, good, str(model), place)


def scheduler(rng: random.Random, model: Path) -> None:
    """Another scheduler, rightly configured, or this one with more keys."""
    from hasten.model import noise

    path, index = model / "scheduler" / "scheduler_config.json", model / "model_index.json"
    value, known = json.loads(path.read_text()), json.loads(index.read_text())
    if rng.random() < 0.6:
        value["_class_name"] = rng.choice(sorted(noise.DISCRETE))
        known["scheduler"][1] = value["_class_name"]
        index.write_text(json.dumps(known))
    more = {
        "clip_sample": True, "clip_sample_range": 1.0, "thresholding": True, "sample_max_value": 1.0,
        "dynamic_thresholding_ratio": 0.99, "steps_offset": 1, "timestep_spacing": "leading", "set_alpha_to_one": False,
        "solver_order": 2, "algorithm_type": "dpmsolver++", "solver_type": "midpoint", "lower_order_final": True,
        "use_karras_sigmas": False, "final_sigmas_type": "zero", "variance_type": "fixed_small", "sigma_min": 0.01,
        "sigma_max": 80.0, "rescale_betas_zero_snr": False, "euler_at_final": False, "skip_prk_steps": True,
        "interpolation_type": "linear", "trained_betas": None, "lambda_min_clipped": -5.0, "rho": 7.0,
    }  # fmt: skip
    path.write_text(json.dumps(value | {key: more[key] for key in rng.sample(sorted(more), 5)}))


def indexes(rng: random.Random, good: Good, place: Path) -> list[str]:
    """A model in two files whose index is not right."""
    model = copied(good.sharded, place / "model")
    if rng.random() < 0.85:
        spoil_json(rng, model / "unet" / f"{WEIGHTS}.index.json")
    else:
        spoil_safetensors(rng, model / "unet" / f"shard-{rng.randrange(2)}.safetensors")
    return on_model(rng, good, str(model), place)


def plans(rng: random.Random, good: Good, place: Path) -> list[str]:
    """A plan that says what it should not."""
    path, model = place / "plan.toml", str(good.model)
    write_toml(rng, path, json.loads(json.dumps(rng.choice(good.plans))))
    way = rng.randrange(5)
    if way < 2:
        return ["apply", str(path), model, "--steps", "2", "--out", str(place / "out")]
    if way == 2:
        return ["compare", model, f"{model}+{path}"]
    if way == 3:
        return ["profile", f"{model}+{path}", "--what", "ops", "--batch", "1"]
    return ["sample", f"{model}+{path}", "-n", "1", "--batch", "1", "--steps", "2", "--out", str(place / "x.npy")]


def artifacts(rng: random.Random, good: Good, place: Path) -> list[str]:
    """An artifact in which something was changed, with hashes that agree or not."""
    folder = copied(good.artifact if rng.random() < 0.5 else good.converted, place / "artifact")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = rng.choice([*files, folder / "artifact.json", folder / "reference.safetensors"])
    if path.suffix == ".json" and rng.random() < 0.9:
        spoil_json(rng, path)
    elif path.suffix == ".safetensors" and rng.random() < 0.9:
        spoil_safetensors(rng, path)
    elif path.suffix == ".toml" and rng.random() < 0.9:
        write_toml(rng, path, json.loads(json.dumps(rng.choice(good.plans))))
    elif rng.random() < 0.8:
        path.write_bytes(spoil_bytes(rng, path.read_bytes()))
    else:
        spoil_file(rng, path)
    if path.name != "hashes.json" and rng.random() < 0.5:
        there = [each for each in files if each.is_file() and not each.is_symlink() and each.stat().st_size < 1 << 24]
        hashes = {e.relative_to(folder).as_posix(): sha256(e) for e in there if e.name != "hashes.json"}
        (folder / "hashes.json").write_text(json.dumps(hashes))
    way = rng.randrange(6)
    if way < 3:
        return ["verify", str(folder), *(["--json"] if rng.random() < 0.2 else [])]
    if way == 3:
        return ["compare", str(folder), str(good.model)]
    if way == 4:
        return ["profile", str(folder), "--what", "ops", "--batch", "1"]
    return ["sample", str(folder), "-n", "1", "--batch", "1", "--out", str(place / "x.npy")]


def recipes(rng: random.Random, good: Good, place: Path) -> list[str]:
    """A recipe that asks for what there is not."""
    from hasten.train import recipe

    good.model  # noqa: B018  which writes the recipe
    value = recipe.read(good.recipe).model_dump(exclude_none=True)
    for section in ("model", "train", "data"):  # few keys, so that what is changed matters
        kept = rng.sample(sorted(value[section]), 8) if len(value[section]) > 8 else sorted(value[section])
        needed = {"name", "size", "steps", "batch_size", "warmup_steps", "block_out_channels", "attention_head_dim"}
        value[section] = {key: value[section][key] for key in value[section] if key in kept or key in needed}
    if rng.random() < 0.2:
        value["teacher"] = {"folder": str(good.model), "share": 0.5, "cached": 2}
    if rng.random() < 0.2:
        value["model"] = {"folder": str(good.model)}
    if rng.random() < 0.2:
        value["data"] = {"name": "folder", "path": str(good.pictures), "size": 8, "buckets": rng.random() < 0.5}
    write_toml(rng, place / "recipe.toml", value)
    plan = ["--plan"] if rng.random() < 0.15 else []
    return ["train", str(place / "recipe.toml"), "--out", str(place / "out"), *plan]


def runs(rng: random.Random, good: Good, place: Path) -> list[str]:
    """What a command left behind, with something changed."""
    way = rng.randrange(8)
    if way == 0:
        path = copied_file(good.history, place / "history.jsonl")
        (spoil_lines if rng.random() < 0.85 else spoil_file)(rng, path)
        return ["history", "--file", str(path), *rng.choice(([], ["--json"], ["--figure", "x"], ["--last", "1"]))]
    if way == 1:
        run = copied(good.begun, place / "run")
        path = run / rng.choice(("run.json", "history.jsonl", "ways.json"))
        (spoil_lines if path.suffix == ".jsonl" else spoil_json)(rng, path)
        return ["optimize", str(good.model), "--out", str(run), "--resume"]
    run = copied((good.run, good.run, good.profiled, good.optimised)[way % 4], place / "run")
    files = sorted(path for path in run.rglob("*") if path.is_file())
    path = rng.choice(
        [*files, *[path for path in files if path.suffix in (".json", ".jsonl") and path.parent == run] * 4]
    )
    if rng.random() < 0.1:
        spoil_file(rng, path)
    elif path.suffix == ".json":
        spoil_json(rng, path)
    elif path.suffix == ".jsonl":
        spoil_lines(rng, path)
    elif path.suffix == ".safetensors":
        spoil_safetensors(rng, path)
    else:
        path.write_bytes(spoil_bytes(rng, path.read_bytes()))
    if way % 4 > 1 or rng.random() < 0.5:
        return ["report", str(run)]
    if rng.random() < 0.5:
        return ["average", str(run), "--out", str(place / "out")]
    more = copied_file(good.recipe, place / "more.toml")
    checkpoints = sorted(run.glob("checkpoint-*.safetensors"))
    if checkpoints and rng.random() < 0.5:
        checkpoints[-1].unlink()  # so that there is a step left
    return [
        "train",
        str(more),
        "--out",
        str(run),
        "--resume",
        *rng.choice(([], [str(rng.choice(checkpoints or [run]))])),
    ]


def lines(good: Good, place: Path) -> list[list[str]]:
    """Commands with all that they take, each in order."""
    model, out = str(good.model), str(place / "out")
    small = ["--seed", "1", "--device", "cpu"]
    optimize = ["--data", "digits", "--budget", "quality=2%", "--goal", "latency", "--time", "5s", "--batch", "2"]
    compare = ["--data", "digits", "--kind", "sample", "--batch", "2", "--batches", "1,2", "--rounds", "1"]
    return [
        ["optimize", model, *optimize, "--guidance", "1", "--steps", "2", "--student", model, *small, "--out", out],
        ["compare", model, model, *compare, "--gate", "speed>=1", "--time", "5s", *small, "--out", f"{out}.json"],
        ["profile", model, "--what", "ops", "--data", "digits", "--batch", "1", "--train", *small, "--out", out],
        ["sample", model, "-n", "1", "--label", "1", "--batch", "1", "--steps", "2", *small, "--out", f"{out}.png"],
        ["verify", str(good.artifact)],
        ["apply", str(good.plan), model, "--steps", "2", "--guidance", "1", "--device", "cpu", "--out", out],
        ["history", "--figure", "speedup", "--kind", "compare", "--last", "2", "--file", str(good.history)],
        ["train", str(good.recipe), "--out", out],
        ["prune", model, "--channels", "0.5", "--importance", "taylor", "--data", "digits", "--out", out],
        ["prune", model, "--blocks", "1", "--data", "digits", "--out", out],
        ["prune", model, "--pattern", "2:4", "--out", out],
        ["distill", model, "--student", "channels=0.5", "--data", "digits", "--time", "1s", "--batch", "4",
         "--cached", "2", "--feature", "mid_block", "--seed", "1", "--out", out],
        ["report", str(good.run)],
        ["average", str(good.run), "--length", "0.07", "--step", "2", "--out", out],
        ["env"],
    ]  # fmt: skip


def odd_paths(good: Good, place: Path) -> list[str]:
    """What a person could give for a path."""
    os.mkfifo(place / "pipe.json")
    (place / "loop").symlink_to("loop")
    (place / "empty").mkdir()
    (place / "empty.toml").touch()
    for name in ("a\nb", "\x1b[31m.toml", os.fsdecode(b"\xff\xfe")):
        copied_file(good.recipe, place / name)
    there = ["pipe.json", "loop", "empty", "empty.toml", "a\nb", "\x1b[31m.toml", os.fsdecode(b"\xff\xfe"), "nowhere"]
    fixed = [
        "", " ", ".", "..", "/", "/dev/null", "/dev/zero", "/dev/full", "/proc/self/mem", "/etc/passwd", "-", "+",
        "a+b", "~/x", "https://example.org/model", "file:///etc/passwd", "a" * 300, "a/" * 3000, "x" * 100_000,
        "\u202e.png", "C:\\x", "/nowhere/x.png", "x.json", "x.png", "x.npy", "x.toml", ".json", "emoji", "digits",
    ]  # fmt: skip
    made = [str(place / name) for name in there] + [
        f"{place}/pipe.json+{place}/pipe.json",
        f"{good.model}+{place}/loop",
    ]
    return [*made, str(good.model), str(good.recipe), str(good.run), *fixed]


ODD_WORDS = (
    *("-5", "0", "1", "nan", "inf", "-inf", "1e400", "9" * 400, "1e9", "0x10", "1_000", "٣", "²", "1.5", "", " "),
    *("true", "quality=-1%", "quality=nan%", "memory=0MB", "size=1e9GB", "speed>=nan", "speed>1", "quality<=", ",,,"),
    *("1,,2", "4096", "100000", str(2**31), str(2**32), str(2**63), str(2**64), "emojis", "cuda", "cuda:0", "cuda:99"),
    *("mps", "meta", "cpu:1", "CPU", "a\nb", "\x1b[31m", os.fsdecode(b"\xff"), "a" * 300, "a" * 100_000, "os:system"),
    *("json:loads", "nowhere:x", "hasten:", ":", "channels=0", "channels=nan", "channels=2", "ops", "epoch"),
    *("train-step", "damage", "--help", "--", "-", "-h", "--version", "--seed=", "mid_block.", "1s"),
)  # fmt: skip


def arguments(rng: random.Random, good: Good, place: Path) -> list[str]:
    """A command line with words that are none."""
    line, paths = list(rng.choice(lines(good, place))), odd_paths(good, place)
    for _ in range(rng.choice((1, 1, 2, 3))):
        number, way = rng.randrange(len(line)), rng.randrange(12)
        values = [n for n in range(1, len(line)) if not line[n].startswith("-")]
        pathlike = [n for n in values if "/" in line[n]]
        if way < 5 and values:
            line[rng.choice(values)] = rng.choice(ODD_WORDS)
        elif way < 9 and pathlike:
            line[rng.choice(pathlike)] = rng.choice(paths)
        elif way == 9:
            line.pop(number)
        elif way == 10:
            line.insert(
                number + 1, rng.choice((*ODD_WORDS, "--bogus", "--out", "--resume", "--slim", "--json", "--plan"))
            )
        else:
            line[number] = line[number][:-1] + rng.choice(("", "x", "\x1b"))
    return line or [""]


def data(rng: random.Random, good: Good, place: Path) -> list[str]:
    """A folder of pictures that are none."""
    folder = copied(good.pictures, place / "pictures")
    files = sorted(path for path in folder.rglob("*.*") if path.is_file())
    for _ in range(rng.choice((1, 1, 2, 10))):
        path = rng.choice(files)
        if not path.is_file() or path.is_symlink():
            continue
        way = rng.randrange(8)
        if way < 3:
            path.write_bytes(spoil_bytes(rng, path.read_bytes()))
        elif way == 3:
            spoil_file(rng, path)
        elif way == 4:  # a PNG that claims to be huge
            wide, high = rng.choice(((65_500, 65_500), (2**31 - 1, 1), (0, 0), (30_000, 5000)))
            path.write_bytes(
                b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", wide, high) + b"\x08\2\0\0\0" + bytes(99)
            )
        elif way == 5:
            mode = rng.choice(("1", "L", "P", "RGBA", "CMYK", "I;16", "LA", "F", "I"))
            path.unlink()
            Image.new(mode, rng.choice(((1, 1), (1, 5000), (9, 7)))).save(path.with_suffix(".tiff"))
        elif way == 6:
            (path.parent / f"again-{rng.random()}").symlink_to(rng.choice(("..", "again", "/", "/etc")))
        else:
            path.rename(path.with_name(rng.choice(("\x1b[31m.png", "a\nb.png", ".png", os.fsdecode(b"\xff.png")))))
        if not path.is_file():
            files.remove(path)
        if not files:
            break
    given, model, out = ["--data", str(folder)], str(good.model), str(place / "out")
    way = rng.randrange(6)
    if way == 0:
        return ["optimize", model, *given, "--out", out]
    if way == 1:
        return ["compare", model, model, *given]
    if way == 2:
        return ["prune", model, "--channels", "0.5", *given, "--out", out]
    if way == 3:
        return ["distill", model, "--student", "channels=0.5", *given, "--time", "1s", "--batch", "4", "--out", out]
    recipe = {"name": "folder", "path": str(folder), "size": 8, "buckets": way == 4, "skip_bad": rng.random() < 0.5}
    train = {"steps": 2, "batch_size": 2, "warmup_steps": 0}
    network = {"block_out_channels": [8], "attention_head_dim": 8}
    (place / "recipe.toml").write_text(toml({"data": recipe, "model": network, "train": train}))
    return ["train", str(place / "recipe.toml"), "--out", out]


KINDS: dict[str, Callable[[random.Random, Good, Path], list[str]]] = {
    "weights": weights, "configs": configs, "indexes": indexes, "plans": plans, "artifacts": artifacts,
    "recipes": recipes, "runs": runs, "arguments": arguments, "data": data,
}  # fmt: skip


def copied(folder: Path, to: Path) -> Path:
    """A copy of a folder."""
    return Path(shutil.copytree(folder, to, symlinks=True))


def copied_file(path: Path, to: Path) -> Path:
    """A copy of a file."""
    return Path(shutil.copyfile(path, to))


# --------------------------------------------------------------------------------------------------- running them


@dataclass
class Ended:
    """How a command ended; ``bytes`` are what it needed beyond the start."""

    case: Case
    status: int
    seconds: float
    bytes: int
    output: str
    error: str

    @property
    def bad(self) -> str:
        """What is wrong with that, or nothing."""
        said = self.output + self.error
        lines = self.error.strip().splitlines()
        control = {c for c in said if unicodedata.category(c) in ("Cc", "Cs") and c != "\n"}
        reasons = {
            f"took {self.seconds:.1f} s": self.seconds > MOST_SECONDS,
            f"needed {self.bytes / 2**20:,.0f} MiB": self.bytes > MOST_BYTES,
            f"ended by {-self.status}": self.status < 0 and self.seconds < KILL_SECONDS and self.bytes < MOST_BYTES,
            f"exit status {self.status}": self.status > 0 and self.status not in STATUSES,
            "traceback": "Traceback (most recent call last)" in said or "hasten.errors." in said,
            "bare exception": self.status == 1 and "run again with --debug for the traceback" in said,
            "no message": self.status in (1, 2) and "error: " not in self.error,
            f"{len(lines)} lines": self.status in (1, 2) and len(lines) > MOST_LINES,
            f"{len(self.error):,} characters": self.status in (1, 2) and len(self.error) > MOST_CHARACTERS,
            f"control characters {control}": bool(control),
        }
        return ", ".join(reason for reason, holds in reasons.items() if holds)


def own_bytes() -> int:
    """What a child has in memory when it is forked: all but the files that are mapped, whose pages come as it goes."""
    held = psutil.Process().memory_info()
    return int(held.rss - held.shared)


@dataclass
class Running:
    """A child at work."""

    case: Case
    began: float = field(default_factory=time.perf_counter)
    before_bytes: int = field(default_factory=own_bytes)
    waited: float = 0.0
    pid: int = field(init=False)

    def __post_init__(self) -> None:
        self.pid = os.fork()
        if not self.pid:
            child(self.case)

    def ended(self, kill_seconds: float) -> Ended | None:
        """How it ended, None while it goes on; over time or memory it is killed."""
        with contextlib.suppress(OSError):  # nanoseconds: run, and ready to run while the processors were others'
            self.waited = int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[1]) / 1e9
        pid, status, usage = os.wait4(self.pid, os.WNOHANG)
        seconds = time.perf_counter() - self.began - self.waited
        if not pid:
            with contextlib.suppress(psutil.Error):
                used = psutil.Process(self.pid).memory_info().rss - self.before_bytes
                if seconds > kill_seconds or used > 1.2 * MOST_BYTES:
                    os.killpg(self.pid, signal.SIGKILL)
            return None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)  # what it started and left behind
        said = [(self.case.place / n).read_bytes().decode("utf-8", "surrogateescape") for n in ("stdout", "stderr")]
        peak = max(usage.ru_maxrss * 1024 - self.before_bytes, 0)
        return Ended(self.case, os.waitstatus_to_exitcode(status), seconds, peak, *said)


def child(case: Case) -> NoReturn:
    """The command, in this process, which ends with it."""
    os.setsid()
    os.chdir(case.place)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(case.place / name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.environ["HASTEN_HISTORY"] = str(case.place / "own-history.jsonl")
    status = 0
    try:
        if case.cut:
            cut_off()
        cli.main(case.arguments)
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1
    except Taken:
        status = 0
    except BaseException:
        import traceback

        traceback.print_exc()
        status = 1
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(status & 255)


def cut_off() -> None:
    """Put :class:`Taken` where long work begins."""
    from hasten.distill import student
    from hasten.measure import roofline
    from hasten.model.target import Target
    from hasten.report import train_text
    from hasten.search import loop as searching
    from hasten.story import compare, optimize
    from hasten.story.stages import ways
    from hasten.train import rehearsal

    begun = train_text.training

    @contextlib.contextmanager
    def training() -> Iterator[Any]:
        with begun() as (_, warn):
            yield taken, warn

    whole, calls = Target.sample, []

    def sample(self: Target, case: Any) -> torch.Tensor:
        calls.append(case)
        if len(calls) > 1 or len(self.table.state) > 50 or case.noise.numel() > 1 << 14:
            raise Taken
        return whole(self, case)

    def search(run: Any, *_others: Any) -> NoReturn:
        if (run.out / "ways.json").exists():
            ways.kept_in(run.out / "ways.json")
        searching.read(run.out / "history.jsonl")
        raise Taken

    memory = psutil.virtual_memory()._replace(available=MOST_BYTES)
    psutil.virtual_memory = lambda: memory
    train_text.training = training
    setattr(Target, "sample", sample)  # noqa: B010
    optimize._optimize = search
    for module, name in ((compare, "read_reference"), (compare, "timed"), (rehearsal, "measure"), (student, "taylor")):
        setattr(module, name, taken)
    roofline.peaks = taken


def ran(cases: Iterable[Case], jobs: int, kill_seconds: float = KILL_SECONDS) -> Iterator[Ended]:
    """All of ``cases``, as many at once, in the order in which they end."""
    waiting, running = iter(cases), list[Running]()
    more = True
    while more or running:
        while more and len(running) < jobs:
            case = next(waiting, None)
            more = case is not None
            if case is not None:
                running.append(Running(case))
        time.sleep(0.005)
        for each in list(running):
            ended = each.ended(kill_seconds)
            if ended is not None:
                running.remove(each)
                yield ended


def made(kind: str, number: int, seed: int, good: Good) -> Case:
    """The case of that kind and number."""
    place = good.folder.parent / f"{kind}-{number}"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    return Case(kind, number, place, KINDS[kind](random.Random(f"{seed} {kind} {number}"), good, place))  # noqa: S311


def numbers(count: int, kinds: list[str]) -> list[tuple[str, int]]:
    """How many of each kind: by :data:`SHARES`, and ``count`` in all."""
    total = sum(SHARES[kind] for kind in kinds)
    ends = [round(count * sum(SHARES[each] for each in kinds[: n + 1]) / total) for n in range(len(kinds))]
    return [(kind, n) for kind, begin, end in zip(kinds, [0, *ends], ends, strict=False) for n in range(end - begin)]


def judged(cases: Iterator[Case], jobs: int, again: Callable[[str, int], Case]) -> Iterator[Ended]:
    """How all ended; what took too long is run again alone, for other work on this machine may be why."""
    slow = []
    for ended in ran(cases, jobs):
        shutil.rmtree(ended.case.place, ignore_errors=True)
        if ended.bad and ended.seconds > MOST_SECONDS:
            slow.append((ended.case.kind, ended.case.number))
        else:
            yield ended
    for kind, number in slow:
        yield from ran([again(kind, number)], jobs=1)


def table(found: list[Ended], kinds: list[str]) -> list[dict[str, Any]]:
    """Counts by kind, with the slowest and the largest."""
    rows = []
    for kind in kinds:
        of_kind = [each for each in found if each.case.kind == kind]
        bad = [each for each in of_kind if each.bad]
        refused = [each for each in of_kind if not each.bad and each.status]
        rows.append(
            {
                "kind": kind,
                "inputs": len(of_kind),
                "refused": len(refused),
                "taken": len(of_kind) - len(refused) - len(bad),
                "bad": len(bad),
                "most_seconds": max((each.seconds for each in of_kind), default=0.0),
                "most_bytes": max((each.bytes for each in of_kind), default=0),
            }
        )
    return rows


def show(ended: Ended, seed: int) -> None:
    """A bad one, and how to have it again."""
    last = terminal.plain((ended.error.strip().splitlines() or [""])[-1])[:300]
    words = terminal.plain(" ".join(each if len(each) < 200 else each[:200] + "..." for each in ended.case.arguments))
    print(f"BAD {ended.bad}: hasten {words}\n    {last}")
    print(
        f"    python benchmarks/mutations.py --seed {seed} --kind {ended.case.kind} --only {ended.case.number}",
        flush=True,
    )


def warm(folder: Path) -> Good:
    """Everything imported, and nothing of a person's touched."""
    os.environ |= {"HASTEN_CACHE": str(folder / "cache"), "TMPDIR": str(folder / "tmp"), "COLUMNS": "80"}
    os.environ.pop("NO_COLOR", None)
    for name in ("tmp", "good"):
        (folder / name).mkdir()
    quiet()
    torch.set_num_threads(1)
    for module in pkgutil.walk_packages(hasten.__path__, "hasten."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    gc.collect()
    gc.freeze()
    return Good(folder / "good")


def main() -> None:
    """Run them, print the table, and keep it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--kind", action="append", choices=sorted(KINDS))
    parser.add_argument("--only", type=int, help="the number of one, with --kind")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULT)
    asked = parser.parse_args()
    kinds = [kind for kind in SHARES if asked.kind is None or kind in asked.kind]
    folder = Path(tempfile.mkdtemp(prefix="hasten-mutations-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    good = warm(folder)

    def case(kind: str, number: int) -> Case:
        return made(kind, number, asked.seed, good)

    if asked.only is not None:
        for ended in ran([case(kinds[0], asked.only)], jobs=1):
            print(f"hasten {' '.join(map(terminal.plain, ended.case.arguments))}\n{ended.output}{ended.error}")
            print(f"exit status {ended.status}, {ended.seconds:.2f} s, {ended.bytes / 2**20:.0f} MiB, bad: {ended.bad}")
        return
    began, found = time.perf_counter(), []
    for ended in judged((case(*each) for each in numbers(asked.count, kinds)), asked.jobs, case):
        found.append(ended)
        if ended.bad:
            show(ended, asked.seed)
    rows = table(found, kinds)
    print(f"{'kind':<12}{'inputs':>8}{'refused':>8}{'taken':>8}{'bad':>6}{'most s':>8}{'most MiB':>10}")
    for row in rows:
        counts = f"{row['inputs']:>8}{row['refused']:>8}{row['taken']:>8}{row['bad']:>6}"
        print(f"{row['kind']:<12}{counts}{row['most_seconds']:>8.2f}{row['most_bytes'] / 2**20:>10,.0f}")
    bad = [{"kind": e.case.kind, "number": e.case.number, "why": e.bad} for e in found if e.bad]
    result = {
        "seed": asked.seed, "inputs": len(found), "rows": rows, "bad": bad, "seconds": time.perf_counter() - began,
        "created": datetime.now(UTC).isoformat(timespec="seconds"), "environment": environment(),
    }  # fmt: skip
    write_text(asked.out, json.dumps(result, indent=1) + "\n")
    print(f"{len(bad)} of {len(found)} are bad; written to {asked.out}")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
