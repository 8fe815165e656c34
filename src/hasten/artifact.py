"""An artifact: a folder that holds a model, a plan, what the plan needs, and the proof that it still works.

    artifact.json      name, plan hash, preparation key, environment, tolerance
    plan.toml          the plan
    source/            the model folder (absent for a module of one's own: bring the module again; without its weights
                       in a slim artifact)
    prepared/          converted and quantised graphs
    tables.json        the sampler's table in plain numbers
    reference.safetensors   seeded noise, labels and the outputs they gave
    observations.jsonl raw timings, when there are any
    hashes.json        SHA-256 of every other file

Loading builds the source and replays the plan.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from hasten.environment import differences, environment
from hasten.errors import BadInput
from hasten.files import sha256, write_bytes, write_text
from hasten.model import source as sources
from hasten.model.source import Source
from hasten.model.target import Target
from hasten.model.workload import Case, draw
from hasten.technique import plan as plans
from hasten.technique.contract import Prepared
from hasten.technique.plan import Plan

VERSION = 1
REFERENCE_IMAGES = 4
REFERENCE_SEED = 70_001
TOLERANCE_DB = 40.0
SAME_DB = 150.0


@dataclass(frozen=True)
class Verification:
    """``problems`` is empty when the artifact is whole; ``agreement_db`` is the reference outputs' SQNR."""

    problems: tuple[str, ...]
    differences: tuple[str, ...]
    agreement_db: float | None
    files: int


def save(
    folder: Path,
    source: Source,
    plan: Plan,
    observations: Sequence[dict[str, Any]] = (),
    slim: bool = False,
) -> Path:
    """Write the artifact ``folder`` whole or not at all; an artifact that stands there is replaced.

    ``slim``: without the model's own weights.  Raises BadInput where the plan needs them.
    """
    if slim and not plan.self_contained:
        raise BadInput(
            "a slim artifact has no weights of the model, and this plan runs them; add runtime, or drop --slim"
        )
    prepared = plans.prepare(source)
    target = plans.build(source, plan, prepared)
    if prepared.seconds:  # what was made on the way to it is used no more, and need not be carried
        prepared = plans.prepare(source)
        target = plans.build(source, plan, prepared)
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _fill(work, source, plan, prepared, target, observations, slim)
        if folder.exists():
            if not (folder / "artifact.json").exists():
                raise BadInput(f"{folder} exists and is no artifact; choose another --out")
            shutil.rmtree(folder)
        work.chmod(0o755)
        work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder


def load(folder: Path | str, source: Source | None = None) -> tuple[Target, Source, Plan]:
    """The artifact's target, source and plan.  ``source`` is needed when the artifact was made from a module.

    Raises BadInput when the folder is no artifact, or was made from other weights than ``source`` has.
    """
    source, plan, prepared = parts(folder, source)
    return plans.build(source, plan, prepared), source, plan


def parts(folder: Path | str, source: Source | None = None) -> tuple[Source, Plan, Prepared]:
    """What the artifact's target is built from; see :func:`load`."""
    folder = Path(folder)
    about = _about(folder)
    if source is None:
        if not about["has_source"]:
            raise BadInput(f"{folder} was made from a module of your own; pass it: load(folder, hasten.load(module))")
        guidance = float(about["guidance"])
        if about.get("slim"):
            source = sources.load_slim(folder / "source", str(about["weight_hash"]), guidance)
        else:
            source = sources.load(folder / "source", guidance=guidance)
    if source.weight_hash != about["weight_hash"]:
        raise BadInput(f"{folder} was made from other weights ({about['weight_hash'][:12]}) than {source.name} has")
    plan = plans.read(folder / "plan.toml")
    return source, plan, Prepared(str(about["prepared_key"]), folder / "prepared", complete=True)


def verify(folder: Path | str, source: Source | None = None) -> Verification:
    """Check every hash, sample the reference case again and compare, and name what differs in the environment."""
    folder = Path(folder)
    about = _about(folder)
    hashes = _json(folder / "hashes.json")
    found = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.name != "hashes.json"}
    problems = [f"{name} is missing" for name in sorted(set(hashes) - found)]
    problems += [f"{name} is not listed in hashes.json" for name in sorted(found - set(hashes))]
    problems += [f"{name} was changed" for name in sorted(found & set(hashes)) if sha256(folder / name) != hashes[name]]
    agreement = None
    if not problems:
        agreement = _agreement(folder, source)
        if agreement < TOLERANCE_DB:
            problems.append(f"reference outputs agree to {agreement:.1f} dB, the limit is {TOLERANCE_DB:.0f} dB")
    return Verification(
        tuple(problems), tuple(differences(about["environment"], environment())), agreement, len(hashes)
    )


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
    case = reference_case(source)
    outputs = {"noise": case.noise, "samples": target.sample(case).contiguous()}
    if case.labels is not None:
        outputs["labels"] = case.labels
    write_bytes(work / "reference.safetensors", save_tensors(outputs))
    write_text(work / "tables.json", json.dumps(target.table.to_json()) + "\n")
    plans.write(plan, work / "plan.toml")
    write_text(work / "observations.jsonl", "".join(json.dumps(row) + "\n" for row in observations))
    about = {
        "version": VERSION,
        "name": source.name,
        "attribution": source.attribution,
        "plan_hash": plan.hash,
        "label": plan.label,
        "weight_hash": source.weight_hash,
        "has_source": source.folder is not None,
        "slim": slim,
        "guidance": source.guidance,
        "prepared_key": plans.prepare(source).key,
        "environment": environment(),
    }
    write_text(work / "artifact.json", json.dumps(about, indent=2, sort_keys=True) + "\n")
    files = sorted(path for path in work.rglob("*") if path.is_file())
    hashes = {str(path.relative_to(work)): sha256(path) for path in files}
    write_text(work / "hashes.json", json.dumps(hashes, indent=2) + "\n")


def reference_case(source: Source) -> Case:
    """The seeded case whose outputs an artifact carries."""
    return draw(source.shape, 1, REFERENCE_IMAGES, REFERENCE_SEED, source.labels).cases[0]


def _agreement(folder: Path, source: Source | None) -> float:
    try:
        stored = load_tensors((folder / "reference.safetensors").read_bytes())
    except (OSError, SafetensorError) as error:
        raise BadInput(
            f"{folder / 'reference.safetensors'} can't be read ({error}); make the artifact again"
        ) from error
    target, _, _ = load(folder, source)
    made = target.sample(Case(0, REFERENCE_SEED * 100_003, stored["noise"], stored.get("labels")))
    noise = (made - stored["samples"]).double().square().mean().item()
    signal = stored["samples"].double().square().mean().item()
    return SAME_DB if noise == 0 else min(10 * math.log10(signal / noise), SAME_DB)


def _about(folder: Path) -> dict[str, Any]:
    about = _json(folder / "artifact.json")
    if about.get("version") != VERSION:
        raise BadInput(f"{folder}: artifact version {about.get('version')!r}, this hasten reads {VERSION}")
    return about


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{path.parent} is no artifact: {path.name} can't be read ({error.strerror})") from error
    except ValueError as error:
        raise BadInput(f"{path} is not JSON; make the artifact again") from error
    if not isinstance(value, dict):
        raise BadInput(f"{path} must hold an object; make the artifact again")
    return value
