"""The main job through the command line, on small real models: optimise, report, verify, sample, apply, resume."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from command_line import hasten

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def run(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on a labelled digits model, with data."""
    out = tmp_path_factory.mktemp("run") / "out"
    arguments = [
        "optimize",
        tiny_folder,
        "--data",
        "digits",
        "--budget",
        "quality=20%",
        "--time",
        "25s",
        "--batch",
        "8",
    ]
    assert hasten(*arguments, "--out", out) == 0
    return out


def result_of(out: Path) -> dict[str, Any]:
    return json.loads((out / "result.json").read_text())


def test_the_result_has_what_the_issue_names(run: Path) -> None:
    result = result_of(run)
    for side in ("baseline", "candidate"):
        assert {"plan", "seconds_per_image", "peak_bytes"} <= set(result[side])
        assert result[side]["seconds_per_image"] > 0
        assert result[side]["peak_bytes"] > 50e6
    assert {"ratio", "low", "high", "rounds", "verdict"} <= set(result["speedup"])
    assert result["speedup"]["low"] <= result["speedup"]["ratio"] <= result["speedup"]["high"]
    assert result["speedup"]["rounds"] >= 9
    wanted = {"baseline_distance", "candidate_distance", "noise_floor", "detectable", "drift_db", "verdict"}
    assert wanted <= set(result["quality"])
    assert result["refused"]
    assert all(row["reason"] for row in result["refused"])
    assert result["environment"]["packages"]["torch"]


def test_figures_come_from_the_observations(run: Path) -> None:
    """seconds_per_image and the ratio can be computed again from the raw rounds."""
    result = result_of(run)
    seconds: dict[str, dict[int, float]] = {}
    for row in result["observations"]:
        if row["round"] >= 0 and row["plan"] in ("baseline", "candidate 0", "candidate 1", "candidate 2"):
            seconds.setdefault(row["plan"], {})[row["round"]] = row["seconds"] / row["images"]
    (candidate,) = set(seconds) - {"baseline"}
    ratios = sorted(seconds["baseline"][r] / seconds[candidate][r] for r in seconds[candidate])
    assert ratios[0] <= result["speedup"]["ratio"] <= ratios[-1]
    middle = sorted(seconds["baseline"].values())
    assert middle[0] <= result["baseline"]["seconds_per_image"] <= middle[-1]


def test_search_and_confirmation_share_no_noise() -> None:
    from hasten.model.workload import draw
    from hasten.seeds import Purpose, seed_of
    from hasten.story.stages.finals import ROUNDS

    seeds = [case.seed for seed in (0, 1) for p in (Purpose.SEARCH, Purpose.CONFIRM, Purpose.REFERENCE)
             for case in draw((1,), ROUNDS, 1, seed_of(p, seed)).cases]  # fmt: skip
    assert len(seeds) == len(set(seeds))


