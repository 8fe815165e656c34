"""Training in processes of its own, from a recipe file: killed, stopped, resumed, and used afterwards."""

import json
import multiprocessing
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMPipeline, UNet2DModel
from PIL import Image
from safetensors.torch import load_file

from hasten.train import log

RECIPE = """\
[data]
name = "digits"
size = 8

[model]
block_out_channels = [16, 32]
attention_levels = [1]
attention_head_dim = 16

[train]
steps = 24
batch_size = 32
learning_rate = 4e-3
warmup_steps = 5
ema_decay = 0.9
checkpoint_every = 6
sample_every = 1000
log_every = 2
"""

# run with: path, out, resume, what happens, after which step; what is raised goes to said
RUN = """\
import os, signal
from pathlib import Path
import torch
from hasten.train import loop, recipe, state

def progress(shown):
    if shown.step == after and what in ("kill", "term"):
        os.kill(os.getpid(), signal.SIGKILL if what == "kill" else signal.SIGTERM)

def half_a_file(tensors, path, metadata):
    Path(path).write_bytes(b"half a file")
    os.kill(os.getpid(), signal.SIGKILL)

save = state.save
def killed_in_the_middle(run, *rest):
    if what == "kill in save" and run.step == after:
        state.save_file = half_a_file
    return save(run, *rest)

torch.set_num_threads(1)
state.save = killed_in_the_middle
try:
    loop.train(recipe.read(path), out, resume, progress)
except BaseException as error:
    out.with_name("said").write_text(repr(error))
    raise SystemExit(1)
"""

# processes are forked from one that has imported torch and done nothing with it
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["hasten.train.loop"])


def run(out: Path, resume: bool = False, what: str = "nothing", after: int = 0) -> int | None:
    """The exit code of a training process; a negative one is the signal that ended it."""
    path = out.with_name("recipe.toml")
    path.write_text(RECIPE)
    names = {"path": path, "out": out, "resume": resume, "what": what, "after": after}
    process = PROCESSES.Process(target=exec, args=(RUN, names))
    process.start()
    process.join()
    return process.exitcode


def said(out: Path) -> str:
    return out.with_name("said").read_text()


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("straight") / "run"
    assert run(out) == 0
    return out


def assert_same_end(a: Path, b: Path) -> None:
    name = "checkpoint-0000024.safetensors"
    ours, theirs = load_file(a / name), load_file(b / name)
    assert [n for n in ours.keys() | theirs.keys() if not torch.equal(ours[n], theirs[n])] == []
    for file in ("model/unet/diffusion_pytorch_model.safetensors", "samples-0000024.png"):
        assert (a / file).read_bytes() == (b / file).read_bytes()
    ours, theirs = ([(x["step"], x["loss"]) for x in steps(out)] for out in (a, b))
    assert [step for step, _ in ours] == sorted({step for step, _ in ours})  # none twice
    assert ours[-1] == theirs[-1]


def steps(out: Path) -> list[dict]:
    return [line for line in log.read(out / "metrics.jsonl") if "event" not in line]


@pytest.mark.parametrize(("what", "after"), [("kill", 15), ("kill in save", 18)])
def test_kill_9_and_resume_is_as_if_nothing_had_happened(straight, tmp_path, what: str, after: int) -> None:
    out = tmp_path / "run"
    assert run(out, what=what, after=after) == -signal.SIGKILL
    assert max(out.glob("checkpoint*")).name == "checkpoint-0000012.safetensors"
    assert len(list(out.glob(".*.part"))) == (what == "kill in save")
    assert run(out) == 1
    assert "checkpoints (checkpoint-0000012.safetensors); resume it, or choose another folder" in said(out)
    assert run(out, resume=True) == 0
    assert not list(out.glob(".*.part"))
    assert_same_end(out, straight)


def test_sigterm_saves_and_resume_goes_on(straight, tmp_path) -> None:
    out = tmp_path / "run"
    assert run(out, what="term", after=5) == 1
    assert said(out) == "KeyboardInterrupt('stopped after step 5 of 24; resuming goes on there')"
    assert [path.name for path in out.glob("checkpoint*")] == ["checkpoint-0000005.safetensors"]
    assert run(out, resume=True) == 0
    assert_same_end(out, straight)


def test_it_learns(straight) -> None:
    losses = [line["loss"] for line in steps(straight)]
    assert len(losses) == 12
    assert np.mean(losses[-4:]) < 0.75 * np.mean(losses[:2])


def test_diffusers_alone_can_use_the_model(straight) -> None:
    """The folder is an ordinary pipeline folder, and it holds the averaged weights."""
    network = UNet2DModel.from_pretrained(straight / "model" / "unet", torch_dtype=torch.float16)
    average = load_file(straight / "checkpoint-0000024.safetensors")
    for name, value in network.state_dict().items():
        assert torch.equal(value, average[f"average.{name}"].half())
    pipeline = DDIMPipeline.from_pretrained(straight / "model")
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    extra = json.loads((straight / "model" / "hasten.json").read_text())
    assert extra["label_names"] == list("0123456789")
    assert extra["null_label"] == 10 == network.config.num_class_embeds - 1
    assert extra["recipe"]["train"]["steps"] == 24


def test_the_sample_grid_is_a_picture(straight) -> None:
    with Image.open(straight / "samples-0000024.png") as image:
        assert image.size == (8 * 8 * 3, 8 * 8 * 3)
        assert np.asarray(image).std() > 10
