"""What a source is called, and how it prints."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import hasten
from hasten.model.source import name_of
from hasten.technique.plan import Plan


def test_a_source_prints_in_a_few_lines(tiny_folder):
    printed = repr(hasten.load(tiny_folder))
    assert len(printed) < 500
    assert "(1, 8, 8)" in printed
    assert "v_prediction" in printed


@pytest.mark.parametrize(
    ("folder", "beside", "name"),
    [
        ("runs/emoji64/model", "run.json", "emoji64"),
        ("runs/emoji64/model", "recipe.toml", "emoji64"),
        ("runs/emoji64/best", "run.json", "emoji64/best"),
        ("runs/emoji64/model", None, "model"),
        ("cache/models--google--ddpm-cifar10-32/snapshots/267b167dc", None, "google/ddpm-cifar10-32"),
        ("models/emoji32", None, "emoji32"),
    ],
)
def test_a_model_goes_by_the_name_of_its_run_or_repository(tmp_path, folder, beside, name):
    path = tmp_path / folder
    path.mkdir(parents=True)
    if beside:
        (path.parent / beside).touch()
    assert name_of(path) == name


def test_an_artifact_keeps_the_name_of_its_model(tiny_folder, tmp_path, monkeypatch):
    run: Path = tmp_path / "digits8"
    shutil.copytree(tiny_folder, run / "model")
    (run / "run.json").write_text("{}")
    monkeypatch.chdir(run)
    source = hasten.load("model")
    assert source.name == "digits8"
    from hasten import artifact

    saved = artifact.save(tmp_path / "artifact", source, Plan())
    assert hasten.load_artifact(saved)[1].name == "digits8"
