"""A smaller network from a larger one: pruned, or trained to answer as it does, each into an ordinary model folder.

A pruned network forgets; what it needs to recover is the teacher's answers (:mod:`hasten.train.losses.teacher`) on
data, for a time.  So a student begins as its teacher, pruned, and recovery and distillation are one thing.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers import UNet2DModel

from hasten import guard
from hasten.data import loader
from hasten.data.array import Data
from hasten.distill import blocks, sparse
from hasten.distill.blocks import Tell
from hasten.distill.channels import Scores, Taylor, magnitude, pruned, smaller
from hasten.errors import BadInput
from hasten.files import toml, write_text
from hasten.measure.damage import LEVELS, decibel
from hasten.model.checked import checked, parse_object
from hasten.model.config import UNet2D, read_folder
from hasten.model.folder import save_folder
from hasten.model.source import Source
from hasten.seeds import Purpose, seed_of
from hasten.technique.precision import Precision
from hasten.train import loop, recipe, rehearsal, state
from hasten.train.losses.objective import Objective
from hasten.train.network import labelled
from hasten.train.recipe import Recipe

Importance = Literal["taylor", "magnitude"]
TAYLOR_BATCHES, TAYLOR_BATCH = 24, 32
STATES, STATE_PARTS = 96, 6  # that the damage of blocks is measured on, from noise to sample
TRAINED = 0.9  # of the time, in steps; the rest is for what is not
FEWEST_STEPS = 20
WARMUP, LENGTH = 0.05, 0.1  # shares of the steps: of warm-up, and the memory of the average
TEACHER_SHARE, FEATURE_WEIGHT, LEARNING_RATE = 0.5, 0.1, 2e-3


def prune(
    source: Source,
    share: float | Path,
    importance: Importance,
    data: Data | None,
    out: Path,
    tell: Tell = lambda *_: None,
) -> dict[str, Any]:
    """Write ``out``, the network of ``source`` with fewer channels, and return its configuration.

    ``share``, in (0, 1), of each block's channels, or a ``config.json`` of such a network.  ``importance``: by
    ``magnitude`` of the weights, or by ``taylor``, the effect on the loss on ``data`` at all noise levels alike, of
    which ``tell(what, done, of)`` is told.

    Raises BadInput for a source that is no diffusers folder, for a share out of range, for no data where it is needed.
    """
    with guard.making(out) as folder:
        network = _network(source)
        config = _config(network, share)
        network = blocks.as_in(network, config)
        scores: Scores = magnitude(network)
        if importance == "taylor":
            if data is None:
                raise BadInput("importance by taylor needs data; give it, or use importance by magnitude")
            scores = taylor(source, network, labelled(data, source), tell)
        told = torch.from_numpy(np.asarray(source.schedule.network_time(np.linspace(1e-3, 1.0, 2000)))).float()
        _save(source, pruned(network, config, scores, told), {"importance": importance}, folder)
    return config


def drop_blocks(source: Source, count: int, data: Data, out: Path, tell: Tell = lambda *_: None) -> dict[str, Any]:
    """Write ``out``, the network of ``source`` without ``count`` whole blocks, those whose absence changes its answers
    on ``data`` least, and return ``rows`` on all that could go: ``name``, ``parameters``, the ratio of the answers to
    their change in ``decibels`` at each of ``levels``, and whether it is ``gone``.

    Raises BadInput for a source that is no diffusers folder, and when so many can't go.
    """
    with guard.making(out) as folder:
        return _drop_blocks(source, count, labelled(data, source), folder, tell)


def _drop_blocks(source: Source, count: int, data: Data, folder: Path, tell: Tell) -> dict[str, Any]:
    network = _network(source)
    ids, rng = data.ids(held_out=False), torch.Generator().manual_seed(seed_of(Purpose.TRIAL))
    chosen = ids[torch.randperm(len(ids), generator=rng)[:STATES].numpy()]
    clean, labels = (torch.from_numpy(part) for part in data.take(chosen))
    part = Objective(source.schedule, source.prediction, source.sigma_data).at(
        clean,
        labels if source.num_labels is not None else None,
        np.linspace(1.0, 0.0, len(clean), endpoint=False),
        torch.randn(clean.shape, generator=rng),
    )

    def evaluate(asked: UNet2DModel) -> torch.Tensor:
        return torch.cat([source.call(asked, each.x, each.time, each.labels) for each in part.parts(STATE_PARTS)])

    made, rows = blocks.drop(network, count, evaluate, tell)
    gone = [row.block.name for row in rows[:count]]
    _save(source, made, {"blocks": gone}, folder)
    shown = [
        {
            "name": row.block.name,
            "parameters": row.parameters,
            "decibels": [decibel(each) for each in row.damages],
            "gone": row.block.name in gone,
        }
        for row in rows
    ]
    return {"levels": LEVELS, "rows": shown}


def _network(source: Source) -> UNet2DModel:
    """What is pruned, in float32.  Raises BadInput where there is none."""
    if source.folder is None:
        raise BadInput(f"{source.name} is a module of your own; only a UNet2DModel folder can be pruned")
    network = source.module().float().eval()
    assert isinstance(network, UNet2DModel)
    return network


def _save(source: Source, made: UNet2DModel, told: dict[str, Any], folder: Path) -> None:
    """A folder with ``made``'s weights and all else of the source's, and what was pruned."""
    assert source.folder is not None
    spec = read_folder(source.folder)
    extra = {**spec.extra, "pruned": {"from": source.name, "weights": source.weight_hash, **told}}
    save_folder(folder, json.loads(made.to_json_string()), made.state_dict(), spec.scheduler, extra, torch.float32)


def taylor(source: Source, network: torch.nn.Module, data: Data, tell: Tell = lambda *_: None) -> Taylor:
    """Scores by the loss on training data at noise levels that are spread evenly over all times."""
    objective = Objective(source.schedule, source.prediction, source.sigma_data)
    found, ids, rng = Taylor(network), data.ids(held_out=False), torch.Generator().manual_seed(seed_of(Purpose.TRIAL))
    network.requires_grad_(True)
    for number in range(TAYLOR_BATCHES):
        tell("what the loss needs most", number, TAYLOR_BATCHES)
        chosen = ids[torch.randint(len(ids), (TAYLOR_BATCH,), generator=rng).numpy()]
        clean, labels = (torch.from_numpy(part) for part in data.take(chosen))
        part = objective.draw(clean, labels if source.num_labels is not None else None, rng)
        part.errors(source.call(network, part.x, part.time, part.labels)).mean().backward()  # type: ignore[no-untyped-call]
        found.add_()
        network.zero_grad(set_to_none=True)
    network.requires_grad_(False)
    return found


@dataclass(frozen=True)
class Lessons:
    """How a student is taught: for ``seconds`` on the ``data`` of that name, by the order and the noise of ``seed``.

    ``cached``: so many batches come round again and again, noise and all, and the teacher is asked once for each, not
    in every step.  ``features``: modules of both networks, such as ``mid_block``, whose outputs are learnt too.
    """

    data: str
    seconds: float
    batch_size: int = 64
    seed: int = 0
    cached: int | None = None
    features: Sequence[str] = ()


def distill(
    source: Source,
    student: str,
    lessons: Lessons,
    out: Path,
    *,
    resume: bool = False,
    progress: loop.Progress | None = None,
    warn: Callable[[str], None] = warnings.warn,
) -> Path:
    """Train a student of ``source``; its folder, ``out/model``.

    ``student``: ``channels=0.5``, a ``config.json``, or the folder of a model that has begun.  What is trained begins
    in ``out/student``; ``out/recipe.toml`` says how, for ``hasten train`` to go on from.
    """
    if source.folder is None:
        raise BadInput(f"{source.name} is a module of your own; train it with hasten.train.loop and a [teacher]")
    path = out / "recipe.toml"
    with guard.holding(out):
        if path.exists():
            if not resume:
                raise BadInput(f"{out} holds a run; resume it, or choose another folder")
        else:
            state.check_place(out, False)
            made = recipe_of(source, _begun(source, student, lessons.data, out), lessons)
            write_text(path, toml(made.model_dump(exclude_defaults=True)))
    return loop.train(recipe.read(path), out, any(out.glob(state.PATTERN)), progress, warn)


def _begun(source: Source, student: str, data: str, out: Path) -> Path:
    """The folder of the student as it begins: the one that ``student`` names, or ``out/student``, pruned."""
    folder = Path(student)
    if not folder.is_dir():
        folder, share = out / "student", asked(student)
        if not _is_begun(source, folder):  # a run that was stopped after this has it
            channels, *size = source.shape
            prune(source, share, "taylor", loader.by_name(data, (size[0], size[1]), channels=channels), folder)
    return folder


def _is_begun(source: Source, folder: Path) -> bool:
    """Whether ``folder`` holds ``source``, pruned.  Raises BadInput where something else is there."""
    if not folder.exists() and not folder.is_symlink():
        return False
    try:
        pruned_from = read_folder(folder).extra.get("pruned", {}).get("weights")
    except BadInput:
        pruned_from = None
    if pruned_from != source.weight_hash:
        raise BadInput(f"{folder} is there and is no student of {source.name}; move it away, or choose another folder")
    return True


def recipe_of(source: Source, folder: Path, lessons: Lessons) -> Recipe:
    """How the student in ``folder`` is trained, in as many steps as the time has room for, by a rehearsal; by autocast
    in bf16 where the machine has kernels for it.

    Raises BadInput when that are too few to warm up.
    """
    data, features, cached = lessons.data, list(lessons.features), lessons.cached
    learnt = {"features": features, "feature_weight": FEATURE_WEIGHT} if features else {}
    slow = Precision("bfloat16").refuse(source.build().facts)

    def made(steps: int, **other: Any) -> Recipe:
        named = {"name": data} if data in loader.NAMES else {"name": "folder", "path": data}
        values: dict[str, Any] = {
            "data": {**named, "size": source.shape[-1]},
            "model": {"folder": str(folder)},
            "teacher": {"folder": str(source.folder), "share": TEACHER_SHARE, "cached": cached, **learnt, **other},
            "train": {
                "steps": steps,
                "batch_size": lessons.batch_size,
                "precision": "float32" if slow is not None else "bfloat16",
                "optimizer": "muon",
                "learning_rate": LEARNING_RATE,
                "warmup_steps": int(WARMUP * steps),
                "ema_decay": round(1.0 - 1.0 / max(LENGTH * steps, 2.0), 6),
                "checkpoint_every": max(steps // 10, 1),
                "sample_every": max(steps // 4, 1),
                "seed": lessons.seed,
                "keep_zeros": sparse.is_sparse(folder),
            },
        }
        return recipe.check(values, "", "student")

    took = rehearsal.measure(made(10_000)).seconds  # it ends before anything is saved
    steps = int(TRAINED * lessons.seconds / took)
    if cached is not None and steps > cached:
        later = rehearsal.measure(made(10_000, cached=1)).seconds
        steps = cached + int((TRAINED * lessons.seconds - cached * took) / later)
    if steps < FEWEST_STEPS:
        room = f"a time of {lessons.seconds:g} s has room for {steps} steps of {took:.2g} s"
        raise BadInput(f"{room}; give time for {FEWEST_STEPS} or more")
    return made(steps)


def asked(student: str) -> float | Path:
    """``channels=0.5`` as 0.5, the path of a ``config.json`` as a path."""
    key, _, value = student.partition("=")
    if key == "channels":
        try:
            share = float(value)
        except ValueError:
            share = 0.0
        if not 0.0 < share < 1.0:
            raise BadInput(f"student {student}: the share of channels must be over 0 and under 1, such as 0.5")
        return share
    if not Path(student).is_file():
        raise BadInput(f"student {student}: no file or folder; give channels=0.5, a config.json or a model folder")
    return Path(student)


def _config(network: UNet2DModel, share: float | Path) -> dict[str, Any]:
    """The student's configuration, checked as any other."""
    own = {key: value for key, value in network.config.items() if not key.startswith("_")}
    if isinstance(share, float):
        if not 0.0 < share < 1.0:
            raise BadInput(f"channels = {share:g} is out of range; over 0, under 1")
        config = smaller(own, share)
        if config["block_out_channels"] == list(own["block_out_channels"]):
            raise BadInput(
                f"channels = {share:g} keeps all of block_out_channels {list(own['block_out_channels'])}: they go in "
                f"whole multiples of norm_num_groups = {own['norm_num_groups']}; lower it, or remove blocks"
            )
        return config
    values = parse_object(share.read_bytes(), share)
    own = {key: list(value) if isinstance(value, tuple) else value for key, value in own.items()}
    return checked(UNet2D, {**own, **{k: v for k, v in values.items() if not k.startswith("_")}}, share).model_dump()
