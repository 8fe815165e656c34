"""Training, one visible loop from recipe to model folder.

Every random number of step ``k`` comes from a generator seeded by (seed, k), so that any step can be made again and a
resumed run goes on to the bit.  The loss is the mean square error of the network's own prediction at
``x_t = alpha_t x_0 + sigma_t eps``, with ``t`` stratified over the batch (Kingma et al. 2021, arXiv:2107.00630, I.1)
and, where asked for, min-SNR weights (Hang et al. 2023, arXiv:2303.09556).
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from hasten.data import digits, emoji, folder
from hasten.data.array import Data
from hasten.diffusion import prediction, schedule, solvers, table, times
from hasten.errors import BadInput, HastenError
from hasten.files import replacing, write_text
from hasten.model.folder import save_folder, unet
from hasten.train import average, state
from hasten.train.recipe import Recipe
from hasten.train.schedules import warmup_cosine

SCHEDULES: dict[str, Callable[[int], schedule.Schedule]] = {
    "linear": schedule.linear,
    "scaled_linear": schedule.scaled_linear,
    "squaredcos_cap_v2": schedule.cosine,
}
Progress = Callable[[int, int, float, float], None]


def train(recipe: Recipe, out: Path, resume: bool = False, progress: Progress | None = None) -> Path:
    """Train as ``recipe`` says into ``out`` and return the model folder ``out/model``.

    ``progress(step, steps, loss, seconds_left)`` is called after each step.  ``out`` gets checkpoints, sample grids
    (``samples-<step>.png``), ``loss.csv`` and, at the end, the averaged weights as a diffusers folder.  Raises BadInput
    for a recipe that the data can't serve, HastenError when the loss is no longer finite.
    """
    data = read_data(recipe)
    samples, labels = data.part(held_out=False)
    options = recipe.train
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
    started_from = 0
    if resume:
        for line in state.restore_(run, out, fingerprint):
            print(f"warning: {line}")
        started_from = run.step

    pictures, classes = torch.from_numpy(samples).to(device), torch.from_numpy(labels).to(device)
    began = time.perf_counter()
    network.train()
    while run.step < options.steps:
        rng = torch.Generator().manual_seed(options.seed * 1_000_003 + run.step)
        chosen = batch_indices(run.step, options.batch_size, len(samples), options.seed).to(device)
        clean, label = pictures[chosen], classes[chosen].clone()
        dropped = torch.rand(len(chosen), generator=rng) < options.label_dropout
        label[dropped.to(device)] = len(data.label_names)
        t = (torch.rand((), generator=rng) + torch.arange(len(chosen)) / len(chosen)) % 1.0
        t = t.double().clamp(1e-4, 1.0).numpy()
        alpha, sigma = (column(f(t), clean) for f in (noise_schedule.alpha, noise_schedule.sigma))
        noise = torch.randn(clean.shape, generator=rng).to(device)
        noised = (alpha * clean + sigma * noise).contiguous(memory_format=torch.channels_last)
        wanted = prediction.from_sample(recipe.model.prediction, noised, clean, alpha, sigma)
        with torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bfloat16"):
            asked = torch.from_numpy(noise_schedule.network_time(t)).float().to(device)
            predicted = network(noised, asked, class_labels=label).sample
        error = (predicted.float() - wanted).square().flatten(1).mean(1)
        loss = (error * weights(recipe, noise_schedule.s(t)).to(device)).mean()
        if not torch.isfinite(loss):
            raise HastenError(
                f"step {run.step}: the loss is {loss.item()}; lower train.learning_rate, then --resume from the "
                f"checkpoint in {out}"
            )
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * warmup_cosine(run.step, options.steps, options.warmup_steps)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if options.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(network.parameters(), options.clip_norm)
        optimizer.step()
        average.update_(
            run.average.values(), network.state_dict().values(), average.decay_at(run.step, options.ema_decay)
        )
        run.step += 1
        run.losses.append(loss.item())
        if progress is not None:
            each = (time.perf_counter() - began) / (run.step - started_from)
            progress(run.step, options.steps, float(np.mean(run.losses[-100:])), each * (options.steps - run.step))
        if run.step % options.sample_every == 0 or run.step == options.steps:
            write_grid(sample_average(run, recipe, noise_schedule, data), out / f"samples-{run.step:07d}.png")
        if run.step % options.checkpoint_every == 0 or run.step == options.steps:
            state.save(run, out, fingerprint)
            write_text(out / "loss.csv", "step,loss\n" + "".join(f"{i},{v:.6f}\n" for i, v in enumerate(run.losses)))
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
    save_folder(out / "model", dict(json.loads(network.to_json_string())), run.average, scheduler, extra)
    return out / "model"


def read_data(recipe: Recipe) -> Data:
    """The data that the recipe names."""
    section = recipe.data
    if section.name == "emoji":
        return emoji.load(section.size)
    if section.name == "digits":
        return digits.load(section.size)
    if section.path is None:
        raise BadInput("recipe: data.name is 'folder' but data.path is missing; add it")
    return folder.load(Path(section.path), section.size)


def batch_indices(step: int, batch_size: int, count: int, seed: int) -> torch.Tensor:
    """Which samples step ``step`` takes: each epoch is a new permutation by (seed, epoch), its remainder dropped."""
    epoch, place = divmod(step, count // batch_size)
    order = np.random.default_rng((seed, epoch)).permutation(count)
    return torch.from_numpy(order[place * batch_size : (place + 1) * batch_size])


def weights(recipe: Recipe, s: np.ndarray) -> torch.Tensor:
    """The loss weight at noise-to-signal ratio ``s`` (n,): 1, or min-SNR-gamma for the recipe's prediction type."""
    if recipe.train.weighting == "none":
        return torch.ones(len(s))
    snr = 1.0 / s**2
    per_sample = np.minimum(snr, recipe.train.min_snr_gamma)
    scale = {"sample": 1.0, "epsilon": snr, "v_prediction": snr + 1.0}[recipe.model.prediction]
    return torch.from_numpy(per_sample / scale).float()


