from __future__ import annotations

import sys

import pytest

from hasten.errors import MissingExtra
from hasten.measure import python


def inner(n):
    return sum(range(n))


def outer():
    total = 0
    for n in range(3):
        total += inner(n)
    return total


def test_functions_are_counted_with_their_places():
    rows = {row.name: row for row in python.functions(outer)}
    assert rows["inner"].calls == 3
    assert rows["inner"].place.endswith(f"test_python.py:{inner.__code__.co_firstlineno}")
    assert not rows["inner"].place.startswith("/")
    assert rows["<built-in method builtins.sum>"].place == "built in"
    assert rows["outer"].inclusive_seconds >= rows["inner"].inclusive_seconds


def test_lines_are_those_of_the_functions_watched():
    rows = {row.code: row for row in python.lines(outer, [outer])}
    assert rows["for n in range(3):"].hits == 4
    assert rows["total += inner(n)"].hits == 3
    assert not any("sum(" in code for code in rows)


def test_without_the_extra_its_name_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "line_profiler", None)
    with pytest.raises(MissingExtra, match=r"hasten\[profile\]"):
        python.lines(outer, [outer])
