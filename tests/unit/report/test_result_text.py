"""What the terminal shows: 80 columns are enough for it, and bytes are told in one unit."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import pytest

from hasten import environment
from hasten.report import result_text, terminal


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("detail", ["DPM-Solver++ 2M 8 steps, " * 6, "\u6a21\u578b" * 60], ids=["long", "wide"])
def test_a_long_detail_is_cut_and_the_clocks_stay(monkeypatch, detail):
    from rich.cells import cell_len

    for name, value in {"COLUMNS": "80", "TERM": "xterm", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stderr", Terminal())
    with terminal.progress() as report:
        report("search", detail, 61.0)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", sys.stderr.getvalue())
    lines = [line.rstrip() for line in re.split("[\r\n]+", shown) if "search" in line]
    assert lines
    for line in lines:
        assert re.search(r"search +0:00:0\d 1:01 left  \S.*…$", line), line
        assert cell_len(line) <= 80


PEAKS = {"float32_flops_per_second": 2e11, "int8_flops_per_second": None, "copy_bytes_per_second": 3e10}


@pytest.mark.parametrize(
    ("what", "shown"),
    [
        ({"cpu": ""}, "cpu         not known"),
        ({"cores": None}, "cores       not known"),
        ({"memory_bytes": None}, "memory      not known"),
        ({"memory_bytes": 25_200_000_000}, "memory      25.2 GB"),
        ({"threads": None}, "threads     OMP_NUM_THREADS is not set"),
        ({"commit": None}, "commit      not run from a checkout"),
        ({"packages": {"torch": "2.13", "openvino": None}}, "packages    torch 2.13"),
        ({"packages": {"torch": None}}, "packages    not known"),
        ({"gpu": None}, "gpu         none"),
        (
            {"gpu": {"name": "X", "memory_bytes": 151e9, "capability": "9.0", "cuda": "13.0", "count": 2}},
            "gpu         X, 151 GB, CUDA 13.0, first of 2",
        ),
        (
            {"gpu": {"name": "X", "memory_bytes": None, "capability": "9.0", "cuda": None, "count": 1}},
            "gpu         X",
        ),
    ],
)
def test_what_is_not_known_of_a_machine_says_so(what, shown):
    text = result_text.machine(environment.environment() | what, "0123456789ab", PEAKS)
    lines = text.splitlines()
    assert shown in lines
    assert "None" not in text
    assert max(map(len, lines)) <= 80
    assert "none in int8" in " ".join(text.split())
    assert lines[-1].endswith("GB/s copied")


def side(*label: str) -> dict[str, object]:
    return {"label": label, "seconds_per_image": 0.0123, "peak_bytes": 574_619_648, "weight_bytes": 15_060_000}


@pytest.mark.parametrize(
    ("label", "first"),
    [
        (
            ["DEIS 7 steps"],
            "baseline    DDIM 50 steps, float32  0.0123 s/image\noptimised   DEIS 7 steps            0.0123",
        ),
        (
            ["DPM-Solver++ 2M 8 steps", "OpenVINO float32", "2 streams", "int8", "fused upsampling"],
            "baseline    DDIM 50",
        ),
    ],
)
def test_a_summary_has_one_unit_and_80_columns_whatever_the_plan(label, first):
    result = {
        "passed": True,
        "baseline": side("DDIM 50 steps", "float32"),
        "candidate": side(*label),
        "speedup": {"ratio": None, "reason": "no rounds"},
        "quality": {
            "baseline_distance": 0.1, "candidate_distance": 0.1, "detectable": 0.01, "noise_floor": 0.1,
            "verdict": "no measurable loss", "drift_db": 30.0,
        },
        "attribution": [], "candidates": [], "refused": [], "warnings": ["busy " * 20, "busy " * 20],
    }  # fmt: skip
    text = result_text.summary(result, Path("runs/a"))
    assert text.startswith(first)
    assert max(map(len, text.splitlines())) <= 80
    assert "peak 575 MB -> 575 MB" in text
    assert "network 15.1 MB -> 15.1 MB" in text
    assert text.count("warning") == 1
