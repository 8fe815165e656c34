"""The loop on real digits: exact to resume, and clear about whatever is wrong."""

import os
import shutil
import signal
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hasten.data import digits
from hasten.data.array import Data
from hasten.diffusion.loss import WEIGHTINGS
from hasten.errors import BadInput, HastenError
from hasten.train import loop, recipe


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """Sums in one order, so that equal means equal; warnings are errors; no time is spent on samples."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(loop, "sample_average", lambda *_arguments: torch.zeros(1, 1, 8, 8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    torch.set_num_threads(before)


def tiny(**options) -> recipe.Recipe:
    """Six steps of a small U-Net on digits; ``options`` replace those of [train] or [model]."""
    model = {"block_out_channels": [8, 16], "attention_levels": [1], "attention_head_dim": 8, "norm_num_groups": 4}
    train = {"steps": 6, "batch_size": 8, "warmup_steps": 2, "learning_rate": 1e-3, "checkpoint_every": 3}
    for name, value in options.items():
        (model if name in recipe.ModelSection.model_fields else train)[name] = value
    return recipe.check({"data": {"name": "digits", "size": 8}, "model": model, "train": train}, "", "test")


class Killed(Exception):
    """Stands in for whatever ends a run between two steps."""


def at(step: int, act):
    """A progress callback that calls ``act`` after ``step`` steps."""
    return lambda now, steps, loss, left: act() if now == step else None


def kill() -> None:
    raise Killed


def checkpoint(out, step: int) -> dict[str, torch.Tensor]:
    return load_file(out / f"checkpoint-{step:07d}.safetensors")


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The folder of six steps without a break."""
    out = tmp_path_factory.mktemp("straight") / "run"
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    loop.train(tiny(), out)
    torch.set_num_threads(before)
    return out


def test_what_a_run_leaves(straight) -> None:
    assert sorted(path.name for path in straight.iterdir()) == [
        ".lock",
        "checkpoint-0000003.safetensors",
        "checkpoint-0000006.safetensors",
        "loss.csv",
        "model",
        "samples-0000006.png",
    ]
    rows = (straight / "loss.csv").read_text().splitlines()
    assert rows[0] == "step,loss"
    assert [row.split(",")[0] for row in rows[1:]] == list("012345")
    losses = checkpoint(straight, 6)["losses"]
    assert [f"{value:.6f}" for value in losses.tolist()] == [row.split(",")[1] for row in rows[1:]]


def test_three_and_three_are_six_to_the_bit(straight, tmp_path) -> None:
    with pytest.raises(Killed):
        loop.train(tiny(), tmp_path, progress=at(5, kill))
    assert not (tmp_path / "checkpoint-0000006.safetensors").exists()
    loop.train(tiny(), tmp_path, resume=True)
    assert_same(checkpoint(tmp_path, 6), checkpoint(straight, 6))
    name = "model/unet/diffusion_pytorch_model.safetensors"
    assert (tmp_path / name).read_bytes() == (straight / name).read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_first_and_resumes_to_the_bit(straight, tmp_path, number) -> None:
    with pytest.raises(KeyboardInterrupt, match="stopped after step 2 of 6; --resume goes on there"):
        loop.train(tiny(), tmp_path, progress=at(2, lambda: os.kill(os.getpid(), number)))
    assert (tmp_path / "checkpoint-0000002.safetensors").exists()
    assert (tmp_path / ".lock").read_text() == ""
    loop.train(tiny(), tmp_path, resume=True)
    assert_same(checkpoint(tmp_path, 6), checkpoint(straight, 6))


