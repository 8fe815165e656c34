"""The loop on real digits: exact to resume, and clear about whatever is wrong."""

import json
import os
import shutil
import signal
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from hasten.data import digits, loader
from hasten.data.array import Data
from hasten.diffusion.loss import WEIGHTINGS
from hasten.diffusion.schedule import cosine
from hasten.errors import BadInput, HastenError
from hasten.model import source as sources
from hasten.train import log, loop, network, recipe
from hasten.train.optimizers import schedules, stability
from hasten.train.weights import precision


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """Sums in one order, so that equal means equal; warnings are errors; no time is spent on samples."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(loop.network, "samples_of", lambda *_arguments: torch.zeros(1, 1, 8, 8))
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
    return lambda shown: act() if shown.step == step else None


def kill() -> None:
    raise Killed


def checkpoint(out, step: int) -> dict[str, torch.Tensor]:
    return load_file(out / f"checkpoint-{step:07d}.safetensors")


def numbers(out, step: int) -> dict:
    with safe_open(out / f"checkpoint-{step:07d}.safetensors", "pt") as file:
        found = json.loads(file.metadata()["hasten"])
    return {name: found[name] for name in ("step", "batch", "skipped", "parts")}


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
        "metrics.jsonl",
        "model",
        "run.json",
        "samples-0000006.png",
    ]
    about = json.loads((straight / "run.json").read_text())
    assert about["recipe"]["train"]["steps"] == 6
    assert about["parameters"] == sum(
        value.numel() for name, value in checkpoint(straight, 6).items() if name.startswith("network.")
    )
    lines = log.read(straight / "metrics.jsonl")
    events = [line["event"] for line in lines if "event" in line]
    assert events == ["begin", "audit", "checkpoint", "checkpoint", "sample", "end"]


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
    with pytest.raises(KeyboardInterrupt, match="stopped after step 2 of 6; resuming goes on there"):
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
    with pytest.raises(BadInput, match="holds a finished run; resume it, or choose another folder"):
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
    monkeypatch.setattr(loop.inputs, "by_name", lambda *_args, **_options: changed)
    with pytest.raises(BadInput, match="was made from other data"):
        loop.train(tiny(), straight, resume=True)


def with_samples(monkeypatch, samples: np.ndarray) -> None:
    count = len(samples)
    data = Data("made", samples, np.zeros(count, np.int64), ("a",), np.zeros(count, bool), notes=("a note",))
    monkeypatch.setattr(loop.inputs, "by_name", lambda *_args, **_options: data)


def test_fewer_samples_than_a_batch(tmp_path, monkeypatch) -> None:
    with_samples(monkeypatch, np.zeros((7, 1, 8, 8), np.uint8))
    warned: list[str] = []
    with pytest.raises(BadInput, match=r"7 training samples, the batch size is 8: 0 batches per epoch"):
        loop.train(tiny(), tmp_path / "run", warn=warned.append)
    assert warned == ["a note"]
    assert not (tmp_path / "run").exists()


def skips(out) -> list[dict]:
    return [line for line in log.read(out / "metrics.jsonl") if line.get("event") == "skipped"]


def test_a_sample_that_is_not_finite_is_left_out_and_named(tmp_path, monkeypatch) -> None:
    samples = np.random.default_rng(0).uniform(-1, 1, (32, 1, 8, 8)).astype(np.float32)
    samples[3, 0, 0, 0] = np.nan
    with_samples(monkeypatch, samples)
    loop.train(tiny(), tmp_path, warn=lambda _line: None)
    assert len(skips(tmp_path)) == 2  # two epochs of four batches are begun for six steps
    for line in skips(tmp_path):
        assert line["what"] == "the loss (1 of 1 not finite)"
        assert 3 in line["ids"]
        assert len(line["ids"]) == 8
    end = checkpoint(tmp_path, 6)
    assert all(bool(value.isfinite().all()) for value in end.values())
    assert numbers(tmp_path, 6)["batch"] == 8
    assert numbers(tmp_path, 6)["skipped"] == 2


def test_too_many_in_a_row_end_the_run(tmp_path, monkeypatch) -> None:
    with_samples(monkeypatch, np.full((8, 1, 8, 8), np.nan, np.float32))
    with pytest.raises(HastenError, match=r"step 0, batch 3: the loss .*, 4 in a row; .*learning_rate \(now 0\.001\)"):
        loop.train(tiny(skip_nonfinite=3), tmp_path, warn=lambda _line: None)
    assert not list(tmp_path.glob("checkpoint*"))


def poisoned(monkeypatch, name: str, batches: set[int]) -> None:
    """One number of the gradient of ``name`` becomes NaN in these batches."""
    gather_ = precision.Weights.gather_
    examples = loop.Training.examples
    now: list[int] = []

    def seen(run, batch):
        now[:] = [batch.number]
        return examples(run, batch)

    def gather(weights) -> None:
        if now[0] in batches:
            weights.own[name].grad.view(-1)[0] = torch.nan
        gather_(weights)

    monkeypatch.setattr(loop.Training, "examples", seen)
    monkeypatch.setattr(precision.Weights, "gather_", gather)


def test_a_gradient_that_is_not_finite_changes_nothing(tmp_path, monkeypatch) -> None:
    """Weights, average, moments and learning rate are those of a run that never drew the batch."""
    poisoned(monkeypatch, "conv_in.weight", {2})
    loop.train(tiny(), tmp_path / "a")
    assert [(line["step"], line["batch"], line["what"]) for line in skips(tmp_path / "a")] == [
        (2, 2, "the gradient of conv_in.weight (1 of 72 not finite)")
    ]
    monkeypatch.undo()
    monkeypatch.setattr(loop.network, "samples_of", lambda *_arguments: torch.zeros(1, 1, 8, 8))
    make = loader.Loader._make
    skipping = lambda self, number: make(self, number + (number >= 2))  # noqa: E731
    monkeypatch.setattr(loader.Loader, "_make", skipping)
    loop.train(tiny(), tmp_path / "b")
    assert_same(checkpoint(tmp_path / "a", 6), checkpoint(tmp_path / "b", 6))


def test_resuming_after_a_skipped_step_is_exact(tmp_path, monkeypatch) -> None:
    poisoned(monkeypatch, "conv_in.weight", {1, 4})
    loop.train(tiny(), tmp_path / "a")
    with pytest.raises(Killed):
        loop.train(tiny(), tmp_path / "b", progress=at(5, kill))
    loop.train(tiny(), tmp_path / "b", resume=True)
    assert_same(checkpoint(tmp_path / "a", 6), checkpoint(tmp_path / "b", 6))
    assert numbers(tmp_path / "a", 6) == numbers(tmp_path / "b", 6)


def test_fp16_finds_its_scale_and_counts_what_it_cost(tmp_path, monkeypatch) -> None:
    """Steps whose scaled gradients overflow are no fault of the data: they don't count in a row."""
    monkeypatch.setattr(precision, "scaler", lambda *_: torch.amp.GradScaler("cpu", init_scale=2.0**26))
    loop.train(tiny(precision="float16", skip_nonfinite=0), tmp_path)
    found = numbers(tmp_path, 6)
    assert found["skipped"] > 2
    assert found["parts"]["scaler"]["scale"] == 2.0 ** (26 - found["skipped"])


