"""Checkpoints: to the bit, whole or not at all, and never another run's."""

import errno
import json
import resource
import warnings

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from hasten import files
from hasten.errors import BadInput, HastenError
from hasten.train import state
from hasten.train.optimizers.stability import Spike

RECIPE = {"train": {"steps": 6, "seed": 0}, "model": {"prediction": "epsilon"}}


def fresh(seed: int = 0) -> state.State:
    """A small network in the layout of the loop, its optimiser and its average."""
    torch.manual_seed(seed)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 4, 3), torch.nn.Flatten())
    network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01, fused=True)
    average = {n: v.detach().clone() for n, v in network.state_dict().items()}
    run = state.State(network, dict(network.named_parameters()), (optimizer,), {"average": average})
    run.spike = Spike()
    run.parts = {"spike": (run.spike.state, run.spike.restore_)}
    return run


def advance(run: state.State, steps: int) -> state.State:
    for _ in range(steps):
        x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(run.batch))
        run.optimizers[0].zero_grad()
        loss = run.network(x).square().mean()
        loss.backward()
        run.optimizers[0].step()
        run.spike.seen_(loss.item())
        for name, value in run.network.state_dict().items():
            run.kept["average"][name].lerp_(value, 0.1)
        run.step, run.batch = run.step + 1, run.batch + 2
    return run


def same(a: state.State, b: state.State) -> bool:
    assert a.numbers() == b.numbers()
    ours, theirs = a.tensors(), b.tensors()
    assert ours.keys() == theirs.keys()
    assert any(name.startswith("optimizer.exp_avg.") for name in ours) == (a.step > 0)
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


def restore(run: state.State, where, fingerprint: str = "f", recipe=RECIPE) -> list[str]:
    saved = state.read(where, fingerprint, recipe)
    state.restore_(run, saved)
    return list(saved.passed_over)


def test_what_is_saved_comes_back_and_goes_on_to_the_bit(tmp_path) -> None:
    straight = advance(fresh(), 5)
    half = advance(fresh(), 2)
    state.save(half, tmp_path, "f", RECIPE)
    resumed = fresh(seed=1)
    assert restore(resumed, tmp_path) == []
    assert same(resumed, half)
    assert same(advance(resumed, 3), straight)


def test_moments_lie_in_memory_as_their_parameters_do(tmp_path) -> None:
    """Fused AdamW walks parameter and moments side by side: contiguous moments of a channels-last weight mix it up."""
    state.save(advance(fresh(), 1), tmp_path, "f", RECIPE)
    run = fresh()
    restore(run, tmp_path)
    weight = run.network[1].weight
    assert weight.stride() == run.optimizers[0].state[weight]["exp_avg"].stride() != weight.contiguous().stride()


def test_two_are_kept_and_later_ones_of_an_abandoned_branch_do_not_count(tmp_path) -> None:
    run = fresh()
    for step in range(4):
        run.step = step
        state.save(run, tmp_path, "f", RECIPE)
    assert names(tmp_path) == ["checkpoint-0000002.safetensors", "checkpoint-0000003.safetensors"]
    run.step = 1
    state.save(run, tmp_path, "f", RECIPE)
    assert (tmp_path / "checkpoint-0000001.safetensors").exists()


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_a_killed_run_left_half_written_goes(tmp_path) -> None:
    (tmp_path / ".checkpoint-0000009.safetensors.abc.part").write_bytes(b"half")
    (tmp_path / ".mine.part").write_bytes(b"not ours")
    state.save(fresh(), tmp_path, "f", RECIPE)
    assert names(tmp_path) == [".mine.part", "checkpoint-0000000.safetensors"]


