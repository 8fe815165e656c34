"""The terminal itself: progress on standard error, and text that fits it and does nothing to it.

Progress is silent when standard error is no terminal.  Imports no torch.
"""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

WIDTH, BAR = 80, 20
Report = Callable[[str, str, float], None]


def plain(text: str, keep: str = "") -> str:
    """``text`` with all that a terminal would act on, or can't show, escaped: control codes, and a name's odd bytes."""
    return "".join(c if c.isprintable() or c in keep else ascii(c)[1:-1] for c in text)


def filled(line: str) -> str:
    """``line`` as it is where it fits, else broken at words."""
    return line if len(line) <= WIDTH else textwrap.fill(line, WIDTH, subsequent_indent=" " * 12)


@contextmanager
def progress() -> Iterator[Report]:
    """A line that says phase, what is being tried, time used and time left."""
    if not sys.stderr.isatty():
        yield lambda phase, detail, left: None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.table import Column

    columns = (
        SpinnerColumn(),
        TextColumn("{task.fields[phase]:<10}"),
        TimeElapsedColumn(),
        TextColumn(
            "{task.fields[detail]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)
        ),  # it alone gives way where the line is too long
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, expand=True) as display:
        task = display.add_task("", phase="start", detail="")

        def report(phase: str, detail: str, left: float) -> None:
            shown = f"{clock(left)} left  {detail}" if left else detail
            display.update(task, phase=phase, detail=plain(shown))

        yield report


def counted(report: Report, phase: str) -> Callable[[str, int, int], None]:
    """``tell(what, done, of)`` that shows a bar with the time left, by what was done since it was at none."""
    began = time.perf_counter()

    def tell(what: str, done: int, of: int) -> None:
        nonlocal began
        if not done:
            began = time.perf_counter()
        left = (time.perf_counter() - began) * (of - done) / done if done else 0.0
        report(phase, f"{bar(done, of, BAR)}  {done} of {of}  {what}", left)

    return tell


def bar(done: int, of: int, width: int) -> str:
    """``width`` characters, as many of them heavy as ``done`` is of ``of``."""
    heavy = width * done // of
    return "\u2501" * heavy + "\u2500" * (width - heavy)


def clock(seconds: float) -> str:
    """``4:05`` or ``1:02:30``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
