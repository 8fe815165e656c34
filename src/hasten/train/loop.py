"""Training, one visible loop from recipe to model folder.

Every random number of step ``k`` comes from a generator seeded by (seed, k), so that any step can be made again and a
resumed run goes on to the bit.  The loss is the mean square error of the network's own prediction at
``x_t = alpha_t x_0 + sigma_t eps``, with ``t`` stratified over the batch (Kingma et al. 2021, arXiv:2107.00630, I.1)
and, where asked for, min-SNR weights (Hang et al. 2023, arXiv:2303.09556).
"""

from __future__ import annotations

import copy
import hashlib
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hasten import guard
from hasten.data.array import Data
from hasten.data.loader import batch_indices, by_name
from hasten.diffusion import prediction, schedule, solvers, times
from hasten.diffusion.loss import WEIGHTINGS
from hasten.environment import check_device
from hasten.errors import BadInput, HastenError
from hasten.files import write_text
from hasten.model import source
from hasten.model.folder import save_folder, unet
from hasten.model.grid import write_grid
from hasten.model.workload import Case
from hasten.train import average, state
from hasten.train.recipe import Recipe
from hasten.train.schedules import warmup_cosine

SCHEDULES: dict[str, Callable[[int], schedule.Schedule]] = {
    "linear": schedule.linear,
    "scaled_linear": schedule.scaled_linear,
    "squaredcos_cap_v2": schedule.cosine,
}
Progress = Callable[[int, int, float, float], None]


def train(
    recipe: Recipe,
    out: Path,
    resume: bool | Path = False,
    progress: Progress | None = None,
    warn: Callable[[str], None] = warnings.warn,
) -> Path:
    """Train as ``recipe`` says into ``out`` and return the model folder ``out/model``.

    ``resume``: go on from the newest readable checkpoint in ``out``, or from exactly the one at a path.
    ``progress(step, steps, loss, seconds_left)`` is called after each step, ``warn`` with each line on what was worked
    around.  ``out`` gets checkpoints, sample grids (``samples-<step>.png``), ``loss.csv`` and, at the end, the averaged
    weights as a diffusers folder.

    Raises BadInput for a recipe that data, device or disk can't serve, for an ``out`` that another run holds or has
    filled; HastenError when loss or gradient is no longer finite; KeyboardInterrupt after Ctrl-C or SIGTERM, once the
    step is done and its checkpoint saved.
    """
    options, section = recipe.train, recipe.data
    check_device(options.device)
    state.check_place(out, resume)
    data = by_name(section.name, section.size, section.path, skip_bad=section.skip_bad)
    for note in data.notes:
        warn(note)
    samples, labels = data.part(held_out=False)
    if len(samples) < options.batch_size:
        raise BadInput(
            f"data {data.name} has {len(samples)} training samples, the batch size is {options.batch_size}: "
            "0 batches per epoch; use a smaller train.batch_size"
        )
    fingerprint = hashlib.sha256(recipe.model_dump_json().encode() + samples.tobytes()).hexdigest()
    device = torch.device(options.device)
    noise_schedule = SCHEDULES[recipe.model.schedule](recipe.model.timesteps)
    torch.manual_seed(options.seed)
    network = unet(
        data.shape,
        len(data.label_names) + 1,
        recipe.model.block_out_channels,
        recipe.model.layers_per_block,
        recipe.model.attention_levels,
        recipe.model.attention_head_dim,
        recipe.model.norm_num_groups,
    ).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(
        network.parameters(),
        lr=options.learning_rate,
        betas=(0.9, options.beta2),
        weight_decay=options.weight_decay,
        fused=True,
    )
    run = state.State(network, {n: v.detach().clone() for n, v in network.state_dict().items()}, optimizer)
    pictures, classes = torch.from_numpy(samples).to(device), torch.from_numpy(labels).to(device)

    with guard.holding(out), guard.stopping() as stop_asked:
        state.check_place(out, resume)
        if resume:
            where = resume if isinstance(resume, Path) else out
            for line in state.restore_(run, where, fingerprint, recipe.model_dump()):
                warn(line)
        guard.check_room(out, state.needed_bytes(network, out), "checkpoints and the model")
        began, began_at = time.perf_counter(), run.step
        network.train()
        while run.step < options.steps:
            rng = torch.Generator().manual_seed(options.seed * 1_000_003 + run.step)
            chosen = torch.from_numpy(batch_indices(run.step, options.batch_size, len(samples), options.seed))
            clean, label = pictures[chosen.to(device)], classes[chosen.to(device)]
            dropped = torch.rand(len(chosen), generator=rng) < options.label_dropout
            label[dropped.to(device)] = len(data.label_names)
            places = (torch.rand((), generator=rng) + torch.arange(len(chosen)) / len(chosen)) % 1.0
            t = places.double().clamp(1e-4, 1.0).numpy()
            alpha, sigma = (column(f(t), clean) for f in (noise_schedule.alpha, noise_schedule.sigma))
            noise = torch.randn(clean.shape, generator=rng).to(device)
            noised = (alpha * clean + sigma * noise).contiguous(memory_format=torch.channels_last)
            wanted = prediction.from_sample(recipe.model.prediction, noised, clean, alpha, sigma)
            with torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bfloat16"):
                asked = torch.from_numpy(noise_schedule.network_time(t)).float().to(device)
                predicted = network(noised, asked, class_labels=label).sample
            error = (predicted.float() - wanted).square().flatten(1).mean(1)
            weigh = WEIGHTINGS[options.weighting]
            weights = weigh(recipe.model.prediction, noise_schedule.s(t), options.min_snr_gamma)
            loss = (error * torch.from_numpy(weights).float().to(device)).mean()

            for group in optimizer.param_groups:
                group["lr"] = options.learning_rate * warmup_cosine(run.step, options.steps, options.warmup_steps)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(network.parameters(), options.clip_norm or torch.inf)
            if not (torch.isfinite(loss) and torch.isfinite(norm)):
                raise HastenError(
                    f"step {run.step}: the loss is {loss.item()}, the gradient's norm {norm.item()}; checkpoints are "
                    f"kept: lower train.learning_rate (now {options.learning_rate}) and train into another --out"
                )
            optimizer.step()
            decay = average.decay_at(run.step, options.ema_decay)
            average.update_(run.average.values(), network.state_dict().values(), decay)
            run.step += 1
            run.losses.append(loss.item())

            if progress is not None:
                each = (time.perf_counter() - began) / (run.step - began_at)
                progress(run.step, options.steps, float(np.mean(run.losses[-100:])), each * (options.steps - run.step))
            stop, done = stop_asked(), run.step == options.steps
            if run.step % options.checkpoint_every == 0 or done or stop:
                state.save(run, out, fingerprint, recipe.model_dump())
                rows = "".join(f"{i},{v:.6f}\n" for i, v in enumerate(run.losses))
                write_text(out / "loss.csv", f"step,loss\n{rows}")
            if stop:
                raise KeyboardInterrupt(f"stopped after step {run.step} of {options.steps}; --resume goes on there")
            if run.step % options.sample_every == 0 or done:
                write_grid(sample_average(run, recipe, noise_schedule, data), out / f"samples-{run.step:07d}.png")
        save_model(run, recipe, data, out / "model")
    return out / "model"