def spoil(monkeypatch, batches: set[int]) -> None:
    """Losses are a hundred times as large in these batches."""
    losses, examples = loop.Training.losses, loop.Training.examples
    now: list[int] = []

    def seen(run, batch):
        now[:] = [batch.number]
        return examples(run, batch)

    def spoiled(run, part):
        wanted, error = losses(run, part)
        factor = 100.0 if now[0] in batches else 1.0
        return wanted * factor, error * factor

    monkeypatch.setattr(loop.Training, "examples", seen)
    monkeypatch.setattr(loop.Training, "losses", spoiled)
    monkeypatch.setattr(loop.training, "Spike", lambda: stability.Spike(warmup_steps=2))


@pytest.mark.parametrize(("settled", "back"), [(2, 3), (3, 0)])
def test_a_leap_of_the_loss_goes_back_and_leaves_its_batches_out(tmp_path, monkeypatch, settled, back) -> None:
    spoil(monkeypatch, {5})
    monkeypatch.setattr(loop, "SETTLED", settled)
    loop.train(tiny(steps=9, rewind_spikes=True), tmp_path)
    lines = log.read(tmp_path / "metrics.jsonl")
    rewinds = [line for line in lines if line.get("event") == "rewind"]
    assert [(line["from_step"], line["to_step"], line["batches"]) for line in rewinds] == [
        (5, back, list(range(back, 6)))
    ]
    assert numbers(tmp_path, 9)["batch"] == 9 + 6 - back
    assert checkpoint(tmp_path, 9)["optimizer.step.conv_in.weight"].item() == 9


