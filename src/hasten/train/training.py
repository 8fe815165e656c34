"""A recipe, put together: data, network, objective, optimiser and what keeps them in order, one :class:`Training`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from hasten.data.array import Data
from hasten.data.loader import Batch
from hasten.diffusion.loss import WEIGHTINGS
from hasten.errors import BadInput
from hasten.files import size
from hasten.model import source as sources
from hasten.model import upsample
from hasten.model.source import Source
from hasten.model.target import Target
from hasten.seeds import Purpose, seed_of
from hasten.train import network, state
from hasten.train.inputs import Decode
from hasten.train.losses.objective import Examples, Objective
from hasten.train.losses.teacher import Teacher
from hasten.train.losses.uncertainty import Uncertainty
from hasten.train.memory import autotune, checkpointing, recompute
from hasten.train.optimizers import catalogue
from hasten.train.optimizers.backward import StepInBackward
from hasten.train.optimizers.schedules import LearningRate, Plateau
from hasten.train.optimizers.stability import Clip, Spike
from hasten.train.recipe import Recipe
from hasten.train.weights import average, normalise, precision
from hasten.train.weights.zeros import Zeros


@dataclass(eq=False)
class Training:
    """All that a training loop works with.  What it needs to go on exactly is in ``state``, and only there.

    ``tracked``: the weights that averages follow, by their name in the network; ``halves``: the names of those that the
    network has in bf16.
    """

    recipe: Recipe
    data: Data
    decode: Decode | None
    source: Source
    network: torch.nn.Module
    objective: Objective
    rate: LearningRate
    weights: precision.Weights
    scaler: torch.amp.GradScaler
    clip: Clip
    state: state.State
    tracked: dict[str, torch.Tensor]
    halves: set[str]
    dtype: torch.dtype
    setting: autotune.Setting
    fused: StepInBackward | None = None
    spike: Spike | None = None
    plateau: Plateau | None = None
    forced: normalise.Forced | None = None
    zeros: Zeros | None = None
    uncertainty: Uncertainty | None = None
    teacher: Teacher | None = None
    profiles: list[average.PowerAverage] = field(default_factory=list)

    @property
    def constraints(self) -> tuple[normalise.Forced | Zeros, ...]:
        """What weights are brought back to after each step."""
        return tuple(each for each in (self.forced, self.zeros) if each is not None)

    @property
    def device(self) -> torch.device:
        """Where it trains."""
        return torch.device(self.source.device)

    def shipped(self) -> dict[str, torch.Tensor]:
        """The weights that are validated, sampled and saved: averaged, and named as the plain network names them."""
        kept = self.state.kept.get("average")
        if kept is None:
            kept = catalogue.averaged(self.state.optimizers[0], self.tracked)
        return normalise.folded(kept)

    def target(self) -> Target:
        """A target with the weights that would be shipped now."""
        return network.target_of(self.source, self.shipped())

    def examples(self, batch: Batch) -> Examples:
        """What is learnt from ``batch``; all that is random follows from the seed and the batch's number."""
        torch.manual_seed(seed_of(Purpose.BATCH, self.recipe.train.seed, batch.number))  # for dropout
        labels = batch.labels if self.source.num_labels is not None else None
        examples = self.objective.draw(batch.samples, labels, self.generator(batch.content))
        if self.teacher is None:
            return examples
        return self.teacher.taught(examples, batch.content, self.recipe.train.accumulate)

    def generator(self, number: int, purpose: Purpose = Purpose.BATCH) -> torch.Generator:
        """The random numbers of batch ``number``."""
        return torch.Generator().manual_seed(seed_of(purpose, self.recipe.train.seed, number))

    def ask(self, x: torch.Tensor, time: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        """The network's output in the recipe's precision, pictures in the setting's layout."""
        x = x.to(self.dtype)
        if x.dim() == 4:
            x = x.contiguous(memory_format=self.setting.layout)
        with precision.autocast(self.recipe.train.precision, self.device):
            return self.source.call(self.network, x, time, labels)

    def losses(self, part: Examples) -> tuple[torch.Tensor, torch.Tensor]:
        """What to learn from a micro-batch, a number, and its mean weighted error, which is what is told."""
        output = self.ask(part.x, part.time, part.labels)
        errors = part.errors(output)
        if self.teacher is not None:
            return self.teacher.errors(part, output, errors).mean(), errors.detach().mean()
        wanted = errors if self.uncertainty is None else self.uncertainty.loss(errors, part.s)
        return wanted.mean(), errors.detach().mean()


def prepare(
    recipe: Recipe,
    data: Data,
    decode: Decode | None,
    source: Source,
    choices: dict[str, Any],
    saved: state.Saved | None = None,
) -> Training:
    """Everything ``recipe`` asks for under ``choices``, at the start or as ``saved``.

    Raises BadInput where the recipe asks for what the network or the machine can't do.
    """
    options = recipe.train
    module = source.module().to(options.device)
    if options.weight_norm == "parametrized":
        normalise.parametrize_(module)
    if options.fused_upsampling:
        upsample.fuse_(module, frozen=False)
    module.requires_grad_(True).train()
    dtype = precision.cast_(module, options.precision)
    setting = autotune.settings(module, options.threads, options.channels_last)[0]
    if "setting" in choices:
        setting = autotune.Setting(**choices["setting"])
    setting.apply_(module)  # before anything is made beside the weights, in their layout
    weights = precision.Weights(module, options.precision)
    uncertainty = Uncertainty(seed=options.seed).to(options.device) if options.weighting == "learned" else None
    taught = teacher(recipe, source, module)
    learnt = {"uncertainty": uncertainty, "teacher": taught}
    fused, all_optimizers, named = _optimizers(recipe, module, weights, learnt)
    wide = {id(own): weights.named[name] for name, own in weights.own.items()}  # of tied weights, by either name
    own = {name: wide.get(id(value), value) for name, value in module.state_dict(keep_vars=True).items()}
    run = Training(
        recipe=recipe,
        data=data,
        decode=decode,
        source=source,
        network=module,
        objective=objective(recipe, source),
        rate=LearningRate(
            options.learning_rate_schedule, options.steps, options.warmup_steps, options.floor, options.cycle_steps
        ),
        weights=weights,
        scaler=precision.scaler(options.precision, torch.device(options.device)),
        clip=Clip(options.clip_norm or None, options.clip_value, options.clip_zscore),
        state=state.State(module, named, all_optimizers, choices=choices),
        tracked=own,
        halves={name for name, value in module.named_parameters() if value.dtype == torch.bfloat16},
        dtype=dtype,
        fused=fused,
        spike=Spike() if options.rewind_spikes else None,
        plateau=Plateau() if options.learning_rate_schedule == "plateau" else None,
        forced=normalise.Forced(module, weights.named) if options.weight_norm == "forced" else None,
        zeros=Zeros(module, {**dict(module.named_parameters()), **weights.named}) if options.keep_zeros else None,
        uncertainty=uncertainty,
        teacher=taught,
        setting=setting,
    )
    _averages_(run)
    _parts_(run)
    if saved is not None:
        state.restore_(run.state, saved)
    names = choices.get("checkpointing", options.checkpointing)
    if names != "none":
        checkpointing.checkpoint_(module, list(checkpointing.blocks(module)) if names == "full" else names)
    if options.compile:
        module.compile()
    return run


def _optimizers(
    recipe: Recipe, module: torch.nn.Module, weights: precision.Weights, learnt: Mapping[str, torch.nn.Module | None]
) -> tuple[StepInBackward | None, tuple[torch.optim.Optimizer, ...], dict[str, torch.nn.Parameter]]:
    options = recipe.train
    build = partial(
        catalogue.build,
        options.optimizer,
        learning_rate=options.learning_rate,
        weight_decay=options.weight_decay,
        betas=(options.beta1, options.beta2),
    )
    named = dict(weights.named)
    if options.step_in_backward:
        fused = StepInBackward(named, build, options.clip_value)
        return fused, fused.optimizers, named
    matrices = catalogue.matrices(module) if options.optimizer == "muon" else None
    found = [build(named.items(), matrices=matrices)]
    more = {
        f"{part}.{name}": parameter
        for part, each in learnt.items()
        if each is not None
        for name, parameter in each.named_parameters()
    }
    if more:
        found.append(catalogue.build("adamw", more.items(), options.learning_rate))
        named |= more
    return None, tuple(found), named


def teacher(recipe: Recipe, source: Source, module: torch.nn.Module) -> Teacher | None:
    """The recipe's teacher of ``module``, if it has one."""
    section = recipe.teacher
    if section is None:
        return None
    loaded = sources.load(section.folder, device=recipe.train.device)
    _check_room(min(section.cached or 0, recipe.train.steps), recipe.train.batch_size * math.prod(loaded.shape))
    return Teacher(
        loaded,
        source,
        module,
        section.share,
        section.feature_weight,
        section.features,
        keep_answers=section.cached is not None,
        context=partial(precision.autocast, recipe.train.precision, torch.device(recipe.train.device)),
    )


def _check_room(cached: int, numbers: int) -> None:
    """Raises BadInput where the host has no room for the answers to ``cached`` batches, ``numbers`` in float16 each."""
    wanted, free = 2 * cached * numbers, recompute.available_bytes(torch.device("cpu"))
    if wanted > free:
        raise BadInput(f"teacher.cached = {cached} keeps {size(wanted)} of answers and {size(free)} are free; lower it")


def objective(recipe: Recipe, source: Source) -> Objective:
    """What the recipe has ``source`` learn."""
    options = recipe.train
    own: dict[str, Any] = {"min_snr": {"gamma": options.min_snr_gamma}, "p2": {"gamma": options.p2_gamma},
                           "edm": {"sigma_data": source.sigma_data}}  # fmt: skip
    return Objective(
        source.schedule,
        source.prediction,
        source.sigma_data,
        partial(WEIGHTINGS[options.weighting], **own.get(options.weighting, {})),
        options.levels,
        options.levels_mean,
        options.levels_std,
        options.label_dropout if source.null_label is not None else 0.0,
        source.null_label,
    )


def _averages_(run: Training) -> None:
    """Room for the averages, and for what else is kept by tensors."""
    options = run.recipe.train
    dtype, device = getattr(torch, options.ema_dtype), torch.device("cpu") if options.ema_on_host else None
    if options.optimizer != "schedule_free":
        run.state.kept["average"] = average.storage(run.tracked, dtype, device)
    run.profiles = [average.PowerAverage(run.tracked, each, dtype, device) for each in options.ema_profiles]
    run.state.kept |= {f"profile{number}": each.tensors for number, each in enumerate(run.profiles)}
    if run.forced is not None:
        run.state.kept["lengths"] = run.forced.lengths


def _parts_(run: Training) -> None:
    """What is kept by numbers."""
    parts: dict[str, Any] = {"clip": run.clip, "spike": run.spike, "plateau": run.plateau}
    run.state.parts = {name: (part.state, part.restore_) for name, part in parts.items() if part is not None}
    run.state.parts["scaler"] = (run.scaler.state_dict, partial(_restore_scaler_, run.scaler))
    for number, each in enumerate(run.state.optimizers):
        if catalogue.scalars(each):
            put = partial(catalogue.restore_scalars_, each)
            run.state.parts[f"optimizer{number}"] = (partial(catalogue.scalars, each), put)


def _restore_scaler_(scaler: torch.amp.GradScaler, values: state.Numbers) -> None:
    if values:  # one that is off has none
        scaler.load_state_dict(dict(values))


def drop_gradients_(run: Training) -> None:
    """No gradient is left."""
    for parameter in (*run.network.parameters(), *run.state.named.values()):
        parameter.grad = None


def decoded(run: Training, samples: torch.Tensor) -> torch.Tensor:
    """``samples`` as pictures, where they are latents."""
    return samples if run.decode is None else run.decode(samples)


def where_to(out: Path, step: int, suffix: str) -> Path:
    """The path of the samples after ``step`` steps."""
    return out / f"samples-{step:07d}{suffix}"