def test_a_signal_while_a_checkpoint_is_written(straight, tmp_path, monkeypatch) -> None:
    save = loop.state.save

    def interrupted(run, *arguments):
        os.kill(os.getpid(), signal.SIGINT)
        return save(run, *arguments)

    monkeypatch.setattr(loop.state, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        loop.train(tiny(), tmp_path)
    monkeypatch.setattr(loop.state, "save", save)
    assert not list(tmp_path.glob(".*.part"))
    loop.train(tiny(), tmp_path, resume=True)
    assert_same(checkpoint(tmp_path, 6), checkpoint(straight, 6))


def test_from_a_named_checkpoint_into_another_folder(straight, tmp_path) -> None:
    loop.train(tiny(), tmp_path / "new", resume=straight / "checkpoint-0000003.safetensors")
    assert_same(checkpoint(tmp_path / "new", 6), checkpoint(straight, 6))


def test_a_corrupt_newest_checkpoint(straight, tmp_path) -> None:
    out = tmp_path / "run"
    shutil.copytree(straight, out)
    (out / "checkpoint-0000006.safetensors").write_bytes(b"half")
    warned: list[str] = []
    loop.train(tiny(), out, resume=True, warn=warned.append)
    assert [line.split(" is ")[0] for line in warned] == [
        "checkpoint-0000006.safetensors",
        "checkpoint-0000003.safetensors",
    ]
    assert_same(checkpoint(out, 6), checkpoint(straight, 6))
    (out / "checkpoint-0000006.safetensors").write_bytes(b"half")
    with pytest.raises(BadInput, match="no readable checkpoint"):
        loop.train(tiny(), out, resume=out / "checkpoint-0000006.safetensors")


def test_a_finished_folder_is_not_overwritten(straight) -> None:
    before = (straight / "checkpoint-0000006.safetensors").stat().st_mtime_ns
    with pytest.raises(BadInput, match="holds a finished run; use --resume or another --out"):
        loop.train(tiny(), straight)
    assert (straight / "checkpoint-0000006.safetensors").stat().st_mtime_ns == before


def test_two_runs_on_one_folder(tmp_path) -> None:
    refused: list[str] = []

    def second() -> None:
        with pytest.raises(BadInput) as caught:
            loop.train(tiny(), tmp_path)
        refused.append(str(caught.value))

    loop.train(tiny(steps=3), tmp_path, progress=at(1, second))
    assert refused[0].startswith(f"{tmp_path} is in use by process {os.getpid()} on ")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"learning_rate": 2e-3}, r"\(train\.learning_rate was 0\.001 and is 0\.002\)"),
        ({"prediction": "epsilon", "seed": 1}, r"\(model\.prediction was .* and is .*, train\.seed was 0 and is 1\)"),
        ({"block_out_channels": [8, 24]}, r"\(model\.block_out_channels was \[8, 16\] and is \[8, 24\]\)"),
    ],
)
def test_another_recipe_can_t_resume(straight, options, named: str) -> None:
    with pytest.raises(BadInput, match=named):
        loop.train(tiny(**options), straight, resume=True)


def test_other_data_can_t_resume(straight, monkeypatch) -> None:
    data = digits.load()
    changed = Data(data.name, 255 - data.samples, data.labels, data.label_names, data.held_out)
    monkeypatch.setattr(loop, "by_name", lambda *_args, **_options: changed)
    with pytest.raises(BadInput, match="was made from other data"):
        loop.train(tiny(), straight, resume=True)


def with_samples(monkeypatch, samples: np.ndarray) -> None:
    count = len(samples)
    data = Data("made", samples, np.zeros(count, np.int64), ("a",), np.zeros(count, bool), notes=("a note",))
    monkeypatch.setattr(loop, "by_name", lambda *_args, **_options: data)


def test_fewer_samples_than_a_batch(tmp_path, monkeypatch) -> None:
    with_samples(monkeypatch, np.zeros((7, 1, 8, 8), np.uint8))
    warned: list[str] = []
    with pytest.raises(BadInput, match=r"7 training samples, the batch size is 8: 0 batches per epoch"):
        loop.train(tiny(), tmp_path / "run", warn=warned.append)
    assert warned == ["a note"]
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite(tmp_path, monkeypatch) -> None:
    samples = np.zeros((8, 1, 8, 8), np.float32)
    samples[3, 0, 0, 0] = np.nan
    with_samples(monkeypatch, samples)
    with pytest.raises(HastenError, match=r"step 0: the loss is nan, .*learning_rate \(now 0\.001\)") as caught:
        loop.train(tiny(), tmp_path, warn=lambda _line: None)
    assert caught.value.exit_code == 1
    assert not list(tmp_path.glob("checkpoint*"))