def test_a_level_that_stays_is_no_leap_for_ever(tmp_path, monkeypatch) -> None:
    spoil(monkeypatch, set(range(5, 100)))
    monkeypatch.setattr(loop, "SETTLED", 0)
    loop.train(tiny(steps=9, rewind_spikes=True), tmp_path)
    lines = log.read(tmp_path / "metrics.jsonl")
    assert len([line for line in lines if line.get("event") == "rewind"]) >= loop.MOST_REWINDS
    assert (tmp_path / "model").exists()


def test_a_device_that_is_not_there(tmp_path) -> None:
    with pytest.raises(BadInput, match=r"no device 'cuda:99' on this machine; use cpu"):
        loop.train(tiny(device="cuda:99"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_too_small_a_disk_is_seen_before_the_first_step(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(0, 0, 1000))
    steps: list[int] = []
    with pytest.raises(BadInput, match=r"MB are needed for checkpoints and the model, .* are free"):
        loop.train(tiny(), tmp_path, progress=lambda shown: steps.append(shown.step))
    assert steps == []


def losses(tmp_path, **options) -> list[float]:
    out = tmp_path / repr(sorted(options.items()))
    told: list[float] = []
    loop.train(
        tiny(steps=3, warmup_steps=1, log_every=1, **options), out, progress=lambda shown: told.append(shown.loss)
    )
    return [line["loss"] for line in log.read(out / "metrics.jsonl") if "loss" in line and "event" not in line]


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
    assert rates == [1e-3 * schedules.LearningRate("cosine", 6, 2).factor(i) for i in range(6)]
    assert rates[:3] == [0.0005, 0.001, 0.001]


def test_the_average_is_that_of_the_weights(tmp_path) -> None:
    """Step by step from the checkpoints alone: a <- d a + (1 - d) w with d = min(decay, (1 + k) / (10 + k))."""
    loop.train(tiny(steps=3, checkpoint_every=1, warmup_steps=0, ema_decay=0.15), tmp_path)
    before, after = checkpoint(tmp_path, 2), checkpoint(tmp_path, 3)
    for name in [name for name in after if name.startswith("average.")]:
        weight = after[name.replace("average.", "network.")]
        torch.testing.assert_close(after[name], 0.15 * before[name] + 0.85 * weight)


def test_no_clipping_is_a_large_bound(tmp_path) -> None:
    assert losses(tmp_path, clip_norm=0.0) == losses(tmp_path, clip_norm=1e9)


def pictures(root, *labels: str, size: tuple[int, int] = (8, 8)):
    """A folder of labels with 20 pictures each."""
    for number, label in enumerate(labels):
        (root / label).mkdir(parents=True)
        for i in range(20):
            Image.new("RGB", size, (80 * number, 10 * i, 40)).save(root / label / f"{i}.png")
    return root


def further(model, root, size: int = 8) -> recipe.Recipe:
    train = {"steps": 2, "batch_size": 8, "warmup_steps": 1}
    data = {"name": "folder", "path": str(root), "size": size}
    return recipe.check({"data": data, "model": {"folder": str(model)}, "train": train}, "", "test")


@pytest.fixture
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HASTEN_CACHE", str(tmp_path / "cache"))


def test_labels_go_by_name_when_a_model_is_trained_further(tmp_path, cache, monkeypatch) -> None:
    model = {"block_out_channels": [8, 16], "norm_num_groups": 4, "attention_head_dim": 8}
    values = further("", pictures(tmp_path / "all", "cat", "dog", "fish")).model_dump(exclude_defaults=True)
    first = loop.train(recipe.check({**values, "model": model}, "", "test"), tmp_path / "first")
    seen = set()
    draw = loop.training.Objective.draw
    monkeypatch.setattr(
        loop.training.Objective,
        "draw",
        lambda self, x, labels, rng: seen.update(labels.tolist()) or draw(self, x, labels, rng),
    )
    second = loop.train(further(first, pictures(tmp_path / "fewer", "dog", "fish")), tmp_path / "second")
    assert seen == {1, 2}
    assert json.loads((second / "hasten.json").read_text())["label_names"] == ["cat", "dog", "fish"]
    with pytest.raises(
        BadInput, match="has the label 'bird', which first does not know; its labels are cat, dog, fish"
    ):
        loop.train(further(first, pictures(tmp_path / "other", "bird", "dog")), tmp_path / "third")


def test_labels_by_name_in_buckets_too() -> None:
    source = network.source_of(tiny(), digits.load(8))
    part = Data("d", np.zeros((4, 1, 8, 8), np.uint8), np.asarray([0, 1, 1, 0]), ("3", "7"), np.zeros(4, bool))
    found = network.labelled(replace(part, buckets=(part, part)), source)
    assert [each.labels.tolist() for each in (found, *found.buckets)] == [[3, 7, 7, 3]] * 3
    assert network.labelled(part, replace(source, label_names=())) is part


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 16, 32), (1, 32, 16)])
def test_a_folder_s_pictures_have_the_shape_of_the_model(tmp_path, cache, shape) -> None:
    root = pictures(tmp_path / "all", "cat", "dog")
    channels, high, wide = shape
    model = UNet2DModel(
        sample_size=(high, wide), in_channels=channels, out_channels=channels, block_out_channels=(8, 16),
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, layers_per_block=1,
        norm_num_groups=4, num_class_embeds=3,
    )  # fmt: skip
    DDIMPipeline(model, DDIMScheduler()).save_pretrained(tmp_path / "model")
    made = loop.train(further(tmp_path / "model", root, wide), tmp_path / "run")
    assert loop.inputs.dataset(further(made, root, wide))[0].shape == shape


