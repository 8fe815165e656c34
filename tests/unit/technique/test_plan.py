"""A plan's file is read as if anybody had written it: whatever is wrong is one line that names the file."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from hasten.errors import BadInput
from hasten.technique import plan as plans
from hasten.technique.layout import Layout
from hasten.technique.plan import Plan
from hasten.technique.quantize import Quantize
from hasten.technique.runtime import Runtime
from hasten.technique.sampler import Sampler

BEGIN = '[[techniques]]\ntechnique = "'
SAMPLER = f'{BEGIN}sampler"\n'


def said(path: Path) -> str:
    """What reading ``path`` is refused with."""
    with pytest.raises(BadInput) as caught:
        plans.read(path)
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text
    assert len(text) < 400 + len(str(path))
    return text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "techniques is missing"),
        (b"version = 1\n", "techniques is missing"),
        (b"version = 2\ntechniques = []\n", "version = 2, this hasten reads 1"),
        (b"version = true\ntechniques = []\n", "version = True"),
        (b'version = 1\ntechnique = []\n[[techniques]]\ntechnique = "layout"\n', "did you mean 'techniques'"),
        (b"techniques = 3", "list of tables"),
        (b"techniques = [1]", "list of tables"),
        (b"[[techniques]]\ntechnique = ['sampler']", "is not known"),
        (b"[[techniques]]\ntechnique = {a = 1}", "is not known"),
        (b"[[techniques]]\nsteps = 3", "technique '' is not known"),
        (f'{BEGIN}sampla"'.encode(), "did you mean 'sampler'"),
        (f'{BEGIN}{"x" * 5000}"'.encode(), "is not known"),
        (f"{SAMPLER}step = 3".encode(), "did you mean 'steps'"),
        (f'{SAMPLER}"st\\nep" = 3'.encode(), "did you mean 'steps'"),
        (f"{SAMPLER}steps = true".encode(), "must be of type int"),
        (f"{SAMPLER}steps = [3]".encode(), "must be of type int"),
        (f"{SAMPLER}steps = 1979-05-27".encode(), "must be of type int"),
        (f"{SAMPLER}steps = -5".encode(), "1 to 1000"),
        (f"{SAMPLER}steps = 0x{'f' * 9000}".encode(), "too large"),
        (f"{SAMPLER}steps = {'9' * 9000}".encode(), "not TOML"),
        (f"version = 0x{'f' * 9000}\ntechniques = []".encode(), "not TOML"),
        (f"{SAMPLER}solver = 0x{'f' * 9000}".encode(), "not TOML"),
        (f"{SAMPLER}steps = {'[' * 5000}".encode(), "nested too deeply"),
        (f"{SAMPLER}steps.{'.'.join('a' * 3000)} = 1".encode(), "nested too deeply"),
        (f'{BEGIN}quantize"\nshare = nan'.encode(), "not finite"),
        (f'{BEGIN}quantize"\nshare = -inf'.encode(), "not finite"),
        (f'{BEGIN}quantize"\nshare = 2.0'.encode(), "over 0, up to 1"),
        (f'{BEGIN}swap"'.encode(), "swap.folder is missing"),
        (f'{BEGIN}swap"\nfolder = "no\\nwhere"'.encode(), "does not exist"),
        (f'{BEGIN}swap"\nfolder = "no\\u0000where"'.encode(), "pass a"),
        (f'{BEGIN}layout"\n{BEGIN}layout"'.encode(), "there twice"),
        (b"\xff\xfe\x00", "decode byte 0xff"),
        (b"\x00" * 100, "not TOML"),
        (b"#" * (1 << 20), "over 16384 bytes"),
    ],
)
def test_what_is_no_plan_is_refused_in_one_line(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "plan.toml"
    path.write_bytes(content)
    assert words in said(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    assert "is a folder" in said(tmp_path)
    assert "No such file" in said(tmp_path / "nowhere.toml")
    assert "null byte" in said(tmp_path / "a\0b")
    os.mkfifo(tmp_path / "pipe")
    assert "no file" in said(tmp_path / "pipe")


def test_the_slowest_text_of_the_allowed_size_takes_seconds_not_hours(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(f"{'.'.join('a' * 8000)} = 1")
    began = time.perf_counter()
    said(path)
    assert time.perf_counter() - began < 10.0


@pytest.mark.parametrize(
    "plan", [Plan(), Plan((Sampler(), Layout())), Plan((Runtime(), Quantize(share=0.5)))], ids=lambda plan: plan.hash
)
def test_what_hasten_wrote_is_read_again(tmp_path: Path, plan: Plan) -> None:
    plans.write(plan, tmp_path / "plan.toml")
    assert plans.read(tmp_path / "plan.toml") == plan
    (tmp_path / "plan.toml").write_bytes((tmp_path / "plan.toml").read_bytes().replace(b"\n", b"\r\n"))
    assert plans.read(tmp_path / "plan.toml").hash == plan.hash
