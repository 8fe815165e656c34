"""An artifact: a folder that holds a model, a plan, what the plan needs, and the proof that it still works.

    artifact.json      name, plan hash, preparation key, environment, tolerance
    plan.toml          the plan
    source/            the model folder (without its weights in a slim artifact)
    weights.safetensors   in its place the weights of a module of one's own, by its own names (none in a slim artifact)
    prepared/          converted and quantised graphs
    reference.safetensors   seeded noise, labels and the outputs they gave
    observations.jsonl raw timings, when there are any
    hashes.json        SHA-256 of every other file

Loading builds the source and replays the plan.  A module's code is not in an artifact: bring a fresh one, which gets
the weights that are; ``artifact.json`` says how::

    hasten.load_artifact("artifact", hasten.load(Mine(), schedule=..., prediction="epsilon", shape=(3, 32, 32)))
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors

from hasten import guard
from hasten.environment import check_device, environment
from hasten.errors import BadInput, shown
from hasten.files import sha256, write_bytes, write_text
from hasten.model import source as sources
from hasten.model.checked import Checked, checked
from hasten.model.header import check_header
from hasten.model.inside import read_json
from hasten.model.source import BASELINE_STEPS, Source, weights_of, with_weights
from hasten.model.target import Target
from hasten.model.workload import Case, draw
from hasten.seeds import Purpose, seed_of
from hasten.technique import plan as plans
from hasten.technique.contract import Prepared
from hasten.technique.plan import Plan

VERSION = 1
WEIGHTS = "weights.safetensors"
REFERENCE_IMAGES = 4
AGAIN = "make the artifact again with hasten apply"

Line = Annotated[str, Field(max_length=1000, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
Count = Annotated[int, Field(ge=0)]


class Gpu(Checked):
    """The ``gpu`` of :func:`hasten.environment.environment`."""

    name: Line | None = None
    memory_bytes: Count | None = None
    capability: Line | None = None
    cuda: Line | None = None
    count: Count | None = None


class Environment(Checked):
    """What :func:`hasten.environment.environment` tells."""

    cpu: Line | None = None
    cpu_flags: list[Line] = Field(default_factory=list)
    cores: Count | None = None
    threads: Line | None = None
    memory_bytes: Count | None = None
    gpu: Gpu | None = None
    os: Line | None = None
    python: Line | None = None
    packages: dict[Line, Line | None] = Field(default_factory=dict)
    commit: Line | None = None


class About(Checked):
    """``artifact.json``; ``device`` is where the model ran when the artifact was made, ``load`` how one of a module is
    loaded again, ``kept_hash`` the SHA-256 of its weights' file."""

    version: Literal[1]
    name: str
    attribution: str
    plan_hash: str = Field(pattern=r"^[0-9a-f]{16}$")
    label: list[str]
    weight_hash: str = Field(pattern=r"^[0-9a-f]{64}$")
    has_source: bool
    slim: bool = False
    guidance: float
    prepared_key: str
    environment: Environment
    device: Line = "cpu"
    load: Line | None = None
    kept_hash: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    steps: int = Field(BASELINE_STEPS, ge=1, le=1000)


def save(
    folder: Path,
    source: Source,
    plan: Plan,
    observations: Sequence[dict[str, Any]] = (),
    slim: bool = False,
) -> Path:
    """Write the artifact ``folder`` whole or not at all; an artifact that stands there is replaced.

    ``slim``: without the model's own weights.  Raises BadInput where the plan needs them, and where weights or samples
    are NaN or Inf.
    """
    if slim and not plan.self_contained:
        raise BadInput(
            "a slim artifact has no weights of the model, and this plan runs them; add runtime, or keep them"
        )
    with guard.making(folder, mark="artifact.json") as work:
        prepared = plans.prepare(source)
        target = plans.build(source, plan, prepared)
        if prepared.seconds:  # what was made on the way to it is used no more, and need not be carried
            prepared = plans.prepare(source)
            target = plans.build(source, plan, prepared)
        _fill(work, source, plan, prepared, target, observations, slim)
        _open_to_others(work)
    return folder