def damage(path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "truncated":
        content = content[: len(content) // 2]
    elif how == "flipped":
        content[-20] ^= 1
    elif how == "header":
        content[:8] = (2**62).to_bytes(8, "little")
    elif how == "empty":
        content = bytearray()
    elif how == "foreign":
        save_file({"x": torch.zeros(2)}, path)
        return
    path.write_bytes(content)


DAMAGES = ["truncated", "flipped", "header", "empty", "foreign"]


@pytest.mark.parametrize("how", DAMAGES)
def test_a_corrupt_newest_one_is_passed_over_and_both_are_named(tmp_path, how: str) -> None:
    run = advance(fresh(), 1)
    state.save(run, tmp_path, "f", RECIPE)
    damage(state.save(advance(run, 1), tmp_path, "f", RECIPE), how)
    resumed = fresh()
    first, second = restore(resumed, tmp_path)
    assert first.startswith("checkpoint-0000002.safetensors is unreadable (")
    assert second == "checkpoint-0000001.safetensors is used instead"
    assert same(resumed, advance(fresh(), 1))


@pytest.mark.parametrize("how", DAMAGES)
def test_a_corrupt_one_that_was_asked_for_fails(tmp_path, how: str) -> None:
    run = advance(fresh(), 1)
    state.save(run, tmp_path, "f", RECIPE)
    path = state.save(advance(run, 1), tmp_path, "f", RECIPE)
    damage(path, how)
    with pytest.raises(BadInput, match=r"no readable checkpoint in .*0000002\.safetensors: .*unreadable"):
        restore(fresh(), path)


def test_all_corrupt(tmp_path) -> None:
    damage(state.save(fresh(), tmp_path, "f", RECIPE), "truncated")
    with pytest.raises(BadInput, match="no readable checkpoint"):
        restore(fresh(), tmp_path)


def test_another_recipe_s_fields_are_named(tmp_path) -> None:
    state.save(fresh(), tmp_path, "f", RECIPE)
    other = {"train": {"steps": 8, "seed": 0}, "model": {"prediction": "sample"}}
    with pytest.raises(BadInput) as caught:
        state.read(tmp_path, "g", other)
    assert str(caught.value) == (
        f"{tmp_path}/checkpoint-0000000.safetensors was made by another recipe (model.prediction was 'epsilon' and is "
        "'sample', train.steps was 6 and is 8); use that recipe, or begin in a new folder"
    )
    with pytest.raises(BadInput, match="was made from other data"):
        state.read(tmp_path, "g", RECIPE)


def test_no_pickle_in_it(tmp_path) -> None:
    path = state.save(advance(fresh(), 1), tmp_path, "f", RECIPE)
    header = int.from_bytes(path.read_bytes()[:8], "little")
    entries = json.loads(path.read_bytes()[8 : 8 + header])
    assert {name.partition(".")[0] for name in entries} == {"__metadata__", "network", "average", "optimizer"}


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path) -> None:
    """The limit on file size stands in for a full disk: the write fails half-way."""
    run = advance(fresh(), 1)
    first = state.save(run, tmp_path, "f", RECIPE)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (first.stat().st_size // 2, hard))
    try:
        with pytest.raises(HastenError, match=r"could not be written .*earlier checkpoints are kept"):
            state.save(advance(run, 1), tmp_path, "f", RECIPE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == [first.name]
    assert restore(fresh(), tmp_path) == []


def test_an_error_while_saving_is_the_run_s_not_the_input_s(tmp_path, monkeypatch) -> None:
    def full(*_args, **_kwargs) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(state, "save_file", full)
    with pytest.raises(HastenError, match="No space left") as caught:
        state.save(fresh(), tmp_path, "f", RECIPE)
    assert caught.value.exit_code == 1
    assert names(tmp_path) == []


def test_places(tmp_path) -> None:
    state.check_place(tmp_path / "new", False)
    with pytest.raises(BadInput, match="holds no checkpoint to resume from; begin anew"):
        state.check_place(tmp_path / "new", True)
    assert not (tmp_path / "new").exists()
    path = state.save(fresh(), tmp_path, "f", RECIPE)
    state.check_place(tmp_path, True)
    state.check_place(tmp_path / "new", path)
    with pytest.raises(BadInput, match="is not there"):
        state.check_place(tmp_path, tmp_path / "none.safetensors")
    with pytest.raises(BadInput, match=r"a run's checkpoints \(checkpoint-0000000\.safetensors\); resume it, or"):
        state.check_place(tmp_path, False)
    (tmp_path / "model").mkdir()
    with pytest.raises(BadInput, match="holds a finished run; resume it, or choose another folder"):
        state.check_place(tmp_path, False)


def test_room_needed_is_what_will_be_written(tmp_path) -> None:
    run = advance(fresh(), 1)
    before = state.needed_bytes(run, tmp_path)
    size = state.save(run, tmp_path, "f", RECIPE).stat().st_size
    weight_bytes = sum(value.nbytes for value in run.network.state_dict().values())
    assert 3 * size > before - weight_bytes > 3 * (size - 8192)  # but for the header
    assert state.needed_bytes(run, tmp_path) == before - 4 * weight_bytes


@pytest.mark.parametrize("call", ["open", "write", "fsync", "rename", "folder", "read"])
def test_no_failure_of_a_save_loses_what_was_saved(tmp_path, monkeypatch, call: str) -> None:
    """Each file operation fails in turn, as when a disk dies: the checkpoint before it is there and whole."""
    run = advance(fresh(), 1)
    state.save(run, tmp_path, "f", RECIPE)
    advance(run, 1)

    def fail(*_args, **_kwargs):
        raise OSError(errno.EIO, "Input/output error")

    where = {
        "open": (files.tempfile, "mkstemp"),
        "write": (state, "save_file"),
        "fsync": (files.os, "fsync"),
        "rename": (files.Path, "replace"),
        "folder": (files, "_sync"),
        "read": (state, "_read"),
    }[call]
    with monkeypatch.context() as patch:
        patch.setattr(*where, fail)
        with pytest.raises((HastenError, BadInput), match="Input/output error"):
            state.save(run, tmp_path, "f", RECIPE)
    assert not list(tmp_path.glob(".*.part"))
    assert (tmp_path / "checkpoint-0000001.safetensors").exists()
    resumed = fresh()
    assert restore(resumed, tmp_path) == []
    assert same(advance(resumed, 2 - resumed.step), advance(fresh(), 2))


def test_an_old_one_that_can_t_be_removed(tmp_path, monkeypatch) -> None:
    run, unlink = fresh(), files.Path.unlink

    def stuck(path, missing_ok: bool = False) -> None:
        if path.suffix == ".safetensors":
            raise OSError(errno.EIO, "Input/output error")
        unlink(path, missing_ok)

    monkeypatch.setattr(files.Path, "unlink", stuck)
    for run.step in range(2):
        state.save(run, tmp_path, "f", RECIPE)
    run.step = 2
    with pytest.raises(HastenError, match=r"0002.safetensors is saved, but .*0000.safetensors can't be removed"):
        state.save(run, tmp_path, "f", RECIPE)
    assert len(list(tmp_path.glob("checkpoint-*"))) == 3


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


class Tied(torch.nn.Module):
    """One weight by two names, and a buffer that is a part of another."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
        self.b.weight = self.a.weight
        self.register_buffer("whole", torch.randn(6))
        self.register_buffer("part", self.whole[2:])


def test_tied_weights_are_saved_once_and_come_back_to_both(tmp_path) -> None:
    def made(seed: int) -> state.State:
        torch.manual_seed(seed)
        network = Tied()
        named = dict(network.named_parameters())
        return state.State(network, named, (torch.optim.AdamW(named.values(), lr=0.1),))

    first, second = made(0), made(1)
    path = state.save(first, tmp_path, "f", RECIPE)
    with safe_open(path, "pt") as file:
        assert "network.b.weight" not in file.keys()  # noqa: SIM118
    restore(second, tmp_path)
    ours, theirs = first.tensors(), second.tensors()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert second.network.b.weight is second.network.a.weight
