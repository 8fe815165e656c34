"""Whether a folder of 100,000 pictures works as well as one of 1,000: decoding, opening, batches, memory, waiting.

    python benchmarks/data.py [--files 1000 100000] [--folder DIR]

The pictures are the emoji drawings at 32x32, written as JPEG files in ten sub-folders (each time that the drawings are
used up, at another quality), in a temporary folder or in DIR, where they are found again.  Each figure comes from a
process of its own, with one thread for torch and an empty cache of its own where it decodes; memory is the peak beyond
what the imports took, and `private` the part of it that is not mapped from the cache's file, which the system can
take back.  Waiting is the share of the time that a consumer, who takes 50 ms a batch, waits for the next one: one that
sleeps meanwhile (as if a GPU worked) and one that computes.  Prints a Markdown table and writes
benchmarks/results/data.json.  Run nothing else meanwhile.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hasten.environment import environment
from hasten.files import size, write_text

RESULTS = Path(__file__).parent / "results" / "data.json"
SIZE, BATCH, STEP_SECONDS, STEPS = 32, 64, 0.05, 60
QUALITIES = (95, 90, 85, 80, 75, 70, 65, 60, 55, 50, 45, 40, 35, 30, 25, 20, 15, 10, 8, 6, 4, 3, 2)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--files", type=int, nargs="+", default=[1_000, 100_000])
    arguments.add_argument("--folder", type=Path)
    arguments.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.one:
        print(json.dumps(MEASURES[given.one[0]](Path(given.one[1]))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        rows = [row(count, write(count, given.folder or Path(temporary)), temporary) for count in given.files]
    result = {"batch": BATCH, "rows": rows, "environment": environment()}
    print(table(result))
    write_text(RESULTS, json.dumps(result, indent=1) + "\n")


def table(result: dict[str, Any]) -> str:
    """The figures in Markdown, a column a folder."""
    rows = result["rows"]
    lines = ["| | " + " | ".join(f"{r['files']:,} pictures" for r in rows) + " |", "| --- |" + " ---: |" * len(rows)]
    lines += [f"| {label} | " + " | ".join(figure(r) for r in rows) + " |" for label, figure in FIGURES.items()]
    return "\n".join(lines)


def write(count: int, where: Path) -> Path:
    """So many JPEG files, unless they are there."""
    from PIL import Image

    from hasten.data import emoji

    folder = where / f"pictures-{count}"
    if folder.exists():
        return folder
    unfinished = where / f"unfinished-{count}"
    drawings = emoji.load(SIZE).samples
    for n in range(10):
        (unfinished / str(n)).mkdir(parents=True, exist_ok=True)
    for i in range(count):
        again, which = divmod(i, len(drawings))
        image = Image.fromarray(drawings[which].transpose(1, 2, 0))
        image.save(unfinished / str(i % 10) / f"{i:06}.jpg", quality=QUALITIES[again])
    return unfinished.rename(folder)


def row(count: int, folder: Path, temporary: str) -> dict[str, Any]:
    """All figures of one folder."""
    cache = {"HASTEN_CACHE": str(Path(temporary, f"cache-{count}")), "OMP_NUM_THREADS": "1"}
    found: dict[str, Any] = {"files": count}
    for name in MEASURES:
        line = [sys.executable, __file__, "--one", name, str(folder)]
        done = subprocess.run(line, env={**os.environ, **cache}, capture_output=True, text=True, check=True)
        found[name] = json.loads(done.stdout)
        print(f"{count} {name} {found[name]}", file=sys.stderr, flush=True)
    return found


def resident() -> tuple[int, int]:
    """Bytes in memory now: all, and those that are private."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    rss, private = (int(re.search(rf"{key}:\s+(\d+) kB", status)[1]) * 1024 for key in ("VmRSS", "RssAnon"))
    return rss, private


