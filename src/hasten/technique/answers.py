"""What a network answers at several noise levels on fresh inputs: prepared graphs are known by it, and engines checked.

Weights do not say what is done with them (a configuration, an activation, how the module is called), and a tracer
follows one branch only.  Answers do.
"""

from __future__ import annotations

import math

import torch

from hasten.diffusion.prediction import input_scale
from hasten.errors import HastenError
from hasten.model.target import Network, Target
from hasten.seeds import Purpose, seed_of

LEVELS = (0.02, 0.25, 0.5, 0.75, 0.98)  # inner times: 0 clean, 1 noise
INPUTS = 2  # at each level
SAME_DB, MOST_DB = 60.0, 150.0  # float32 graphs agree to 100 dB and more
COARSE_DB = 10.0  # weights in 4 bits agree to 12 dB and more, a branch that is followed the wrong way to 0 or less
ALIKE_DB = 40.0  # of a network in 16 bits on another processor


def own_answers(target: Target) -> torch.Tensor | None:
    """What the target's module answers; None where its weights were left out."""
    if target.module is not None and any(part.is_meta for part in target.module.parameters()):
        return None
    return answers(target, target.network)


def answers(target: Target, network: Network, batch: int = INPUTS) -> torch.Tensor:
    """The outputs (levels, rows, *shape), float32 on the host, of ``network`` where ``target`` would ask it: noised
    inputs of the data's deviation at LEVELS, labels in turn.  It is asked ``batch`` rows at once, the INPUTS again and
    again, so that what is compiled for a batch is what is checked.

    Raises HastenError for answers of another shape than their inputs.
    """
    facts, rng = target.facts, torch.Generator().manual_seed(seed_of(Purpose.ANSWERS))
    found = []
    rows = torch.arange(max(batch, INPUTS)) % INPUTS
    with torch.inference_mode():
        for number, level in enumerate(LEVELS):
            alpha, sigma = target.schedule.alpha(level).item(), target.schedule.sigma(level).item()
            clean, noise = torch.randn((2, INPUTS, *facts.shape), generator=rng)
            scale = float(input_scale(target.prediction, alpha, sigma, target.sigma_data))
            x = (alpha * target.sigma_data * clean + sigma * noise) * scale
            time = torch.full((INPUTS,), float(target.schedule.network_time(level)), dtype=torch.float32)
            labels = None
            if facts.num_labels is not None:
                labels = (torch.arange(INPUTS) + number * INPUTS) % facts.num_labels
            outputs = []
            for part in (rows[first : first + batch] for first in range(0, len(rows), batch)):
                there = [None if each is None else each[part].to(facts.device) for each in (x, time, labels)]
                output, asked = network(*there), there[0].shape  # type: ignore[arg-type, union-attr]
                if output.shape != asked:
                    raise HastenError(
                        f"the network answers {tuple(output.shape)} to inputs {tuple(asked)}; the shapes must be equal"
                    )
                outputs.append(output.float().cpu().clone())
            found.append(torch.cat(outputs))
    return torch.stack(found)


def agreement_db(wanted: torch.Tensor, found: torch.Tensor | None) -> float:
    """The least signal-to-noise ratio of ``found`` against ``wanted`` (levels, inputs, *shape) over levels and inputs;
    minus infinity where either is not finite or shapes differ."""
    if found is None or wanted.shape != found.shape:
        return -math.inf
    return float(_by_level_db(wanted, found).min())


def _by_level_db(wanted: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    """The same of each level (levels,)."""
    signal = wanted.double().square().flatten(2).mean(2)
    noise = (wanted.double() - found.double()).square().flatten(2).mean(2)
    ratios = torch.where(noise == 0, MOST_DB, 10 * torch.log10(signal / noise)).clamp_max(MOST_DB)
    return torch.where(torch.isfinite(signal + noise), ratios, -torch.inf).amin(1)


def check(wanted: torch.Tensor, target: Target, network: Network, name: str, floor_db: float, batch: int) -> None:
    """Raise HastenError with the figure where what ``network``, called ``name``, answers is not within ``floor_db`` of
    ``wanted`` (levels, INPUTS, *shape) at each level."""
    found = answers(target, network, batch)
    ratios = _by_level_db(wanted[:, torch.arange(found.shape[1]) % INPUTS], found)
    worst = float(ratios.min())
    if not worst >= floor_db:
        raise HastenError(
            f"{name}: answers differ from the network's: {worst:.1f} dB at t={LEVELS[int(ratios.argmin())]}, at least "
            f"{floor_db:.0f} are needed; of a branch on the input, or on the time, an engine may follow one side only"
        )
