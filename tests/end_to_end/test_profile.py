"""`hasten profile` on a small real model: every part, a sample and a training step, the page, bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import hasten

from hasten.technique import plan as plans
from hasten.technique.plan import Plan
from hasten.technique.sampler import Sampler

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def fast(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("plan") / "plan.toml"
    plans.write(Plan((Sampler("unipc", 6, "logsnr"),)), path)
    return f"{tiny_folder}+{path}"


def test_a_sample_is_taken_apart(fast: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert hasten("profile", fast, "--batch", "4", "--out", out) == 0
    printed = capsys.readouterr().out
    result = json.loads((out / "profile.json").read_text())
    assert all(len(line) <= 80 for line in printed.splitlines() if str(tmp_path) not in line and fast not in line)
    assert " ".join(result["headline"].split()) in " ".join(printed.split())
    assert " % of the time in " in result["headline"]
    modules = result["modules"]
    exclusive = sum(row["exclusive_seconds"] for row in modules["rows"])
    assert exclusive + modules["residual_seconds"] == pytest.approx(modules["whole_seconds"])
    assert modules["rows"][1]["name"] == "UNet2DModel"
    kinds = {row["name"]: row for row in modules["kinds"]}
    flops = sum(row["flops"] for row in kinds.values())
    operators = {row["name"]: row for row in result["ops"]["rows"]}
    assert operators["aten::convolution"]["flops"] == kinds["Conv2d 3x3"]["flops"] + kinds["Conv2d 1x1"]["flops"]
    assert modules["rows"][0]["flops"] == flops
    assert len(result["steps"]["network_seconds"]) == 6
    assert any("denoise(x, table.times" in row["code"] for row in result["python"]["lines"])
    held = {holder["owner"]: holder["bytes"] for holder in result["memory"]["holders"]}
    assert sum(held.values()) == result["memory"]["peak_bytes"]
    assert held["weights"] == 4 * result["parameters"]
    assert all(result[part]["overhead"] > 0 for part in ("modules", "ops", "steps", "memory"))
    assert json.loads((out / "trace.json").read_text())["traceEvents"]
    page = (out / "profile.html").read_text()
    assert page.count("<script") == 1  # its own
    assert "up_blocks.0" in page
    assert hasten("profile", fast, "--out", out) == 2
    assert "holds a profile" in capsys.readouterr().err


def test_what_int8_does_by_layer_and_level(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hasten("profile", tiny_folder, "--what", "damage", "--batch", "4", "--out", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert all(
        len(line) <= 80 for line in printed.splitlines() if str(tmp_path) not in line and str(tiny_folder) not in line
    )
    found = json.loads((tmp_path / "out" / "profile.json").read_text())["damage"]
    assert sum(row["share"] for row in found["rows"]) == pytest.approx(1.0)
    assert {"conv_in", "conv_out"} <= {row["name"] for row in found["rows"]}
    left = [row["decibels"] for row in found["rows"] if not row["kept"]]
    assert all(sum(10 ** (-db[level] / 10) for db in left) <= 1e-3 for level in range(3))
    assert "up_blocks.0.resnets.0.conv1" in (tmp_path / "out" / "profile.html").read_text()


def test_a_training_step_is_taken_apart(tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert hasten("profile", tiny_folder, "--train", "--data", "digits", "--batch", "4", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result["phases"]["seconds"]) == {"forward", "backward", "update"}
    peaks = result["memory"]["phase_peaks"]
    assert min(peaks["forward"], peaks["backward"]) > peaks[""] > 4 * result["parameters"]
    assert result["steps"] is None
    assert "aten::convolution_backward" in {row["name"] for row in result["ops"]["rows"]}
    assert any("self.backward(errors)" in row["code"] for row in result["python"]["lines"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere",), "nowhere"),
        (("MODEL", "--train"), "--data"),
        (("MODEL", "--what", "time"), "python"),
        (("MODEL", "--train", "--data", "emojis"), "did you mean 'emoji'"),
    ],
)
def test_bad_input(
    arguments: tuple[str, ...], words: str, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hasten("profile", *(str(tiny_folder) if a == "MODEL" else a for a in arguments)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert words in error
