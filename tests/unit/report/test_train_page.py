"""A training run's page: what it says, of a run that is finished, killed, begun, endless or none at all."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hasten import cli
from hasten.errors import BadInput
from hasten.report import train_page, train_run
from hasten.train.log import Figures, Log

RECIPE = {
    "data": {"name": "emoji", "size": 32, "path": None},
    "model": {"block_out_channels": [8, 16]},
    "train": {"steps": 40, "batch_size": 8, "device": "cpu", "optimizer": "<b>muon</b>", "rewind_spikes": True},
}
MACHINE = {
    "cpu": "a cpu", "cores": 2, "memory_bytes": 2**33, "gpu": None, "os": "Linux", "python": "3.11",
    "packages": {"torch": "2.13.0", "nncf": None}, "commit": None,
}  # fmt: skip
SETTING = {"threads": 2, "channels_last": True}


def run(folder: Path, steps: int = 40, end: bool = True, **sections: object) -> Path:
    """A run's folder with everything in it that can happen; ``sections`` are more of its recipe."""
    folder.mkdir(parents=True)
    about = {
        "recipe": {**RECIPE, "teacher": None, **sections},
        "environment": MACHINE,
        "parameters": 3_810_000,
        "command": "hasten train r.toml",
    }
    (folder / "run.json").write_text(json.dumps(about))
    log = Log(folder, steps, 2, "cpu")
    log.event("begin", 0, 0)
    log.event("audit", 0, 0, line="terminal SNR 2.4e-09: fine")
    trial = {**SETTING, "seconds": 0.5, "ratio": 1.0, "low": 1.0, "high": 1.0}
    log.event("autotune", 0, 0, setting=SETTING, trials=[trial, {**trial, "threads": 1, "ratio": 1.25}])
    for step in range(1, steps + 1):
        if step == 7:
            log.event("skipped", 6, 6, what="the gradient of conv_in.weight (1 of 864 not finite)", ids=[11, 12, 13])
        if step == 9:
            log.event("rewind", 8, 9, from_step=8, to_step=4, batches=[5, 6, 7, 8, 9], loss=77.5)
        phases = {"data": 0.01, "forward": 0.2, "backward": 0.3}
        scale = 0.5 if step % 3 else 1.0
        log.step(Figures(step, step, 2.0 / step, 1.0 + step % 5, scale, 1e-3, 8, 0.52, 0.01, phases, int(step > 6)))
        if step % 10 == 0:
            losses = {"0.1": 0.5 / step, "1": 1.0 / step, "10": 2.0 / step}
            figures = {"losses": losses, "loss": 1.0 / step, "distance": None if step == 10 else 0.5, "best": True}
            log.event("validation", step, step, seconds=0.5, **figures)
    for step in (10, 20, 40):
        Image.fromarray(np.full((16, 16, 3), step, np.uint8)).save(folder / f"samples-{step:07d}.png")
    if end:
        log.event("end", steps, steps)
        (folder / "model").mkdir()
    log.close()
    return folder


def test_what_a_finished_run_s_page_says(tmp_path) -> None:
    page = train_page.render(run(tmp_path / "emoji"))
    for said in (
        "emoji: finished after 40 steps", "3.81", "conv_in.weight (1 of 864 not finite)", "11 12 13",
        "77.5", "5 to 9", "terminal SNR", "hasten train r.toml", "forward pass", "channels last", "a cpu",
        "after 20 steps", "train.batch_size",
    ):  # fmt: skip
        assert said in page, said
    assert "<b>muon" not in page
    assert "&lt;b&gt;muon" in page
    assert "data.path" not in page  # what is off is left out
    assert page.count("data:image/png") == 3
    assert "https://" not in page


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("train", ["run: finished after 40 steps", "train.batch_size"]),
        ("train with a teacher", ["finished after 40 steps", "teacher.folder", "some/model"]),
        ("killed", ["40 of 40 steps done, not running"]),
        ("optimize", ["emoji32: 19.6× faster", "Where the time of an image goes"]),
        ("profile", ["emoji32: DDIM 50 steps", "Peak 3.15 MB of tensors", "1.07 GB resident", "conv_in"]),
    ],
)
def test_the_command_makes_the_page_of_every_kind_of_run(tmp_path, example, kind: str, said: list[str]) -> None:
    folder = tmp_path / "run"
    if kind == "optimize":
        example.build(folder, {})
    elif kind == "profile":
        folder.mkdir()
        (folder / "profile.json").write_text(json.dumps(example.profile()))
    else:
        run(folder, end=kind != "killed", **({"teacher": {"folder": "some/model"}} if "teacher" in kind else {}))
    with pytest.raises(SystemExit) as ended:
        cli.main(["report", str(folder)])
    assert not ended.value.code
    page = (folder / f"{'profile' if kind == 'profile' else 'report'}.html").read_text(encoding="utf-8")
    for each in said:
        assert each in page.replace("\u00a0", " "), each
    assert ("teacher." in page) == ("teacher" in kind)