def column(values: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    """(n,) numbers as a float32 tensor that broadcasts against ``like`` (n, *shape)."""
    return torch.from_numpy(values).float().reshape(-1, *[1] * (like.dim() - 1)).to(like.device)


@torch.no_grad()
def sample_average(run: state.State, recipe: Recipe, noise_schedule: schedule.Schedule, data: Data) -> torch.Tensor:
    """64 samples of the averaged weights from the recipe's seed: DDIM, 25 steps, labels as frequent as in the data."""
    network = type(run.network).from_config(run.network.config)
    network.load_state_dict(run.average)
    device = next(run.network.parameters()).device
    network = network.to(device, memory_format=torch.channels_last).eval()
    rng = torch.Generator().manual_seed(recipe.train.seed)
    noise = torch.randn((64, *data.shape), generator=rng).to(device)
    picked = np.random.default_rng(recipe.train.seed).choice(data.labels, 64)
    labels = torch.from_numpy(np.sort(picked)).to(device)

    def denoise(x: torch.Tensor, t: float) -> torch.Tensor:
        asked = torch.full((len(x),), float(noise_schedule.network_time(t)), device=device)
        output = network(x, asked, class_labels=labels).sample
        alpha, sigma = noise_schedule.alpha(t).item(), noise_schedule.sigma(t).item()
        result: torch.Tensor = prediction.to_sample(recipe.model.prediction, x, output, alpha, sigma)
        return result

    result: torch.Tensor = table.run(solvers.ddim(noise_schedule, times.uniform(noise_schedule, 25)), denoise, noise)
    return result


def write_grid(samples: torch.Tensor, path: Path, columns: int = 8) -> None:
    """Pictures (n, 1 or 3, h, w) in [-1, 1] as one PNG; other shapes are not drawn."""
    if samples.dim() != 4 or samples.shape[1] not in (1, 3):
        return
    pictures = ((samples.float().cpu().clamp(-1, 1) + 1) * 127.5).round().byte()
    if pictures.shape[1] == 1:
        pictures = pictures.expand(-1, 3, -1, -1)
    n, _, h, w = pictures.shape
    rows = -(-n // columns)
    sheet = torch.full((rows * columns, 3, h, w), 255, dtype=torch.uint8)
    sheet[:n] = pictures
    grid = sheet.reshape(rows, columns, 3, h, w).permute(0, 3, 1, 4, 2).reshape(rows * h, columns * w, 3)
    with replacing(path) as temporary:
        Image.fromarray(grid.numpy()).resize((columns * w * 3, rows * h * 3), Image.Resampling.NEAREST).save(
            temporary, format="PNG"
        )
