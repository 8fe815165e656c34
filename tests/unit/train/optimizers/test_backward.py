"""The optimiser's step in the backward pass: the same weights, and gradients that are gone at once."""

from functools import partial

import pytest
import torch

from hasten.train.optimizers import catalogue
from hasten.train.optimizers.backward import StepInBackward


def network() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 70), torch.nn.GELU(), torch.nn.Linear(70, 70), torch.nn.Linear(70, 3))


def batches(count: int) -> list[torch.Tensor]:
    return list(torch.randn(count, 4, 6, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("name", ["adamw", "adamw_8bit"])
@pytest.mark.parametrize("parts", [1, 2])
def test_it_is_the_ordinary_step_to_the_bit(name: str, parts: int) -> None:
    plain, fused = network(), network()
    build = partial(catalogue.build, name, learning_rate=1e-2, weight_decay=0.1)
    optimizer = build(list(plain.named_parameters()))
    in_backward = StepInBackward(dict(fused.named_parameters()), build)
    for x in batches(6):
        norms = []
        for number, part in enumerate(x.chunk(parts), 1):
            plain(part).square().mean().backward()
            if number == parts:
                norms.append(torch.nn.utils.get_total_norm([p.grad for p in plain.parameters()]))
                with in_backward.armed():
                    fused(part).square().mean().backward()
            else:
                fused(part).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        torch.testing.assert_close(in_backward.norm, norms[0])
        assert all(parameter.grad is None for parameter in fused.parameters())
        for ours, theirs in zip(fused.parameters(), plain.parameters(), strict=True):
            assert torch.equal(ours, theirs)


def test_few_gradients_are_alive_at_once() -> None:
    module = torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(6)))
    alive: list[int] = []
    StepInBackward(dict(module.named_parameters()), partial(catalogue.build, "adamw", learning_rate=1e-2))
    fused = StepInBackward(dict(module.named_parameters()), partial(catalogue.build, "adamw", learning_rate=1e-2))
    for parameter in module.parameters():
        parameter.register_hook(lambda _: alive.append(sum(p.grad is not None for p in module.parameters())))
    with fused.armed():
        module(torch.randn(2, 8)).sum().backward()
    assert max(alive) <= 2


def test_gradients_are_clipped_by_value_one_by_one() -> None:
    module = torch.nn.Linear(2, 2, bias=False)
    before = module.weight.detach().clone()
    fused = StepInBackward({"weight": module.weight}, lambda named: torch.optim.SGD([p for _, p in named], lr=1.0), 0.5)
    with fused.armed():
        (module(torch.eye(2)) * torch.tensor([3.0, -0.1])).sum().backward()
    torch.testing.assert_close(before - module.weight, torch.tensor([[0.5, 0.5], [-0.1, -0.1]]))


def test_a_gradient_that_is_not_finite_is_not_stepped_on_and_shows() -> None:
    module = network()
    before = [parameter.detach().clone() for parameter in module.parameters()]
    fused = StepInBackward(dict(module.named_parameters()), partial(catalogue.build, "adamw", learning_rate=1e-2))
    with fused.armed():
        (module(torch.ones(1, 6)) * torch.nan).sum().backward()
    assert not torch.isfinite(fused.norm)
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
