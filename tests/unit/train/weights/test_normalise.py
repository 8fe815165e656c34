"""Weight normalisation leaves the function alone, and forced rows keep their lengths."""

from __future__ import annotations

import copy

import torch

from hasten.model.target import layers
from hasten.train.weights.normalise import Forced, fold_, parametrize_


def network() -> torch.nn.Sequential:
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.GroupNorm(2, 8), torch.nn.Flatten(), torch.nn.Linear(128, 4)
    )
    return module.append(torch.nn.Linear(4, 2))


def learn(module: torch.nn.Module, steps: int, forced: Forced | None = None) -> None:
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    for step in range(steps):
        x = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        module(x).square().mean().backward()
        optimizer.step()
        if forced is not None:
            forced.apply_()


def test_parametrized_then_folded_is_the_same_function_with_plain_names() -> None:
    module, x = network(), torch.randn(2, 3, 4, 4)
    plain, before = copy.deepcopy(module), module(x)
    parametrize_(module)
    torch.testing.assert_close(module(x), before)
    assert "0.parametrizations.weight.original1" in module.state_dict()
    learn(module, 3)
    after = module(x)
    assert not torch.allclose(after, before)
    fold_(module)
    assert module.state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(module(x), after)


def test_a_layer_that_starts_at_zero_is_not_parametrized() -> None:
    module = network()
    torch.nn.init.zeros_(module[4].weight)
    parametrize_(module)
    assert not hasattr(module[4], "parametrizations")
    learn(module, 2)
    assert all(torch.isfinite(each).all() for each in module.parameters())


def test_forced_rows_keep_their_length_and_learn_their_direction() -> None:
    module = network()
    torch.nn.init.zeros_(module[4].weight[1])
    start = copy.deepcopy(module)
    forced = Forced(module)
    assert forced.weights.keys() == {"0.weight", "3.weight", "4.weight"}
    learn(module, 10, forced)
    for (name, part), before in zip(layers(module).items(), layers(start).values(), strict=True):
        rows, old = part.weight.detach().flatten(1), before.weight.detach().flatten(1)
        kept = old.norm(dim=1) > 0
        torch.testing.assert_close(rows.norm(dim=1)[kept], old.norm(dim=1)[kept])
        assert not torch.allclose(rows, old), name
    assert module[4].weight[1].any()  # a row that started at zero is free


def test_without_force_they_do_not() -> None:
    module, start = network(), network()
    learn(module, 10)
    lengths = [each[0].weight.detach().flatten(1).norm(dim=1) for each in (module, start)]
    assert (lengths[0] / lengths[1] - 1).abs().max() > 1e-3


def test_forced_goes_on_from_saved_lengths() -> None:
    module = network()
    forced = Forced(module)
    lengths = {name: value.clone() for name, value in forced.lengths.items()}
    learn(module, 2)
    again = Forced(module)
    again.lengths = lengths
    again.apply_()
    torch.testing.assert_close(module[0].weight.detach().flatten(1).norm(dim=1), lengths["0.weight"].flatten())