def test_the_artifact_verifies_and_a_flipped_byte_does_not(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert hasten("verify", run / "artifact") == 0
    assert "verified" in capsys.readouterr().out
    path = run / "artifact" / "reference.safetensors"
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        assert hasten("verify", run / "artifact") == 1
        assert "reference.safetensors was changed" in capsys.readouterr().err
    finally:
        path.write_bytes(whole)


def test_the_artifact_samples_what_its_plan_makes(run: Path, tiny_folder: Path, tmp_path: Path) -> None:
    import numpy as np

    from hasten import build, load, load_artifact
    from hasten.model.workload import draw
    from hasten.technique import plan as plans

    target, source, plan = load_artifact(run / "artifact")
    case = draw(source.shape, 1, 4, seed=9, labels=source.labels).cases[0]
    again = build(load(tiny_folder), plans.read(run / "plan.toml")).sample(case)
    np.testing.assert_allclose(target.sample(case).numpy(), again.numpy(), atol=1e-5)
    assert plan == plans.read(run / "plan.toml")
    assert hasten("sample", run / "artifact", "-n", "10", "--out", tmp_path / "grid.png") == 0
    assert (tmp_path / "grid.png").read_bytes().startswith(b"\x89PNG")
    assert hasten("sample", tiny_folder, "-n", "3", "--out", tmp_path / "x.npy", "--label", "3") == 0
    assert np.load(tmp_path / "x.npy").shape == (3, 1, 8, 8)


def test_the_report_shows_the_same_figures(run: Path) -> None:
    page = (run / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert f"{result_of(run)['speedup']['ratio']:.3g}"[:3] in page


def test_apply_makes_an_artifact_of_another_model(run: Path, other_folder: Path, tmp_path: Path) -> None:
    """Other channels, no labels, epsilon, linear schedule: the same plan, no search."""
    assert hasten("apply", run / "plan.toml", other_folder, "--out", tmp_path / "a") == 0
    assert hasten("verify", tmp_path / "a") == 0
    assert hasten("apply", run / "plan.toml", other_folder, "--out", tmp_path / "a") == 2


def test_another_model_without_data_works_unchanged(
    other_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "other"
    status = hasten(
        "optimize", other_folder, "--budget", "quality=50%", "--time", "20s", "--batch", "4", "--out", out, "--json"
    )
    assert status == 0
    result = json.loads(capsys.readouterr().out)
    assert result == result_of(out)
    assert result["data"] is None
    assert result["quality"]["origin"] == "the model's own converged samples"
    assert (out / "report.html").exists()


def test_a_goal_of_size_ends_in_a_slim_artifact_and_a_front(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "small"
    budgets = ["--budget", "quality=60%", "--budget", "size=2MB", "--budget", "memory=4GB"]
    assert hasten("optimize", tiny_folder, "--data", "digits", *budgets, "--goal", "size", "--time", "40s",
                  "--batch", "4", "--out", out) == 0  # fmt: skip
    result = result_of(out)
    assert result["search"]["goal"] == "size"
    assert result["search"]["limits"] == {"quality": 0.6, "memory_bytes": 4e9, "size_bytes": 2e6}
    assert result["candidate"]["weight_bytes"] < result["baseline"]["weight_bytes"]
    assert result["candidate"]["peak_bytes"] < 4e9
    assert {row["technique"] for row in result["candidate"]["plan"]} >= {"runtime", "weights", "sampler"}
    assert not list((out / "artifact" / "source").rglob("*.safetensors"))
    assert hasten("verify", out / "artifact") == 0
    fronts = [row["front"] for row in result["candidates"] if row["front"]]
    assert sorted(f"front/{path.name}" for path in (out / "front").iterdir()) == sorted(fronts)
    assert hasten("apply", out / fronts[0], tiny_folder, "--out", tmp_path / "applied", "--slim") == 0
    assert hasten("optimize", tiny_folder, "--budget", "size=1kB", "--time", "9s", "--batch", "4",
                  "--out", tmp_path / "none") == 1  # fmt: skip
    assert "no plan is within a size of 1000B: the smallest (" in capsys.readouterr().err


def test_a_finished_folder_is_not_overwritten(run: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / "result.json").read_bytes()
    assert hasten("optimize", tiny_folder, "--out", run) == 2
    assert "resume it, or choose another folder" in capsys.readouterr().err
    assert (run / "result.json").read_bytes() == before


def test_ctrl_c_before_anything_is_found_ends_at_once(tiny_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "stopped"
    command = [sys.executable, "-m", "hasten", "optimize", str(tiny_folder), "--time", "9m", "--out", str(out)]
    child = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (out / "run.json").exists():
        assert child.poll() is None, child.stderr.read() if child.stderr else ""
        time.sleep(0.05)
    time.sleep(0.5)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 130, errors
    assert "Traceback" not in errors
    assert not (out / "result.json").exists()


def test_ctrl_c_verifies_the_best_so_far_and_resume_goes_on(tiny_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "stopped"
    command = [sys.executable, "-m", "hasten", "optimize", str(tiny_folder), "--data", "digits", "--batch", "4"]
    command += ["--budget", "quality=50%", "--time", "9m", "--out", str(out)]
    child = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True)
    history = out / "history.jsonl"
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and not (history.exists() and '"images": 0' in history.read_text()):
        assert child.poll() is None, child.stderr.read() if child.stderr else ""
        time.sleep(0.1)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=120)
    assert child.returncode == 130, errors
    first = result_of(out)
    assert first["interrupted"]
    assert first["speedup"]["rounds"] == 9
    tried = history.read_text().splitlines()
    again = ["--data", "digits", "--batch", "4", "--budget", "quality=50%", "--time", "15s", "--out", out, "--resume"]
    assert hasten("optimize", tiny_folder, *again) == 0
    assert history.read_text().splitlines()[: len(tried)] == tried
    assert not result_of(out)["interrupted"]
