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
    assert len(error) < 1100
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
        (("optimise", "MODEL"), "No such command 'optimise'. Did you mean 'optimize'?; see hasten --help"),
        (("sample", "MODEL", "--guidance", "nan"), "'nan' is no finite number; see hasten sample --help"),
        (("sample", "MODEL", "--guidance", "1e9"), "-1000<=x<=1000"),
        (("sample", "MODEL", "--seed", str(2**32)), "is not in the range"),
        (("sample", "MODEL", "--device", "cuda:99"), "there is no device 'cuda:99'"),
        (("sample", "a" * 300), "File name too long"),
        (("sample", "a\x1b[31m\nb"), r"a\x1b[31m\nb does not exist"),
        (("sample", "a\udcffb"), r"a\udcffb: the name is not UTF-8; rename it"),
        (("sample", "MODEL", "--out", "a" * 300 + ".png"), "File name too long"),
        (("compare", "MODEL", "MODEL", "--batches", "\u00b2"), "write sizes of 1 to 4096"),
        (("compare", "MODEL", "MODEL", "--time", "9" * 400 + "h"), "is longer than 8760h"),
        (("optimize", "MODEL", "--out", "x", "--budget", f"memory={'9' * 400}MB"), "write quality=2%"),
        (("prune", "MODEL", "--sparsity", "nan", "--out", "x"), "'nan' is no finite number"),
        (("train", ".", "--out", "x"), "recipe . is a folder; pass a recipe.toml"),
        (("train", "/dev/zero", "--out", "x"), "recipe /dev/zero is no file"),
        (("train", "x" * 100_000, "--out", "x"), "File name too long"),
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


@pytest.mark.parametrize(
    "arguments",
    [
        ("optimize", "nowhere", "--out", "x"),
        ("optimize", "MODEL", "--out", "x", "--data", "nothing"),
        ("optimize", "MODEL", "--out", "x", "--student", "nowhere"),
        ("optimize", "MODEL", "--out", "file/x"),
        ("compare", "MODEL", "nowhere"),
        ("compare", "MODEL", "MODEL+nowhere.toml"),
        ("profile", "nowhere"),
        ("sample", "nowhere"),
        ("sample", "MODEL", "--out", "file.png"),
        ("verify", "nowhere"),
        ("apply", "nowhere.toml", "MODEL", "--out", "x"),
        ("apply", "file", "nowhere", "--out", "x"),
        ("train", "nowhere.toml", "--out", "x"),
        ("prune", "nowhere", "--channels", "0.5", "--out", "x"),
        ("distill", "MODEL", "--student", "nowhere", "--data", "digits", "--out", "x"),
        ("distill", "MODEL", "--student", "channels=0.5", "--data", "nothing", "--out", "x"),
        ("average", "nowhere", "--out", "x"),
        ("report", "nowhere"),
    ],
    ids=" ".join,
)
def test_names_of_nothing_are_refused_before_torch_is_there(
    arguments: tuple[str, ...], tiny_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "file.png").write_text("a picture")
    code = "import sys; from hasten import cli\ntry: cli.main(sys.argv[1:])\n"
    code += "except SystemExit as stop: sys.exit(50 if 'torch' in sys.modules else stop.code)"
    filled = [argument.replace("MODEL", str(tiny_folder)) for argument in arguments]
    done = subprocess.run(
        [sys.executable, "-c", code, *filled], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "file.png"]
    assert (tmp_path / "file.png").read_text() == "a picture"


