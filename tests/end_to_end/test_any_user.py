"""Whoever runs it and wherever: code in the current folder is not run, and no home folder is got over."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hasten.train.rehearsal import measure

PLANTED = ("json", "numpy", "torch", "hasten", "click", "diffusers")
RECIPE = """\
[data]
name = "digits"
size = 8

[model]
block_out_channels = [16, 32]
attention_levels = [1]
attention_head_dim = 16

[train]
steps = 8
warmup_steps = 2
batch_size = 4
"""
NOBODY = """\
import os, pwd, sys
def unknown(_):
    raise KeyError("no such user")
pwd.getpwuid = unknown
from hasten import cli
cli.main(sys.argv[1:])
"""


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """A folder with modules that leave a mark when they are imported."""
    folder = tmp_path / "trap"
    folder.mkdir()
    for name in PLANTED:
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'a').write({name!r} + ' ')\n")
    return folder


def run(command: list[str], cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def test_code_in_the_current_folder_is_not_run(trap: Path, tiny_folder: Path) -> None:
    script = str(Path(sys.executable).with_name("hasten"))
    run([script, "--help"], trap)
    few = ["--batch", "8", "--batches", "", "--rounds", "2", "--time", "20s"]
    done = run([script, "compare", str(tiny_folder), str(tiny_folder), *few], trap)
    assert "peak" in done.stdout  # which processes of their own have measured
    assert not (trap.parent / "mark").exists(), (trap.parent / "mark").read_text()


def test_nor_by_python_m(trap: Path, tiny_folder: Path) -> None:
    (trap / "hasten.py").unlink()  # Python itself looks for that one there
    run([sys.executable, "-m", "hasten", "sample", str(tiny_folder), "-n", "1", "--batch", "1"], trap)
    assert not (trap.parent / "mark").exists(), (trap.parent / "mark").read_text()


def test_nor_by_a_rehearsal(trap: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hasten.train import recipe

    (tmp_path / "recipe.toml").write_text(RECIPE)
    monkeypatch.chdir(trap)
    assert measure(recipe.read(tmp_path / "recipe.toml")).seconds > 0
    assert not (trap.parent / "mark").exists(), (trap.parent / "mark").read_text()


@pytest.mark.parametrize("home", ["a file", "none"])
@pytest.mark.parametrize("command", ["sample", "profile", "env", "history"])
def test_without_a_home(command: str, home: str, tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    mine = ("HOME", "LOGNAME", "USER", "HASTEN_CACHE", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME")
    env = {name: value for name, value in os.environ.items() if name not in (*mine, "HASTEN_HISTORY", "MPLCONFIGDIR")}
    if home == "a file":
        env |= {"HOME": str(tmp_path / "home")}
    history = tmp_path / "history.jsonl"
    history.write_text("")
    words = {
        "sample": [str(tiny_folder), "-n", "1", "--batch", "1"],
        "profile": [str(tiny_folder), "--batch", "1", "--what", "memory", "--out", "out"],
        "env": [],
        "history": ["--file", str(history)],
    }[command]
    done = subprocess.run(
        [sys.executable, "-c", NOBODY, command, *words],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr
    said = done.stderr.strip().splitlines()
    if command == "history":
        assert "no run has it" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert all(line.startswith("warning: no cache") for line in said)
    assert len(said) <= 1