def load(folder: Path | str, source: Source | None = None, device: str | None = None) -> tuple[Target, Source, Plan]:
    """The artifact's target, source and plan.  ``source`` is needed when the artifact was made from a module: a fresh
    one, as :func:`hasten.load` takes it, gets the weights that the artifact keeps, and its guidance and steps.

    It runs on the device that it was made on, or on ``device``.  Raises BadInput when the folder is no artifact, its
    plan was changed, it was made from other weights than ``source`` has, or this machine has no such device.
    """
    source, plan, prepared = parts(folder, source, device)
    return plans.build(source, plan, prepared), source, plan


def parts(folder: Path | str, source: Source | None = None, device: str | None = None) -> tuple[Source, Plan, Prepared]:
    """What the artifact's target is built from; see :func:`load`."""
    folder = Path(folder)
    about = about_of(folder)
    plan = plans.read(folder / "plan.toml")
    if plan.hash != about.plan_hash:
        raise BadInput(f"{folder / 'plan.toml'} was changed; {AGAIN}")
    if about.slim and not plan.self_contained:
        raise BadInput(f"{folder} is slim, and its plan runs the model's weights, which it lacks; {AGAIN}")
    if source is None:
        if not about.has_source:
            how = about.load or "hasten.load_artifact(FOLDER, hasten.load(module, ...))"
            raise BadInput(f"{folder} was made from a module of your own; pass it: {how}")
        source = replace(_source(folder / "source", about, device or about.device), name=about.name)
    elif device is not None:
        check_device(device)
        source = replace(source, device=device)
    if not about.has_source and (folder / WEIGHTS).exists():
        source = _with_stored(folder / WEIGHTS, source, about)
    if source.weight_hash != about.weight_hash:
        raise BadInput(f"{folder} was made from other weights ({about.weight_hash[:12]}) than {source.name} has")
    return source, plan, Prepared(about.prepared_key, folder / "prepared", complete=True)


def _source(folder: Path, about: About, device: str) -> Source:
    if not about.slim:
        return sources.load(folder, guidance=about.guidance, device=device, steps=about.steps)
    check_device(device)
    return replace(sources.load_slim(folder, about.weight_hash, about.guidance), device=device, steps=about.steps)


def _with_stored(path: Path, source: Source, about: About) -> Source:
    """``source`` with the weights in ``path``.  Raises BadInput unless they are those of such a module."""
    own = {name: tuple(value.shape) for name, value in weights_of(source.module()).items()}
    stored = {name: info.shape for name, info in check_header(path).items()}
    for name in sorted(set(own) | set(stored)):
        if own.get(name) != stored.get(name):
            held, has = (str(shapes.get(name, "none")) for shapes in (stored, own))
            raise BadInput(
                f"{path}: {shown(name)} is {held}, and {source.name} has {has}; pass a module like the one that the "
                "artifact was made from"
            )
    if about.guidance != 1.0 and source.null_label is None:
        raise BadInput(f"{path.parent} samples with guidance {about.guidance:g}; load the module with its null_label=")
    if sha256(path) != about.kept_hash:
        raise BadInput(f"{path} was changed; {AGAIN}")
    loaded = with_weights(source, load_file(path), about.weight_hash)
    return replace(loaded, guidance=about.guidance, steps=about.steps)


def is_artifact(folder: Path | str) -> bool:
    """Whether ``folder`` looks like an artifact."""
    return (Path(folder) / "artifact.json").is_file()


