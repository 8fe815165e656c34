"""What a network answers at several noise levels on fresh inputs: prepared graphs are known by it, and checked by it.

Weights do not say what is done with them (a configuration, an activation, how the module is called), and a tracer
follows one branch only.  Answers do.
"""

from __future__ import annotations

import math

import torch

from hasten.diffusion.prediction import input_scale
from hasten.errors import HastenError
from hasten.model.target import Network, Target

LEVELS = (0.02, 0.25, 0.5, 0.75, 0.98)  # inner times: 0 clean, 1 noise
INPUTS = 2  # at each level
SEED = 80_021
SAME_DB, MOST_DB = 60.0, 150.0  # float32 graphs agree to 100 dB and more
ALIKE_DB = 40.0  # of a network in 16 bits on another processor


def own_answers(target: Target) -> torch.Tensor | None:
    """What the target's module answers; None where its weights were left out."""
    if target.module is not None and any(part.is_meta for part in target.module.parameters()):
        return None
    return answers(target, target.network)


def answers(target: Target, network: Network) -> torch.Tensor:
    """The outputs (levels, inputs, *shape), float32 on the host, of ``network`` where ``target`` would ask it: noised
    inputs of the data's deviation at LEVELS, labels in turn.

    Raises HastenError for answers of another shape than their inputs.
    """
    facts, rng = target.facts, torch.Generator().manual_seed(SEED)
    found = []
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
            there = [None if part is None else part.to(facts.device) for part in (x, time, labels)]
            output = network(*there)  # type: ignore[arg-type]
            if output.shape != x.shape:
                raise HastenError(
                    f"the network answers {tuple(output.shape)} to inputs {tuple(x.shape)}; the shapes must be equal"
                )
            found.append(output.float().cpu().clone())
    return torch.stack(found)


def agreement_db(wanted: torch.Tensor, found: torch.Tensor | None) -> float:
    """The least signal-to-noise ratio of ``found`` against ``wanted`` (levels, inputs, *shape) over levels and inputs;
    minus infinity where either is not finite or shapes differ."""
    if found is None or wanted.shape != found.shape:
        return -math.inf
    if not (torch.isfinite(wanted).all() and torch.isfinite(found).all()):
        return -math.inf
    signal = wanted.double().square().flatten(2).mean(2)
    noise = (wanted.double() - found.double()).square().flatten(2).mean(2)
    if not noise.any():
        return MOST_DB
    ratios = torch.where(noise == 0, torch.inf, signal / noise)
    worst = float(ratios.min())
    return -math.inf if worst == 0 else min(10 * math.log10(worst), MOST_DB)


def check(wanted: torch.Tensor | None, target: Target, network: Network, made_by: str) -> None:
    """Raise HastenError with the figure where ``network`` does not answer as the module it was made of."""
    agreement = agreement_db(answers(target, network), wanted)
    if not agreement >= SAME_DB:
        raise HastenError(
            f"what {made_by} made of the module agrees with it to {agreement:.1f} dB only, not {SAME_DB:.0f}, "
            "over noise levels; a branch on the input, or on the time, is followed one way"
        )
