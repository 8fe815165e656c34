"""Training, one visible loop from recipe to model folder.

Batch ``b`` of a run, with its noise, its levels and its dropout, follows from (seed, b) alone; a checkpoint holds all
else.  So a resumed run goes on to the bit, and a step that went wrong is left out by going on to the next batch.
"""

from __future__ import annotations

import json
import math
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hasten import guard
from hasten.data.array import Data
from hasten.data.loader import Batch
from hasten.environment import check_device, environment
from hasten.errors import HastenError
from hasten.files import replacing, write_text
from hasten.model.grid import write_grid
from hasten.model.source import Source
from hasten.seeds import Purpose
from hasten.train import inputs, network, state, training
from hasten.train.choices import choose
from hasten.train.log import Figures, Log, Shown
from hasten.train.losses.audit import audit
from hasten.train.memory.autotune import threads_kept
from hasten.train.optimizers.stability import Clipped, nonfinite
from hasten.train.recipe import Recipe
from hasten.train.training import Training
from hasten.train.validate import Validator
from hasten.train.weights import average, posthoc

MOST_REWINDS = 3  # before a step: what comes back each time is no bad batch
SETTLED = 10  # steps between a checkpoint that is gone back to and the leap: what made it may have begun before
AGAIN = "nothing is lost, give the same command again"
Progress = Callable[[Shown], None]


def train(
    recipe: Recipe,
    out: Path | str,
    resume: bool | Path = False,
    progress: Progress | None = None,
    warn: Callable[[str], None] = warnings.warn,
    *,
    source: Source | None = None,
    data: Data | None = None,
) -> Path:
    """Train as ``recipe`` says into ``out`` and return the model folder ``out/model``.

    ``resume``: go on from the newest readable checkpoint in ``out``, or from exactly the one at a path.
    ``progress(shown)`` is called after each step, ``warn`` with each line on what was worked around.  ``source``: a
    network to train, in place of the recipe's (:func:`hasten.load`); ``data``: in place of the recipe's.

    ``out`` gets checkpoints, ``run.json``, ``metrics.jsonl``, samples along the way, ``best/`` (of the lowest held-out
    loss, where the recipe validates), ``averages/`` (where it asks for profiles) and, at the end, ``model/``: the
    averaged weights as a diffusers folder.

    Raises BadInput for a recipe that data, device or disk can't serve, for an ``out`` that another run holds or has
    filled; HastenError when too many steps in a row are not finite; KeyboardInterrupt after Ctrl-C or SIGTERM, once the
    step is done and its checkpoint saved.
    """
    options, out = recipe.train, Path(out)
    check_device(options.device)
    state.check_place(out, resume)
    decode = None
    try:
        if data is None:
            data, decode = inputs.dataset(recipe, source=source)
        for note in data.notes:
            warn(note)
        source = network.source_of(recipe, data, source)
        data = network.labelled(data, source)
        batches = inputs.loader(recipe, data)
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt(f"stopped before the first step; {AGAIN}") from interrupt
    for note in batches.notes:
        warn(note)
    told = recipe.model_dump()
    fingerprint = inputs.fingerprint(recipe, data, source)

    with guard.holding(out), guard.stopping() as stop_asked, threads_kept():
        state.check_place(out, resume)
        saved = None
        if resume:
            saved = state.read(resume if isinstance(resume, Path) else out, fingerprint, told)
            for line in saved.passed_over:
                warn(line)
        choices = choose(recipe, data, source, batches.batch(0)) if saved is None else saved.numbers["choices"]
        run = training.prepare(recipe, data, decode, source, choices, saved)
        now = run.state
        guard.check_room(out, state.needed_bytes(now, out), "checkpoints and the model")
        with _log(run, out, saved is not None) as log, _interrupted(run, out):
            validator = None
            if options.validate_every is not None:
                validator = Validator(source, data, options.validate_samples, options.seed)
            if run.spike is not None and not any(out.glob(state.PATTERN)):
                state.save(now, out, fingerprint, told)
            in_a_row = 0
            with batches.from_(now.batch) as drawn:
                while now.step < options.steps:
                    if stop_asked():  # since the last step, or in one that was left out
                        log.flush()
                        state.save(now, out, fingerprint, told)
                        raise KeyboardInterrupt(_stopped(now.step, options.steps))
                    lap = Lap()
                    batch = next(drawn)
                    lap("data")
                    rate = _set_rate(run)
                    kept = [(each, each.clone()) for each in run.network.buffers()]
                    told_losses = []
                    parts = run.examples(batch).parts(options.accumulate)
                    for number, part in enumerate(parts, 1):
                        wanted, error = run.losses(part)
                        lap("forward")
                        told_losses.append(error)
                        fused = run.fused if number == len(parts) else None
                        if fused is not None and not bool(torch.isfinite(torch.stack(told_losses)).all()):
                            break
                        with nullcontext() if fused is None else fused.armed():
                            run.scaler.scale(wanted / options.accumulate).backward()  # type: ignore[no-untyped-call]
                        run.weights.gather_()
                        lap("backward")
                    loss = torch.stack(told_losses).mean()
                    told_loss = loss.item()
                    clipped = _clip(run, told_loss)

                    if not (math.isfinite(told_loss) and math.isfinite(clipped.norm)):
                        what = nonfinite([(name, p.grad) for name, p in now.named.items()], loss) or "the gradient"
                        overflow = run.scaler.is_enabled() and run.scaler.get_scale() > 1 and math.isfinite(told_loss)
                        _forget(run, kept)
                        now.batch, now.skipped = batch.number + 1, now.skipped + 1
                        log.event("skipped", now.step, batch.number, what=what, ids=batch.ids.tolist())
                        in_a_row += not overflow
                        if in_a_row > options.skip_nonfinite:
                            raise HastenError(
                                f"step {now.step}, batch {batch.number}: {what}, {in_a_row} in a row; "
                                f"checkpoints are kept: lower train.learning_rate (now {options.learning_rate:g}) or "
                                f"look at samples {batch.ids[:8].tolist()}, and train into another folder"
                            )
                        continue
                    in_a_row = 0
                    if run.spike is not None and run.spike.seen_(told_loss) and now.rewinds < MOST_REWINDS:
                        _rewind(run, out, fingerprint, batch, told_loss, log)
                        continue

                    rng = run.generator(batch.number, Purpose.ROUNDING)
                    if run.fused is None:
                        run.weights.widen_()
                        for optimizer in now.optimizers:
                            optimizer.step()
                        run.scaler.update()
                        for constraint in run.constraints:
                            constraint.apply_()
                        run.weights.spread_(run.halves, rng)
                    lap("optimizer")
                    _average(run, out, rng)
                    training.drop_gradients_(run)
                    now.step, now.batch = now.step + 1, batch.number + 1
                    lap("average")

                    shown = log.step(
                        Figures(
                            now.step, batch.number, told_loss, clipped.norm, clipped.scale, rate, len(batch.samples),
                            lap.total(), batch.waited_seconds, lap.seconds, now.skipped,
                        )
                    )  # fmt: skip
                    if progress is not None:
                        progress(shown)
                    stop, done = stop_asked(), now.step == options.steps
                    if validator is not None and (now.step % (options.validate_every or 1) == 0 or done):
                        _validate(run, validator, out, log)
                    if now.step % options.checkpoint_every == 0 or done or stop:
                        began = time.perf_counter()
                        log.flush()
                        if now.step > now.leapt:
                            now.rewinds = 0
                        state.save(now, out, fingerprint, told)
                        log.event("checkpoint", now.step, now.batch, seconds=time.perf_counter() - began)
                    if stop:
                        raise KeyboardInterrupt(_stopped(now.step, options.steps))
                    if now.step % options.sample_every == 0 or done:
                        _sample(run, out, log)
            network.save_model(source, run.network, run.shipped(), recipe, data, out / "model")
            log.event("end", now.step, now.batch)
    return out / "model"