def _fill(
    work: Path,
    source: Source,
    plan: Plan,
    prepared: Prepared,
    target: Target,
    observations: Sequence[dict[str, Any]],
    slim: bool,
) -> None:
    for path in dict.fromkeys(prepared.used):
        shutil.copytree(path, work / "prepared" / path.name)
    if source.folder is not None:
        for path in sources.files(source.folder, weights=not slim):
            (work / "source" / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source.folder / path, work / "source" / path)
    kept = source.folder is None and not slim
    if kept:
        write_bytes(work / WEIGHTS, save_tensors(_finite_weights(source)))
    case = reference_case(source)
    outputs = {"noise": case.noise, "samples": target.sample(case).contiguous()}
    if not outputs["samples"].isfinite().all():
        raise BadInput(
            f"{source.name}: its samples with this plan hold NaN or Inf, and no artifact is made of it; use weights "
            "that are not broken, or another plan"
        )
    if case.labels is not None:
        outputs["labels"] = case.labels
    write_bytes(work / "reference.safetensors", save_tensors(outputs))
    plans.write(plan, work / "plan.toml")
    write_text(work / "observations.jsonl", "".join(json.dumps(row) + "\n" for row in observations))
    about = {
        "version": VERSION,
        "name": source.name,
        "attribution": source.attribution,
        "plan_hash": plan.hash,
        "label": plan.label_on(source.sampler_label),
        "weight_hash": source.weight_hash,
        "has_source": source.folder is not None,
        "slim": slim,
        "guidance": source.guidance,
        "prepared_key": plans.prepare(source).key,
        "environment": environment(),
        "device": source.device,
        "load": None if source.folder is not None else _how(source),
        "kept_hash": sha256(work / WEIGHTS) if kept else None,
        "steps": source.steps,
    }
    write_text(work / "artifact.json", json.dumps(about, indent=2, sort_keys=True) + "\n")
    files = sorted(path for path in work.rglob("*") if path.is_file())
    hashes = {path.relative_to(work).as_posix(): sha256(path) for path in files}
    write_text(work / "hashes.json", json.dumps(hashes, indent=2) + "\n")


def _finite_weights(source: Source) -> dict[str, torch.Tensor]:
    """The weights to keep of a module of one's own.  Raises BadInput for parameters that are NaN or Inf."""
    module = source.module()
    bad = [name for name, value in module.named_parameters() if not value.isfinite().all()]
    if bad:
        raise BadInput(
            f"{source.name}: {shown(bad[0])} holds NaN or Inf, and no artifact is made of it; train it again"
        )
    return {name: value.contiguous().clone() for name, value in weights_of(module).items()}  # tied ones each


def _how(source: Source) -> str:
    """How the artifact of a module is loaded again."""
    words = [f"{source.name}(...)", "schedule=...", f"prediction={source.prediction!r}", f"shape={source.shape}"]
    words += [f"{key}={value}" for key in ("num_labels", "null_label") if (value := getattr(source, key)) is not None]
    if source.prediction == "edm":
        words.append(f"sigma_data={source.sigma_data}")
    if getattr(source.call, "call", source.call) not in (sources.call_module, sources.call_unet):
        words.append("call=...")
    return f"hasten.load_artifact(FOLDER, hasten.load({', '.join(words)}))"


def reference_case(source: Source) -> Case:
    """The seeded case whose outputs an artifact carries."""
    return draw(source.shape, 1, REFERENCE_IMAGES, seed_of(Purpose.ARTIFACT), source.labels).cases[0]


def _open_to_others(work: Path) -> None:
    """The modes that the umask says: temporary folders, and copies of them, are the owner's alone."""
    mask = os.umask(0)
    os.umask(mask)
    for path in (work, *work.rglob("*")):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)


def about_of(folder: Path) -> About:
    """What artifact.json says.  Raises BadInput for what is none of this version."""
    about = content_of(folder, "artifact.json")
    version = about.get("version")
    if type(version) is not int or version != VERSION:
        raise BadInput(f"{folder}: artifact version {shown(version)}, this hasten reads {VERSION}; {AGAIN}")
    return checked(About, about, folder / "artifact.json")


def content_of(folder: Path, name: str) -> dict[str, Any]:
    """A JSON file of the artifact.  Raises BadInput where there is none."""
    path = folder / name
    if not path.is_symlink() and not path.is_file():
        raise BadInput(f"{folder} is no artifact: {name} is missing or no file; pass a folder that hasten apply wrote")
    return read_json(folder, name)
