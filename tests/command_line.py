"""The command line, run in this process."""

from __future__ import annotations

from pathlib import Path

from hasten import cli


def hasten(*arguments: str | Path) -> int:
    """Its exit status."""
    try:
        cli.main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)
    raise AssertionError("main() must exit")