def column(values: NDArray[np.float64], like: torch.Tensor) -> torch.Tensor:
    """(n,) numbers as a float32 tensor that broadcasts against ``like`` (n, *shape)."""
    return torch.from_numpy(values).float().reshape(-1, *[1] * (like.dim() - 1)).to(like.device)


def sample_average(run: state.State, recipe: Recipe, noise_schedule: schedule.Schedule, data: Data) -> torch.Tensor:
    """64 samples of the averaged weights from the recipe's seed: DDIM, 25 steps, labels as frequent as in the data."""
    network = copy.deepcopy(run.network)
    network.load_state_dict(run.average)
    null = len(data.label_names)
    target = source.load(
        network,
        schedule=noise_schedule,
        prediction=recipe.model.prediction,
        shape=data.shape,
        num_labels=null + 1,
        null_label=null,
        call=source.call_unet,
        device=recipe.train.device,
    ).build()
    target.table = solvers.ddim(noise_schedule, times.uniform(noise_schedule, 25))
    noise = torch.randn((64, *data.shape), generator=torch.Generator().manual_seed(recipe.train.seed))
    labels = np.sort(np.random.default_rng(recipe.train.seed).choice(data.labels, 64))
    return target.sample(Case(0, recipe.train.seed, noise, torch.from_numpy(labels)))


def save_model(run: state.State, recipe: Recipe, data: Data, folder: Path) -> None:
    """The averaged weights as a diffusers folder, with what the folder format has no place for in ``hasten.json``."""
    scheduler = {
        "_class_name": "DDIMScheduler",
        "beta_schedule": recipe.model.schedule,
        "num_train_timesteps": recipe.model.timesteps,
        "prediction_type": recipe.model.prediction,
        "clip_sample": False,
        "set_alpha_to_one": True,
        "timestep_spacing": "trailing",
    }
    extra = {
        "attribution": data.attribution,
        "data": data.name,
        "label_names": list(data.label_names),
        "null_label": len(data.label_names),
        "recipe": recipe.model_dump(),
    }
    config: dict[str, Any] = json.loads(run.network.to_json_string())  # type: ignore[operator]
    save_folder(folder, config, run.average, scheduler, extra)