def test_only_regular_pngs_are_shown(tmp_path) -> None:
    folder = run(tmp_path / "run")
    secret = tmp_path / "secret.png"
    secret.write_bytes((folder / "samples-0000010.png").read_bytes() + b"secret")
    (folder / "samples-1.png").symlink_to(secret)
    os.mkfifo(folder / "samples-2.png")
    (folder / "samples-3.png").mkdir()
    (folder / "samples-4.png").write_text("root:x:0:0:root")
    with (folder / "samples-5.png").open("wb") as file:
        file.write(train_page.PNG)
        file.truncate(train_page.MOST_PICTURE_BYTES)
    (folder / "samples-x.png").write_bytes(secret.read_bytes())
    shown, left_out = train_page.grids(folder)
    assert [each["step"] for each in shown] == [10, 20, 40]
    assert left_out == 5
    page = train_page.render(folder)
    assert page.count("data:image/png") == 3
    assert "5 files named as pictures left out" in page


def test_names_are_shown_escaped(tmp_path) -> None:
    folder = run(tmp_path / "a\nb\x1b[31m<b>", data={"name": "emo\x1bji\nx"})
    page = train_page.render(folder)
    assert "a\\nb\\x1b[31m&lt;b&gt;: finished" in page
    assert "emo\\x1bji\\nx on cpu" in page
    assert "\x1b" not in page


def test_only_the_lowest_held_out_loss_is_the_best(tmp_path) -> None:
    found = train_run.read(run(tmp_path / "emoji"))
    assert [line["best"] for line in found.validations] == [False, False, False, True]


def test_a_run_that_was_killed_and_one_that_has_just_begun(tmp_path) -> None:
    killed = run(tmp_path / "killed", end=False)
    with (killed / "metrics.jsonl").open("a") as file:
        file.write('{"step": 41, "lo')
    assert "40 of 40 steps done, not running" in train_page.render(killed)
    begun = tmp_path / "begun"
    begun.mkdir()
    Log(begun, 40, 2, "cpu").event("begin", 0, 0)
    assert "nothing to draw" in train_page.render(begun)


def test_no_run(tmp_path) -> None:
    with pytest.raises(BadInput, match="holds no run of training"):
        train_page.render(tmp_path)
    broken = run(tmp_path / "broken")
    (broken / "run.json").write_text("{")
    with pytest.raises(BadInput, match=r"run.json can't be read"):
        train_page.render(broken)


def test_a_long_run_is_a_small_page(tmp_path) -> None:
    """100,000 steps, a line each."""
    folder = run(tmp_path / "long")
    line = (folder / "metrics.jsonl").read_text().splitlines()[-3]
    many = [json.loads(line) | {"step": step, "loss": 1.0 + step % 7, "seconds": step * 0.1} for step in range(100_000)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in many))
    began = time.process_time()
    path = train_page.write(folder)
    assert path.stat().st_size < 2_000_000
    assert time.process_time() - began < 20


def test_curves_forget_what_was_taken_back(tmp_path) -> None:
    columns = train_run.read(run(tmp_path / "emoji")).columns
    assert columns["step"].tolist() == [2.0, 4.0, *range(10, 41, 2)]
