"""What the terminal shows: 80 columns are enough for it, and bytes are told in one unit."""

from __future__ import annotations

import io
import re
import sys

import pytest

from hasten import console


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("detail", ["DPM-Solver++ 2M 8 steps, " * 6, "\u6a21\u578b" * 60], ids=["long", "wide"])
def test_a_long_detail_is_cut_and_the_clocks_stay(monkeypatch, detail):
    from rich.cells import cell_len

    for name, value in {"COLUMNS": "80", "TERM": "xterm", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stderr", Terminal())
    with console.progress() as report:
        report("search", detail, 61.0)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", sys.stderr.getvalue())
    lines = [line.rstrip() for line in re.split("[\r\n]+", shown) if "search" in line]
    assert lines
    for line in lines:
        assert re.search(r"search +0:00:0\d 1:01 left  \S.*…$", line), line
        assert cell_len(line) <= 80
