"""What a person sees of training in the terminal: where a run is, and what a step would take.

Progress is silent when standard error is no terminal.  Imports no torch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hasten.files import size
from hasten.report.terminal import WIDTH, bar, clock, plain
from hasten.train.log import Shown

if TYPE_CHECKING:  # it imports torch
    from hasten.train.forecast import Row


@contextmanager
def training() -> Iterator[tuple[Callable[[Shown], None], Callable[[str], None]]]:
    """Two lines on where a run is, and how to print a warning without breaking them."""
    from rich.console import Console

    console = Console(stderr=True)

    def warn(line: str) -> None:
        console.print(plain(f"warning: {line}"), markup=False, highlight=False, soft_wrap=True)

    if not sys.stderr.isatty():
        yield (lambda shown: None), warn
        return
    from rich.live import Live
    from rich.text import Text

    with Live(console=console, refresh_per_second=4) as live:

        def report(shown: Shown) -> None:
            live.update(Text(training_lines(shown, min(console.width, WIDTH))))

        yield report, warn


def training_lines(shown: Shown, width: int = WIDTH) -> str:
    """A bar of the steps with the time left, and the last steps' figures, in two lines of at most ``width``."""
    count = f"{shown.step:,} of {shown.steps:,}"
    left = f"{clock(shown.seconds_left)} left"
    room = max(width - len(count) - len(left) - 11, 5)
    figures = (
        f"loss {shown.loss:.4g}",
        f"{shown.images_per_second:.3g} images/s",
        f"stall {shown.stall:.0%}",
        size(shown.memory_bytes),
        f"grad {shown.gradient_norm:.2g}",
        f"lr {shown.learning_rate:.2g}",
    )
    return f"train  {bar(shown.step, shown.steps, room)}  {count}  {left}\n{'  '.join(figures)}"


def step_table(rows: Sequence[Row]) -> str:
    """What a training step takes by choice, predicted and as it ran, in at most 80 columns."""
    lines = [f"{'':<39}{'peak MB':>9}{'as run':>8}{'off':>6}{'step s':>9}{'as run':>9}"]
    for row in rows:
        line = f"{row.label:<39}{row.peak_bytes / 1e6:>9,.0f}"
        if row.measured is None or row.off is None:
            lines.append(f"{line}{'':>14}{row.seconds:>9.3g}")
        else:
            peak = row.measured.peak_bytes / 1e6
            lines.append(f"{line}{peak:>8,.0f}{row.off:>+6.0%}{row.seconds:>9.3g}{row.measured.seconds:>9.3g}")
    before = [row.measured.before_bytes for row in rows if row.measured is not None]
    if before:
        lines.append(f"over the {size(max(before))} that the process held with libraries and data")
    return "\n".join(lines)