class Tied(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = torch.nn.Conv2d(1, 1, 3, padding=1), torch.nn.Conv2d(1, 1, 3, padding=1)
        self.b.weight = self.a.weight

    def forward(self, x: torch.Tensor, _time: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(x))


FREE = {"optimizer": "schedule_free", "learning_rate_schedule": "constant"}


@pytest.mark.parametrize("options", [{}, FREE, {"precision": "bfloat16_master"}])
def test_tied_weights_are_trained_saved_and_resumed(tmp_path, options) -> None:
    torch.manual_seed(0)
    source = sources.load(Tied(), schedule=cosine(), prediction="epsilon", shape=(1, 8, 8))
    train = {"steps": 6, "batch_size": 8, "checkpoint_every": 3, "warmup_steps": 2, **options}
    asked = recipe.check({"data": {"name": "digits", "size": 8}, "train": train}, "", "test")
    straight = loop.train(asked, tmp_path / "a", source=source)
    with pytest.raises(Killed):
        loop.train(asked, tmp_path / "b", source=source, progress=at(4, kill))
    resumed = loop.train(asked, tmp_path / "b", True, source=source)
    ours, theirs = (load_file(folder / "weights.safetensors") for folder in (straight, resumed))
    assert torch.equal(ours["a.weight"], ours["b.weight"])
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_stop_during_steps_that_are_left_out_is_heard(tmp_path, monkeypatch) -> None:
    def bad(run, part):
        os.kill(os.getpid(), signal.SIGINT)
        return (run.network.conv_in.weight.sum() * torch.nan, torch.tensor(torch.nan))

    monkeypatch.setattr(loop.Training, "losses", bad)
    with pytest.raises(KeyboardInterrupt, match="stopped after step 0 of 6; resuming goes on there"):
        loop.train(tiny(skip_nonfinite=10), tmp_path)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-0000000.safetensors"]


def test_an_interruption_at_once_says_what_is_kept(tmp_path, monkeypatch) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match="stopped in step 5 of 6; resuming goes on from checkpoint-0000003"):
        loop.train(tiny(), tmp_path / "a", progress=at(4, twice))
    with pytest.raises(KeyboardInterrupt, match="stopped in step 2 of 6; nothing is lost, give the same command again"):
        loop.train(tiny(), tmp_path / "b", progress=at(1, twice))

    def interrupted(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(loop.inputs, "dataset", interrupted)
    with pytest.raises(KeyboardInterrupt, match="stopped before the first step; nothing is lost"):
        loop.train(tiny(), tmp_path / "c")
