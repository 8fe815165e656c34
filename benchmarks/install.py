"""What installing hasten's core takes: bytes on disk and seconds to install, by package, one after the other.

    python benchmarks/install.py          # a few minutes; the result goes to benchmarks/results/install.json

Each package of the core's closure, at the version that is installed here, goes into an empty folder of its own, by pip
and without what it asks for.  The seconds hold what pip itself takes to start, and what the index and the disk take.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from hasten.environment import environment
from hasten.files import write_text

RESULT = Path(__file__).parent / "results" / "install.json"


def main() -> None:
    """Install, measure, write."""
    rows = []
    for name, version in sorted(core().items()):
        with tempfile.TemporaryDirectory() as folder:
            words = ["--quiet", "--disable-pip-version-check", "--no-deps", "--target", folder, f"{name}=={version}"]
            began = time.perf_counter()
            subprocess.run([sys.executable, "-m", "pip", "install", *words], check=True)
            seconds = time.perf_counter() - began
            taken = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        rows.append({"name": name, "version": version, "bytes": taken, "seconds": seconds})
        print(f"{name:24} {taken / 1e6:8.1f} MB {seconds:6.1f} s")
    write_text(RESULT, json.dumps({"rows": rows, "environment": environment()}, indent=1) + "\n")


def core() -> dict[str, str]:
    """Versions of all that hasten asks for without extras, and what that asks for."""
    found: dict[str, str] = {}
    names = ["hasten"]
    while names:
        name = re.sub(r"[-_.]+", "-", names.pop()).lower()
        try:
            package = distribution(name)
        except PackageNotFoundError:  # of another system
            continue
        if name not in found:
            found[name] = package.version.partition("+")[0]
            wanted = [r for r in package.requires or [] if "extra ==" not in r]
            names += [re.split(r"[^\w.-]", requirement, maxsplit=1)[0] for requirement in wanted]
    del found["hasten"]
    return found


if __name__ == "__main__":
    main()