def test_a_sample_has_a_file_of_its_own(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        cli.main(["sample", str(tiny_folder), "-n", "2", "--batch", "2", "--seed", str(2**32 - 1)])
    assert not stop.value.code
    assert "samples.png" in capsys.readouterr().out
    before = (tmp_path / "samples.png").read_bytes()
    status, error = status_and_error(capsys, "sample", tiny_folder, "-n", "2", "--batch", "2")
    assert (status, (tmp_path / "samples.png").read_bytes()) == (2, before)
    assert "samples.png exists; choose another" in error


def test_samples_that_are_no_numbers_are_not_written(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.numpy import load_file, save_file

    copy = tmp_path / "model"
    shutil.copytree(tiny_folder, copy)
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    tensors["conv_out.weight"] = tensors["conv_out.weight"] * 0 + 3e38
    save_file(tensors, weights)
    status, error = status_and_error(capsys, "sample", copy, "-n", "2", "--batch", "2", "--out", tmp_path / "x.npy")
    assert status == 1
    assert "2 of 2 samples hold NaN or Inf" in error
    assert not (tmp_path / "x.npy").exists()


@pytest.mark.parametrize(
    ("raised", "status", "words"),
    [
        (IsADirectoryError(21, "Is a directory", "some\x1bwhere"), 2, r"error: some\x1bwhere: Is a directory; check"),
        (OverflowError("int too big to convert"), 2, "a number is too large (int too big to convert); use a smaller"),
        (KeyboardInterrupt("stopped after step 3 of 9; resuming goes on there"), 130, "stopped after step 3 of 9; re"),
        (KeyboardInterrupt(), 130, "interrupted; what was written is whole"),
    ],
)
def test_what_ends_a_command_is_one_line(
    raised: BaseException,
    status: int,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from hasten import history

    def fail(_path: Path) -> None:
        raise raised

    monkeypatch.setattr(history, "read", fail)
    with pytest.raises(SystemExit) as stop:
        cli.main(["history", "--file", str(tmp_path / "x")])
    error = capsys.readouterr().err
    assert stop.value.code == status
    assert words in error
    assert len(error.strip().splitlines()) == 1


def test_env_says_what_is_not_there(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with pytest.raises(SystemExit):
        cli.main(["env"])
    out = capsys.readouterr().out
    assert "threads     OMP_NUM_THREADS is not set" in out
    assert "None" not in out


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
    from hasten.report import terminal

    with terminal.progress() as report:
        report("search", "something", 10.0)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def no_room(monkeypatch: pytest.MonkeyPatch, free_bytes: int = 1000) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=free_bytes))


@pytest.mark.parametrize(
    "arguments",
    [
        ("optimize", "MODEL", "--out", "x"),
        ("demo", "--out", "x"),
        ("apply", "plan.toml", "MODEL", "--out", "x"),
        ("prune", "MODEL", "--sparsity", "0.5", "--out", "x"),
        ("prune", "MODEL", "--channels", "0.5", "--data", "digits", "--out", "x"),
        ("distill", "MODEL", "--student", "channels=0.5", "--data", "digits", "--out", "x"),
        ("sample", "MODEL", "--out", "x.npy"),
        ("compare", "MODEL", "MODEL", "--out", "x.json"),
    ],
    ids=" ".join,
)
def test_room_on_the_disk_is_asked_for_before_work(
    arguments: tuple[str, ...],
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plan.toml").write_text("")
    no_room(monkeypatch)
    monkeypatch.setattr("hasten.model.source.Source.build", lambda _: pytest.fail("it began to work"))
    status, error = status_and_error(capsys, *(str(tiny_folder) if each == "MODEL" else each for each in arguments))
    assert status == 2
    assert "are needed for" in error
    assert "1.00 kB are free" in error
    assert [path.name for path in tmp_path.iterdir()] == ["plan.toml"]


@pytest.mark.parametrize("command", ["sample", "prune"])
def test_a_place_that_can_t_be_written_to_is_told_before_work(
    command: str,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", fail)
    monkeypatch.setattr("hasten.model.source.Source.build", lambda _: pytest.fail("it began to work"))
    rest = {"sample": ("--out", tmp_path / "x.png"), "prune": ("--sparsity", "0.5", "--out", tmp_path / "x")}
    status, error = status_and_error(capsys, command, tiny_folder, *rest[command])
    assert status == 2
    assert "can't be written to (Read-only file system)" in error


SIDE = "import sys, time; began = time.perf_counter(); from hasten import cli\ntry: cli.main(sys.argv[1:])\n"
SIDE += "except SystemExit as stop: sys.exit(50 if 'torch' in sys.modules else stop.code)"


@pytest.mark.parametrize(
    "arguments",
    [
        ("optimize", "MODEL", "--out", "x"),
        ("compare", "MODEL", "MODEL"),
        ("compare", "SMALL", "SMALL", "--batch", "1000000"),
        ("profile", "MODEL"),
        ("sample", "MODEL"),
        ("sample", "SMALL", "--batch", "1000000"),
        ("optimize", "SMALL", "--batch", "1000000", "--out", "x"),
        ("train", "recipe.toml", "--out", "x"),
    ],
    ids=" ".join,
)
def test_a_size_that_can_t_fit_is_refused_before_it_is_tried(
    arguments: tuple[str, ...], tiny_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_folder, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "unet" / "config.json").read_text())
    (tmp_path / "model" / "unet" / "config.json").write_text(json.dumps(config | {"sample_size": 65_536}))
    (tmp_path / "recipe.toml").write_text(
        '[data]\nname = "digits"\nsize = 1024\n[model]\nblock_out_channels = [64]\n[train]\nsteps = 9\n'
        "warmup_steps = 1\nbatch_size = 1000000\n"
    )
    named = {"MODEL": "model", "SMALL": str(tiny_folder)}
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", SIDE, *(named.get(each, each) for each in arguments)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    took = time.perf_counter() - began
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert "of memory are needed at least" in done.stderr or "is not in the range" in done.stderr
    assert took < 5, "two seconds, and what others do on this machine"
    assert not (tmp_path / "x").exists()


def test_a_network_too_large_for_memory(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "wide.toml").write_text(
        f'[data]\nname = "digits"\nsize = 8\n[model]\nblock_out_channels = {[4096] * 4}\nlayers_per_block = 8\n'
        "[train]\nsteps = 9\nwarmup_steps = 1\nbatch_size = 1\n"
    )
    monkeypatch.setattr("hasten.guard.free_memory_bytes", lambda: 10**9)
    _, error = status_and_error(capsys, "train", tmp_path / "wide.toml", "--out", tmp_path / "x")
    assert "38.7 GB of memory are needed at least, 1.00 GB are free" in error
    monkeypatch.setattr("hasten.guard.free_memory_bytes", lambda: 100_000)
    _, error = status_and_error(capsys, "prune", tiny_folder, "--sparsity", "0.5", "--out", tmp_path / "x")
    assert "of memory are needed at least, 100 kB are free" in error


def test_many_samples_that_can_t_be_kept(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("hasten.guard.free_memory_bytes", lambda: 20_000_000)
    arguments = ("sample", tiny_folder, "--batch", "1", "--out", tmp_path / "x.npy", "-n")
    status, error = status_and_error(capsys, *arguments, "100000")
    assert status == 2
    assert "are needed at least, 20.0 MB are free" in error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to"),
        RuntimeError("CUDA out of memory. Tried to allocate 80 GiB"),
    ],
    ids=["python", "torch", "cuda"],
)
def test_what_could_not_be_foreseen_of_memory_is_a_line_too(
    error: Exception, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_arguments: object) -> None:
        raise error

    monkeypatch.setattr("hasten.model.config.read_folder", fail)
    status, said = status_and_error(capsys, "sample", tiny_folder)
    assert status == 2
    assert said == "error: there is not enough memory; use a smaller --batch or model\n"


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        (("hasten", "--help"), "hasten"),
        (("optimize", "x", "--out"), "hasten optimize"),
        (("sample",), "hasten sample"),
        (("--nothing",), "hasten"),
    ],
    ids=str,
)
def test_where_help_is(arguments: tuple[str, ...], where: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, error = status_and_error(capsys, *arguments)
    assert status == 2
    assert error.endswith(f"; see {where} --help\n")


def test_hasten_alone_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main([])
    shown = capsys.readouterr()
    assert "\nCommands:\n  apply " in shown.out
    assert shown.err == ""


def test_verify_is_told_the_device(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "artifact.json").write_text("{}")
    status, error = status_and_error(capsys, "verify", tmp_path, "--device", "cuda")
    assert status == 2
    assert "artifact version" in error