def measured(call: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``call`` says, its seconds, and the peaks of memory meanwhile, looked at every 2 ms."""
    before, peaks, ended = resident(), [resident()], threading.Event()

    def watch() -> None:
        while not ended.wait(0.002):
            peaks.append(resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.perf_counter()
    try:
        found = call()
    finally:
        seconds = time.perf_counter() - began
        ended.set()
        watcher.join()
    names = ("peak_bytes", "private_bytes")
    return {
        "seconds": seconds,
        **{name: max(peak[n] for peak in peaks) - before[n] for n, name in enumerate(names)},
        **found,
    }


def opening(folder: Path) -> dict[str, Any]:
    """The first call decodes, the second finds the cache."""
    from hasten.data import folder as folders
    from hasten.data import picture  # noqa: F401 (imports are no part of the figure)

    found = measured(lambda: {"samples": len(folders.load(folder, SIZE).samples)})
    began = time.perf_counter()
    list(folders._pictures(folder))
    return {**found, "listing_seconds": time.perf_counter() - began}


def loader(folder: Path, workers: int, **options: Any) -> Any:
    """A loader over the cached folder, with torch at one thread."""
    import torch

    from hasten.data.augment import Augment
    from hasten.data.folder import load
    from hasten.data.loader import Loader

    torch.set_num_threads(1)
    augment = Augment(flip=True, shift=2) if options.get("augment") else None
    return Loader(load(folder, SIZE), BATCH, seed=0, workers=workers, augment=augment)


def reading(workers: int, augment: bool = False) -> Callable[[Path], dict[str, Any]]:
    """Batches as fast as they come: a whole epoch, and 200 batches at least."""

    def measure(folder: Path) -> dict[str, Any]:
        made = loader(folder, workers, augment=augment)
        made.batch(0)

        def read() -> dict[str, Any]:
            batches = max(200, made.batches_per_epoch)
            with made.from_(0) as stream:
                for _ in itertools.islice(stream, batches):
                    pass
            return {"batches": batches}

        found = measured(read)
        return {**found, "batches_per_second": found["batches"] / found["seconds"]}

    return measure


def waiting(workers: int, computes: bool) -> Callable[[Path], dict[str, Any]]:
    """A consumer that takes 50 ms a batch."""

    def measure(folder: Path) -> dict[str, Any]:
        import torch

        made = loader(folder, workers)
        a = torch.ones(128, 128)

        def consume() -> None:
            if not computes:
                time.sleep(STEP_SECONDS)
                return
            ends = time.perf_counter() + STEP_SECONDS
            while time.perf_counter() < ends:
                torch.mm(a, a)

        def run() -> dict[str, Any]:
            waited = 0.0
            with made.from_(0) as stream:
                for batch in itertools.islice(stream, STEPS):
                    waited += batch.waited_seconds
                    consume()
            return {"waited_seconds": waited}

        found = measured(run)
        return {**found, "waiting_share": found["waited_seconds"] / found["seconds"]}

    return measure


MEASURES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "decode": opening,
    "open": opening,
    "read, 0 workers": reading(0),
    "read, 2 workers": reading(2),
    "augmented, 0 workers": reading(0, augment=True),
    "augmented, 2 workers": reading(2, augment=True),
    **{
        f"wait, {kind}, {workers} workers": waiting(workers, kind == "computes")
        for kind in ("sleeps", "computes")
        for workers in (0, 2)
    },
}


def memory(name: str) -> Callable[[dict[str, Any]], str]:
    return lambda r: f"{size(r[name]['peak_bytes'])}, {size(r[name]['private_bytes'])} private"


FIGURES: dict[str, Callable[[dict[str, Any]], str]] = {
    "decode once": lambda r: f"{r['decode']['seconds']:.2f} s ({r['files'] / r['decode']['seconds']:,.0f}/s)",
    "open again": lambda r: f"{r['open']['seconds']:.3f} s",
    "of that, listing": lambda r: f"{r['open']['listing_seconds']:.3f} s",
    **{
        f"batches of {BATCH} a second, {name}": (lambda r, name=name: f"{r[name]['batches_per_second']:,.0f}")
        for name in MEASURES
        if name.startswith(("read", "augmented"))
    },
    "peak memory, decode": memory("decode"),
    "peak memory, open": memory("open"),
    "peak memory, read an epoch": memory("read, 0 workers"),
    "peak memory, read an epoch, 2 workers": memory("read, 2 workers"),
    **{
        f"waiting at 50 ms a batch, {name.removeprefix('wait, ')}": (
            lambda r, name=name: f"{r[name]['waiting_share']:.2%}"
        )
        for name in MEASURES
        if name.startswith("wait")
    },
}

if __name__ == "__main__":
    main()