class Lap:
    """Seconds by phase, as they pass."""

    def __init__(self) -> None:
        self.began = self.last = time.perf_counter()
        self.seconds: dict[str, float] = {}

    def __call__(self, phase: str) -> None:
        """What passed since the last call was ``phase``."""
        now = time.perf_counter()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self.last
        self.last = now

    def total(self) -> float:
        """All that passed."""
        return self.last - self.began


@contextmanager
def _log(run: Training, out: Path, resumed: bool) -> Iterator[Log]:
    """The run's log, with what was decided before the first step in it."""
    options, now = run.recipe.train, run.state
    about = {
        "recipe": run.recipe.model_dump(),
        "environment": environment(),
        "parameters": sum(p.numel() for p in run.network.parameters()),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }
    log = Log(out, options.steps, options.log_every, options.device, options.tensorboard)
    try:
        if resumed:
            log.resume_(now.step)
        write_text(out / "run.json", json.dumps(about, indent=1) + "\n")
        log.event("resumed" if resumed else "begin", now.step, now.batch)
        line = audit(
            run.source.schedule, run.source.prediction, options.levels, options.levels_mean, options.levels_std
        )
        log.event("audit", now.step, now.batch, line=line)
        if now.choices:
            log.event("autotune", now.step, now.batch, **now.choices)
        yield log
    finally:
        log.close()


