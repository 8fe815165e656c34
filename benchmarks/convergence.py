"""What brings the held-out loss of ``digits`` down in equal steps: optimisers and weightings, each from three seeds.

    python benchmarks/convergence.py [STEPS]     # writes benchmarks/results/convergence.json

The figure is the mean square error of v on held-out samples, at evenly spread levels and with fixed noise, of the
averaged weights: the same for all, whatever they were trained on.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

from hasten.data.loader import batch_indices, by_name
from hasten.diffusion import schedule
from hasten.diffusion.loss import WEIGHTINGS
from hasten.diffusion.prediction import from_sample
from hasten.files import write_text
from hasten.model.folder import unet
from hasten.train.losses.uncertainty import Uncertainty
from hasten.train.optimizers.catalogue import averaged, build, matrices
from hasten.train.optimizers.schedules import LearningRate
from hasten.train.weights.average import decay_at, update_

RESULTS = Path(__file__).parent / "results" / "convergence.json"
BATCH, SEEDS = 64, (0, 1, 2)
RUNS = {
    "adamw": ("adamw", "none", 2e-3),
    "adamw, lr x 0.5": ("adamw", "none", 1e-3),
    "adamw, lr x 2": ("adamw", "none", 4e-3),
    "muon": ("muon", "none", 2e-3),
    "muon, lr x 2": ("muon", "none", 4e-3),
    "schedule_free": ("schedule_free", "none", 4e-3),
    "adamw, min_snr": ("adamw", "min_snr", 2e-3),
    "adamw, p2": ("adamw", "p2", 2e-3),
    "adamw, learned": ("adamw", "learned", 2e-3),
}
NOISE = schedule.cosine()


def errors(
    network: torch.nn.Module, clean: torch.Tensor, labels: torch.Tensor, t: np.ndarray, noise: torch.Tensor
) -> torch.Tensor:
    """The mean square error (n,) of v at the inner times ``t`` (n,)."""
    alpha, sigma = (torch.from_numpy(f(t)).float().reshape(-1, 1, 1, 1) for f in (NOISE.alpha, NOISE.sigma))
    noised = alpha * clean + sigma * noise
    wanted = from_sample("v_prediction", noised, clean, alpha, sigma)
    output = network(noised, torch.from_numpy(NOISE.network_time(t)).float(), class_labels=labels).sample
    return (output - wanted).square().flatten(1).mean(1)


def run(optimizer_name: str, weighting: str, rate: float, steps: int, seed: int) -> tuple[float, float]:
    """The held-out loss of the averaged weights, and the seconds it took."""
    data = by_name("digits", 8)
    clean, labels = (torch.from_numpy(part) for part in data.part(held_out=False))
    torch.manual_seed(seed)
    network = unet(data.shape, len(data.label_names) + 1, [16, 32], 1, [], 16, 8)
    uncertainty = Uncertainty() if weighting == "learned" else None
    optimizer = build(optimizer_name, network.named_parameters(), rate, matrices=matrices(network))
    extra = None if uncertainty is None else torch.optim.AdamW(uncertainty.parameters(), lr=1e-2)
    free = optimizer_name == "schedule_free"
    factor = LearningRate("constant" if free else "cosine", steps, steps // 20)
    average = {name: value.clone() for name, value in network.state_dict().items()}
    began = time.perf_counter()
    for step in range(steps):
        rng = torch.Generator().manual_seed(seed * 1_000_003 + step)
        chosen = torch.from_numpy(batch_indices(step, BATCH, len(clean), seed))
        t = ((torch.rand((), generator=rng) + torch.arange(BATCH)) / BATCH).double().clamp(1e-4, 1.0).numpy()
        noise = torch.randn((BATCH, *data.shape), generator=rng)
        each = errors(network, clean[chosen], labels[chosen], t, noise)
        s = NOISE.s(t)
        weights = WEIGHTINGS[weighting]("v_prediction", s, 1.0 if weighting == "p2" else 5.0)
        each = each * torch.from_numpy(weights).float()
        if uncertainty is not None:
            each = uncertainty.loss(each, torch.from_numpy(s).float())
        for used in (optimizer, extra):
            if used is not None:
                used.zero_grad()
        each.mean().backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate * factor.factor(step)
        for used in (optimizer, extra):
            if used is not None:
                used.step()
        update_(average.values(), network.state_dict().values(), decay_at(step, 0.99))
    seconds = time.perf_counter() - began
    if free:
        average |= averaged(optimizer, dict(network.named_parameters()))
    network.load_state_dict(average)
    held, classes = (torch.from_numpy(part) for part in data.part(held_out=True))
    t = np.clip((np.arange(len(held)) + 0.5) / len(held), 1e-4, 1.0)
    noise = torch.randn(held.shape, generator=torch.Generator().manual_seed(99))
    with torch.no_grad():
        return errors(network, held, classes, t, noise).mean().item(), seconds


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 400
    torch.set_num_threads(2)
    results = {}
    for name, (optimizer_name, weighting, rate) in RUNS.items():
        found = [run(optimizer_name, weighting, rate, steps, seed) for seed in SEEDS]
        losses, seconds = ([pair[i] for pair in found] for i in (0, 1))
        results[name] = {"learning_rate": rate, "held_out_loss": losses, "seconds": seconds}
        spread = f"{min(losses):.4f} to {max(losses):.4f}"
        print(f"{name:18} {np.mean(losses):.4f} ({spread})  {np.mean(seconds):.1f} s", flush=True)
        write_text(RESULTS, json.dumps({"steps": steps, "batch": BATCH, "runs": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
