"""What bad input gets at the command line: one line on stderr, the right status, nothing written."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hasten import cli


def status_and_error(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stop:
        cli.main([str(argument) for argument in arguments])
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1, error
    assert "Traceback" not in error
    return int(stop.value.code or 0), error


def damaged(folder: Path, where: Path, kind: str) -> Path:
    """A copy of the model folder with one thing wrong."""
    copy = where / "model"
    shutil.copytree(folder, copy)
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    content = weights.read_bytes()
    if kind == "truncated":
        weights.write_bytes(content[: len(content) // 2])
    elif kind == "trailing":
        weights.write_bytes(content + b"12345")
    elif kind == "pickle":
        weights.rename(weights.with_name("diffusion_pytorch_model.bin"))
    elif kind == "channels":
        config = json.loads((copy / "unet" / "config.json").read_text())
        (copy / "unet" / "config.json").write_text(json.dumps(config | {"in_channels": 3, "out_channels": 3}))
    elif kind == "unknown part":
        index = json.loads((copy / "model_index.json").read_text())
        (copy / "model_index.json").write_text(json.dumps(index | {"vae": ["diffusers", "AutoencoderKL"]}))
    return copy


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("truncated", "safetensors"),
        ("trailing", "safetensors"),
        ("pickle", "may run code"),
        ("channels", "the config says 3"),
        ("unknown part", "vae"),
    ],
)
def test_bad_models(
    kind: str, words: str, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = damaged(tiny_folder, tmp_path, kind), tmp_path / "out"
    status, error = status_and_error(capsys, "optimize", folder, "--out", out)
    assert status == 2
    assert words in error
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("optimize", "nowhere", "--out", "x"), "nowhere"),
        (("optimize", "MODEL", "--out", "x", "--budget", "2%"), "write quality=2%"),
        (("optimize", "MODEL", "--out", "x", "--time", "-5"), "write 90s, 5m or 1h"),
        (("optimize", "MODEL", "--out", "x", "--batch", "0"), "1<=x<=4096"),
        (("optimize", "MODEL", "--out", "x", "--data", "emojis"), "did you mean 'emoji'"),
        (("optimize", "MODEL", "--out", "x", "--data", "emoji"), "emoji size 8 is out of range"),
        (("optimize", "MODEL", "--out", "x", "--guidance", "2"), "needs a null label"),
        (("optimize", "MODEL"), "--out"),
        (("sample", "MODEL", "--label", "11", "--out", "x.png"), "0 to 9"),
        (("sample", "MODEL", "--out", "x.jpg"), ".png or .npy"),
        (("verify", "MODEL"), "is no artifact"),
        (("apply", "nowhere.toml", "MODEL", "--out", "x"), "nowhere.toml"),
        (("train", "nowhere.toml", "--out", "x"), "nowhere.toml"),
        (("optimise", "MODEL"), "No such command"),
    ],
)
def test_bad_arguments(
    arguments: tuple[str, ...],
    words: str,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    filled = [str(tiny_folder) if argument == "MODEL" else argument for argument in arguments]
    status, error = status_and_error(capsys, *filled)
    assert status == 2
    assert words in error
    assert list(tmp_path.iterdir()) == []


def test_an_unusable_technique_names_itself(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text('[[techniques]]\ntechnique = "quantize"\n')
    status, error = status_and_error(capsys, "apply", plan, tiny_folder, "--out", tmp_path / "out")
    assert status == 2
    assert "quantize: needs 'openvino_graph'" in error
    assert "drop quantize" in error
    assert not (tmp_path / "out").exists()


def test_a_bad_folder_is_refused_before_torch_is_there(tiny_folder: Path, tmp_path: Path) -> None:
    folder = damaged(tiny_folder, tmp_path, "pickle")
    code = "import sys; from hasten.model.config import read_folder\ntry: read_folder(sys.argv[1])\n"
    code += "except ValueError: sys.exit('torch' in sys.modules)\nsys.exit(3)"
    assert subprocess.run([sys.executable, "-c", code, str(folder)], check=False).returncode == 0


@pytest.mark.alone
def test_help_is_quick() -> None:
    times = []
    for _ in range(3):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "hasten", "--help"], check=True, capture_output=True)
        times.append(time.perf_counter() - began)
    assert min(times) < 0.5


def test_every_command_explains_itself_in_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    for name in cli.cli.commands:
        with pytest.raises(SystemExit) as stop:
            cli.main([name, "--help"])
        assert stop.value.code == 0
        text = capsys.readouterr().out
        assert text.startswith(f"Usage: hasten {name}")
        assert max(map(len, text.splitlines())) <= 100


def test_progress_is_silent_when_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    from hasten import console

    with console.progress() as report:
        report("search", "something", 10.0)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