@contextmanager
def _interrupted(run: Training, out: Path) -> Iterator[None]:
    """An interruption at once, by a second Ctrl-C, says where it was and what is kept."""
    try:
        yield
    except KeyboardInterrupt as error:
        if str(error):
            raise
        kept = sorted(out.glob(state.PATTERN))
        how = f"resuming goes on from {kept[-1].name}" if kept else AGAIN
        steps = run.recipe.train.steps
        raise KeyboardInterrupt(f"stopped in step {min(run.state.step + 1, steps)} of {steps}; {how}") from error


def _stopped(step: int, steps: int) -> str:
    return f"stopped after step {step} of {steps}; resuming goes on there"


def _set_rate(run: Training) -> float:
    """The learning rate of this step, put into every optimiser."""
    factor = run.rate.factor(run.state.step) * (1.0 if run.plateau is None else run.plateau.factor)
    rate = run.recipe.train.learning_rate * factor
    for optimizer in run.state.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
    return rate


def _clip(run: Training, loss: float) -> Clipped:
    """The gradients, unscaled and clipped; of a step that was fused into backward only their norm is known."""
    if run.fused is not None:
        norm = run.fused.norm.item() if math.isfinite(loss) else math.nan  # then it did not step
        if math.isfinite(loss) and not math.isfinite(norm):
            raise HastenError(
                f"step {run.state.step}: a gradient is not finite, and train.step_in_backward has used the others "
                "already: resume from the last checkpoint without it, or with a lower train.learning_rate"
            )
        return Clipped(norm, 1.0)
    for optimizer in run.state.optimizers:
        run.scaler.unscale_(optimizer)
    return run.clip.clip_(run.weights.named.values())


def _forget(run: Training, buffers: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Leave weights, averages and schedule as they were before a step that is not taken."""
    for each, before in buffers:
        each.copy_(before)
    training.drop_gradients_(run)
    if run.scaler.is_enabled():
        run.scaler.update()


def _rewind(run: Training, out: Path, fingerprint: str, batch: Batch, loss: float, log: Log) -> None:
    """Back to the newest checkpoint that had settled; the batches from there to this one are not seen again."""
    now, left = run.state, run.state.step
    rewinds, leapt = now.rewinds + 1, max(now.leapt, left)
    saved = state.read(state.before(out, left - SETTLED), fingerprint, run.recipe.model_dump())
    first = int(saved.numbers["batch"])
    training.drop_gradients_(run)
    state.restore_(now, saved)
    now.batch, now.rewinds, now.leapt = batch.number + 1, rewinds, leapt
    batches = list(range(first, batch.number + 1))
    log.event("rewind", now.step, batch.number, from_step=left, to_step=now.step, batches=batches, loss=loss)


def _average(run: Training, out: Path, rng: torch.Generator) -> None:
    """Take the new weights into the averages, and keep those of which a profile is made after training."""
    options, now = run.recipe.train, run.state
    if "average" in now.kept:
        decay = average.decay_at(now.step, options.ema_decay)
        average.update_(now.kept["average"].values(), run.tracked.values(), decay, rng)
    if run.profiles:
        average.update_all_(run.profiles, run.tracked, now.step + 1, rng)
        if (now.step + 1) % options.profile_every == 0 or now.step + 1 == options.steps:
            for each in run.profiles:
                posthoc.save(each, now.step + 1, out / "averages")


def _validate(run: Training, validator: Validator, out: Path, log: Log) -> None:
    """Held-out figures; the best model so far is kept."""
    began, now = time.perf_counter(), run.state
    found = validator.validate(run.target(), run.objective)
    best = now.best_loss is None or found.loss < now.best_loss
    if run.plateau is not None:
        run.plateau.update_(found.loss)
    if best:
        now.best_loss = found.loss
        network.save_model(run.source, run.network, run.shipped(), run.recipe, run.data, out / "best")
    values: dict[str, Any] = {"losses": {f"{s:g}": loss for s, loss in found.losses.items()}, "loss": found.loss}
    values |= {"distance": found.distance, "best": best}
    log.event("validation", now.step, now.batch, seconds=time.perf_counter() - began, **values)


def _sample(run: Training, out: Path, log: Log) -> None:
    """Samples of the averaged weights: a grid of pictures, an array of what is none."""
    began, now = time.perf_counter(), run.state
    samples = training.decoded(run, network.samples_of(run.target(), run.data, run.recipe.train.seed))
    if samples.dim() == 4 and samples.shape[1] in (1, 3):
        path = training.where_to(out, now.step, ".png")
        write_grid(samples, path)
        log.image(now.step, path)
    else:
        path = training.where_to(out, now.step, ".npy")
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.save(file, samples.numpy())
    log.event("sample", now.step, now.batch, seconds=time.perf_counter() - began, path=path.name)
