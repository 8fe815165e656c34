"""Muon against torch's own for matrices, AdamW for the rest, and the optimisers by name."""

from __future__ import annotations

import copy

import pytest
import torch

from hasten.train.optimizers.catalogue import averaged, build, matrices, restore_scalars_, scalars
from hasten.train.optimizers.muon import Muon, orthogonal
from hasten.train.weights.normalise import parametrize_


def network() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1),
        torch.nn.Conv2d(8, 16, 3, padding=1),
        torch.nn.GroupNorm(4, 16),
        torch.nn.Conv2d(16, 8, 1),
        torch.nn.Conv2d(8, 16, 3, padding=1),
        torch.nn.Conv2d(16, 3, 3, padding=1),
    )


def learn(module: torch.nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> float:
    loss = torch.zeros(())
    for step in range(first, last):
        x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss = (module(x) - x.roll(1, 1)).square().mean()
        loss.backward()
        optimizer.step()
    return loss.item()


@pytest.mark.parametrize("shape", [(5, 12, 40), (2, 40, 12), (1, 16, 16)])
def test_singular_values_come_near_one(shape: tuple[int, ...]) -> None:
    values = torch.linalg.svdvals(orthogonal(torch.randn(shape, generator=torch.Generator().manual_seed(1))))
    assert values.min() > 0.3
    assert values.max() < 1.3
    # its directions are those of the exact polar factor
    given = torch.randn(1, 8, 30, generator=torch.Generator().manual_seed(2))
    left, _, right = torch.linalg.svd(given, full_matrices=False)
    inner = (orthogonal(given) * (left @ right)).sum() / (orthogonal(given).norm() * (left @ right).norm())
    assert inner > 0.97


def test_a_zero_matrix_stays_zero_among_others() -> None:
    given = torch.stack([torch.zeros(4, 6), torch.randn(4, 6)])
    assert not orthogonal(given)[0].any()
    assert orthogonal(given)[1].any()


@pytest.mark.parametrize("shape", [(24, 10), (10, 24), (6, 4, 3, 3)])
def test_a_matrix_moves_as_with_torchs_muon(shape: tuple[int, ...]) -> None:
    """torch's own iterates in bf16, whence the tolerance."""
    start = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    mine, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.flatten(1).clone())
    ours = Muon([mine], [], lr=0.02, weight_decay=0.1)
    oracle = torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for step in range(4):
        gradient = torch.randn(shape, generator=torch.Generator().manual_seed(step + 1))
        mine.grad, theirs.grad = gradient.clone(), gradient.flatten(1).clone()
        ours.step()
        oracle.step()
    moved, expected = (mine - start).detach().flatten(1), (theirs - start.flatten(1)).detach()
    assert (moved - expected).norm() < 0.02 * expected.norm()


def test_what_is_no_matrix_moves_as_with_adamw() -> None:
    start = torch.randn(7)
    mine, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    ours = Muon([torch.nn.Parameter(torch.ones(2, 2))], [mine], lr=0.01, weight_decay=0.1)
    oracle = torch.optim.AdamW([theirs], lr=0.01, betas=(0.9, 0.99), weight_decay=0.1, fused=True)
    for _ in range(3):
        mine.grad = torch.randn(7)
        theirs.grad = mine.grad.clone()
        ours.step()
        oracle.step()
    assert torch.equal(mine, theirs)


def test_the_layout_of_memory_does_not_matter() -> None:
    plain, last = network(), network().to(memory_format=torch.channels_last)
    for module in (plain, last):
        learn(module, build("muon", module.named_parameters(), 1e-3, matrices=matrices(module)), 0, 3)
    for ours, theirs in zip(plain.parameters(), last.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_a_scaler_unscales_and_skips_for_muon() -> None:
    weight = torch.nn.Parameter(torch.ones(3, 3))
    optimizer = Muon([weight], [], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    scaler.scale(weight.sum() * torch.inf).backward()
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(weight, torch.ones(3, 3))
    assert not optimizer.state[weight]


def test_matrices_leaves_out_the_ends_tables_and_vectors() -> None:
    module = torch.nn.ModuleDict(
        {
            "first": torch.nn.Linear(3, 4),
            "table": torch.nn.Embedding(5, 4),
            "norm": torch.nn.LayerNorm(4),
            "inner": torch.nn.Conv1d(4, 4, 3),
            "last": torch.nn.Linear(4, 3),
        }
    )
    assert matrices(module) == {"inner.weight"}
    parametrize_(module)
    assert matrices(module) == {"inner.parametrizations.weight.original1"}


@pytest.mark.parametrize("name", ["adamw", "muon", "schedule_free"])
def test_each_optimiser_learns_and_resumes_to_the_bit(name: str) -> None:
    if name == "schedule_free":
        pytest.importorskip("schedulefree")
    module = network()
    optimizer = build(name, module.named_parameters(), 3e-3, 0.01, (0.9, 0.99), matrices(module))
    begin = learn(module, optimizer, 0, 1)
    learn(module, optimizer, 1, 6)
    weights = copy.deepcopy(module.state_dict())
    names = dict(module.named_parameters())
    tensors = {(n, k): v.clone() for n, p in names.items() for k, v in optimizer.state[p].items()}
    numbers = scalars(optimizer)
    end = learn(module, optimizer, 6, 30)
    assert end < begin * 0.95

    again = network()
    again.load_state_dict(weights)
    resumed = build(name, again.named_parameters(), 3e-3, 0.01, (0.9, 0.99), matrices(again))
    restore_scalars_(resumed, numbers)
    for (owner, key), value in tensors.items():
        resumed.state[dict(again.named_parameters())[owner]][key] = value
    learn(again, resumed, 6, 30)
    for one, other in zip(module.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_schedule_frees_average_is_the_packages_without_a_change_of_the_weights() -> None:
    pytest.importorskip("schedulefree")
    module = network()
    optimizer = build("schedule_free", module.named_parameters(), 3e-3)
    learn(module, optimizer, 0, 5)
    before = copy.deepcopy(module.state_dict())
    average = averaged(optimizer, dict(module.named_parameters()))
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    optimizer.eval()  # type: ignore[attr-defined]
    for name, value in module.named_parameters():
        assert torch.equal(average[name], value)
        assert not torch.equal(before[name], value)


def test_others_have_no_average_of_their_own() -> None:
    module = network()
    optimizer = build("adamw", module.named_parameters(), 1e-3)
    learn(module, optimizer, 0, 2)
    average = averaged(optimizer, module.state_dict())
    assert all(torch.equal(value, average[name]) for name, value in module.state_dict().items())


def test_unknown_names_and_missing_matrices_are_refused() -> None:
    with pytest.raises(ValueError, match="known: adamw"):
        build("sgd", [], 0.1)
    with pytest.raises(ValueError, match="matrices"):
        build("muon", network().named_parameters(), 0.1)
