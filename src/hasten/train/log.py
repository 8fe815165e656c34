"""The one writer of a run's figures: ``metrics.jsonl``, TensorBoard's events, and what the terminal shows.

A line is a JSON object: of steps, the means since the line before; or of an event (``"event"``: begin, resumed,
skipped, rewind, validation, checkpoint, sample, autotune, audit, end).  What is not finite is null.  Reading takes no
torch.
"""

from __future__ import annotations

import json
import math
import resource
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hasten.errors import BadInput, MissingExtra
from hasten.files import text_lines, write_text

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

NAME = "metrics.jsonl"
SHOWN = 50  # steps that the terminal's figures are means of


@dataclass(frozen=True)
class Figures:
    """One step that was done, its number ``step`` included; it learnt from ``batch`` of ``samples``.

    ``gradient_norm`` before clipping, ``clip_scale`` 1 where nothing was clipped; ``seconds`` of the whole step,
    ``waited_seconds`` of it for data, ``phases`` the seconds of its parts; ``skipped``: steps so far that were not.
    """

    step: int
    batch: int
    loss: float
    gradient_norm: float
    clip_scale: float
    learning_rate: float
    samples: int
    seconds: float
    waited_seconds: float
    phases: Mapping[str, float]
    skipped: int


@dataclass(frozen=True)
class Shown:
    """What a person watches, over the last steps; ``stall`` in [0, 1] is the share of time spent waiting for data."""

    step: int
    steps: int
    loss: float
    images_per_second: float
    stall: float
    memory_bytes: int
    gradient_norm: float
    learning_rate: float
    seconds_left: float


class Log:
    """Appends to ``metrics.jsonl`` in ``folder``, a line each ``every`` steps and one for each event.

    ``device`` is where memory is counted.  Raises MissingExtra for ``tensorboard`` without its package.
    """

    def __init__(self, folder: Path, steps: int, every: int, device: str, tensorboard: bool = False) -> None:
        self.path, self.steps, self.every, self.device = folder / NAME, steps, every, device
        self.file = self.path.open("a", encoding="utf-8")
        self.pending: list[Figures] = []
        self.other: dict[str, float] = {}
        self.recent: deque[tuple[Figures, float]] = deque(maxlen=SHOWN)
        self.before, self.began = 0.0, time.perf_counter()
        self.board = _board(folder / "tensorboard") if tensorboard else None

    def resume_(self, step: int) -> None:
        """Drop what was written after the checkpoint of ``step``; seconds go on from the last line that is kept."""
        lines = read(self.path)
        saved = [n for n, line in enumerate(lines) if line.get("event") == "checkpoint" and line["step"] == step]
        if saved:
            lines = lines[: saved[-1] + 1]
        else:  # it ended between the checkpoint and its line
            lines = [line for line in lines if line["step"] < step or (line["step"] == step and "event" not in line)]
        self.file.close()
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in lines))
        self.file = self.path.open("a", encoding="utf-8")
        self.before = max((line["seconds"] for line in lines if "event" not in line), default=0.0)

    @property
    def seconds(self) -> float:
        """Since the run began, without the time that it was stopped."""
        return self.before + time.perf_counter() - self.began

    def step(self, figures: Figures) -> Shown:
        """Take a step that was done."""
        self.pending.append(figures)
        self.recent.append((figures, time.perf_counter()))
        if figures.step % self.every == 0:
            self.flush()
        taken = [each.seconds for each, _ in self.recent]
        waited = sum(each.waited_seconds for each, _ in self.recent)
        # the time between steps counts too: validation, samples and checkpoints
        passed = self.recent[-1][1] - self.recent[0][1] + taken[0]
        each_seconds = passed / len(self.recent)
        return Shown(
            figures.step,
            self.steps,
            sum(each.loss for each, _ in self.recent) / len(self.recent),
            sum(each.samples for each, _ in self.recent) / sum(taken),
            waited / sum(taken),
            memory(self.device)[0],
            figures.gradient_norm,
            figures.learning_rate,
            each_seconds * (self.steps - figures.step),
        )

    def event(self, kind: str, step: int, batch: int, *, seconds: float = 0.0, **values: object) -> None:
        """Write that something happened after ``step`` steps; the ``seconds`` it took count as a phase of its own."""
        if seconds:
            self.other[kind] = self.other.get(kind, 0.0) + seconds
        self.flush()
        line = {"event": kind, "step": step, "batch": batch, "seconds": self.seconds, "took_seconds": seconds}
        self._write({**line, **values})
        if self.board is not None and kind == "validation":
            for name in ("loss", "distance"):
                if isinstance(value := values.get(name), float):
                    self.board.add_scalar(f"validation/{name}", value, step)

    def image(self, step: int, path: Path) -> None:
        """Show a grid of samples in TensorBoard."""
        if self.board is not None:
            import numpy as np
            from PIL import Image

            with Image.open(path) as image:
                self.board.add_image("samples", np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def flush(self) -> None:
        """Write the steps since the last line."""
        if not self.pending:
            return
        steps, last = self.pending, self.pending[-1]
        total = sum(each.seconds for each in steps)
        now, peak = memory(self.device)
        phases = {name: sum(each.phases.get(name, 0.0) for each in steps) for name in last.phases}
        line: dict[str, Any] = {
            "step": last.step,
            "batch": last.batch,
            "loss": sum(each.loss for each in steps) / len(steps),
            "gradient_norm": sum(each.gradient_norm for each in steps) / len(steps),
            "clip_scale": sum(each.clip_scale for each in steps) / len(steps),
            "learning_rate": last.learning_rate,
            "images_per_second": sum(each.samples for each in steps) / total,
            "stall": sum(each.waited_seconds for each in steps) / total,
            "memory_bytes": now,
            "peak_bytes": peak,
            "seconds": self.seconds,
            "skipped": last.skipped,
            "phases": {**phases, **self.other},
        }
        self.pending, self.other = [], {}
        self._write(line)
        if self.board is not None:
            for name, value in line.items():
                if isinstance(value, int | float) and name not in ("step", "batch"):
                    self.board.add_scalar(f"train/{name}", value, last.step)

    def close(self) -> None:
        """Write what is left, and let go of the files."""
        self.flush()
        self.file.close()
        if self.board is not None:
            self.board.close()

    def _write(self, line: Mapping[str, Any]) -> None:
        self.file.write(json.dumps(_finite(line), allow_nan=False) + "\n")
        self.file.flush()


def read(path: Path) -> list[dict[str, Any]]:
    """All lines; the last one may be torn, by a kill in the middle, and is then left out.

    Raises BadInput for another line that is no JSON object with a step.
    """
    lines = []
    for number, each in enumerate(text_lines(path), 1):
        try:
            if each.endswith("\n"):
                line = json.loads(each)
                lines.append({**line, "step": int(line["step"])})
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise BadInput(f"{path}, line {number}: no figures of a run ({error}); restore the file") from error
    return lines


def memory(device: str) -> tuple[int, int]:
    """Bytes in use now and at most: torch's own on a GPU, else those of this process in memory."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device)
    try:  # not ru_maxrss, which begins at the peak of the process that started this one
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:  # no Linux
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return peak, peak
    found = dict(line.split(":", 1) for line in status.splitlines())
    now, peak = (int(found[key].split()[0]) * 1024 for key in ("VmRSS", "VmHWM"))
    return now, max(peak, now)  # the system counts the peak now and then only


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list | tuple) else value


def _board(folder: Path) -> SummaryWriter:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtra("tensorboard", "tensorboard") from error
    return SummaryWriter(str(folder))