def test_a_gradient_that_is_not_finite_ruins_no_checkpoint(tmp_path, monkeypatch) -> None:
    """The loss of the next step would only show it after the weights are lost."""
    clip = torch.nn.utils.clip_grad_norm_
    calls: list[float] = []

    def overflow(parameters, limit):
        calls.append(limit)
        return clip(parameters, limit) * (torch.inf if len(calls) == 5 else 1)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", overflow)
    with pytest.raises(HastenError, match=r"step 4: the loss is .*, the gradient's norm inf"):
        loop.train(tiny(), tmp_path)
    assert all(bool(v.isfinite().all()) for v in checkpoint(tmp_path, 3).values())


def test_a_device_that_is_not_there(tmp_path) -> None:
    with pytest.raises(BadInput, match=r"no device 'cuda:99' on this machine; use cpu"):
        loop.train(tiny(device="cuda:99"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_too_small_a_disk_is_seen_before_the_first_step(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(0, 0, 1000))
    steps: list[int] = []
    with pytest.raises(BadInput, match=r"MB are needed for checkpoints and the model, 0\.0 MB are free"):
        loop.train(tiny(), tmp_path, progress=lambda step, *_rest: steps.append(step))
    assert steps == []


def losses(tmp_path, **options) -> list[float]:
    out = tmp_path / repr(sorted(options.items()))
    loop.train(tiny(steps=3, warmup_steps=1, **options), out)
    found: list[float] = checkpoint(out, 3)["losses"].tolist()
    return found


def test_bfloat16_is_near_float32(tmp_path) -> None:
    full, half = losses(tmp_path), losses(tmp_path, precision="bfloat16")
    assert half != full
    assert half == pytest.approx(full, rel=0.05)
    assert checkpoint(next(tmp_path.glob("*bfloat16*")), 3)["network.conv_in.weight"].dtype == torch.float32


def test_min_snr_without_a_bound_is_no_weight_for_epsilon(tmp_path) -> None:
    plain = losses(tmp_path, prediction="epsilon")
    unbound = losses(tmp_path, prediction="epsilon", weighting="min_snr", min_snr_gamma=1e12)
    bound = losses(tmp_path, prediction="epsilon", weighting="min_snr")
    assert unbound == pytest.approx(plain, rel=1e-4)
    assert all(b < p for b, p in zip(bound, plain, strict=True))


def test_min_snr_is_the_paper_s() -> None:
    """Hang et al. 2023, section 3.4, in terms of snr, for the loss of each prediction."""
    s = np.geomspace(0.003, 80, 50)
    snr, gamma = 1 / s**2, 5.0
    for kind, expected in {
        "sample": np.minimum(snr, gamma),
        "epsilon": np.minimum(snr, gamma) / snr,
        "v_prediction": np.minimum(snr, gamma) / (snr + 1),
    }.items():
        np.testing.assert_allclose(WEIGHTINGS["min_snr"](kind, s, gamma), expected, rtol=1e-9)


def test_the_learning_rate_follows_its_schedule(tmp_path, monkeypatch) -> None:
    rates: list[float] = []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: rates.append(self.param_groups[0]["lr"]) or step(self))
    loop.train(tiny(), tmp_path)
    assert rates == [1e-3 * loop.warmup_cosine(i, 6, 2) for i in range(6)]
    assert rates[:3] == [0.0005, 0.001, 0.001]


def test_the_average_is_that_of_the_weights(tmp_path) -> None:
    """Step by step from the checkpoints alone: a <- d a + (1 - d) w with d = min(decay, (1 + k) / (10 + k))."""
    loop.train(tiny(steps=3, checkpoint_every=1, warmup_steps=0, ema_decay=0.15), tmp_path)
    before, after = checkpoint(tmp_path, 2), checkpoint(tmp_path, 3)
    for name in [name for name in after if name.startswith("average.")]:
        weight = after[name.replace("average.", "network.")]
        torch.testing.assert_close(after[name], 0.15 * before[name] + 0.85 * weight)


def test_no_clipping_is_a_large_bound(tmp_path) -> None:
    assert losses(tmp_path, clip_norm=None) == losses(tmp_path, clip_norm=1e9)
