"""Write constraints.txt: each package installed here for hasten and its extras, with the hashes of all its files.

    .venv/bin/python .ci/lock.py

The hashes are what pip's index says today, for every system and Python, so that an install tomorrow is this one or
fails.  torch is left out: which build is the right one depends on the machine, and its index need not be pip's.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from pip._internal.models.index import PyPI

OUTSIDE = {"torch", "hasten", "pip", "setuptools"}  # setuptools comes with torch, whose bounds it has to meet
BUILDS = ["hatchling", "editables"]  # what installs hasten itself
APART, EXTRA = (
    {"bench", "docs"},
    re.compile(r"extra == ['\"]([^'\"]+)"),
)  # extras that are installed by their own commands


def main() -> None:
    index = pip_says("global.index-url") or PyPI.simple_url
    lines = ["# Versions that hasten is tested with, and hashes; written by .ci/lock.py, installed by make."]
    for name, version in sorted(closure(["hasten", *BUILDS]).items()):
        if name not in OUTSIDE:
            found = hashes(index, name, version)
            lines.append(" \\\n".join([f"{name}=={version}", *(f"    --hash=sha256:{each}" for each in found)]))
    Path("constraints.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def closure(names: list[str]) -> dict[str, str]:
    """Versions of everything installed that these ask for, hasten's extras included."""
    found: dict[str, str] = {}
    while names:
        name = re.sub(r"[-_.]+", "-", names.pop()).lower()
        if name in found:
            continue
        try:
            package = distribution(name)
        except PackageNotFoundError:  # of another system, or of an extra that nobody asked for
            continue
        found[name] = package.version.partition("+")[0]
        asked = [
            r
            for r in package.requires or []
            if "extra ==" not in r or (name == "hasten" and not set(EXTRA.findall(r)) & APART)
        ]
        names += [re.split(r"[^\w.-]", requirement, maxsplit=1)[0] for requirement in asked]
    return found


def hashes(index: str, name: str, version: str) -> list[str]:
    """SHA-256 of every file of a version (PEP 691)."""
    request = urllib.request.Request(  # noqa: S310
        f"{index.rstrip('/')}/{name}/", headers={"Accept": "application/vnd.pypi.simple.v1+json"}
    )
    with urllib.request.urlopen(request) as answer:  # noqa: S310
        files = json.load(answer)["files"]
    stem = re.compile(rf"{re.sub('-', '[-_.]+', name)}-{re.escape(version)}(-|\.tar\.gz$|\.zip$)", re.IGNORECASE)
    found = sorted({file["hashes"]["sha256"] for file in files if stem.match(file["filename"])})
    if not found:
        sys.exit(f"{name} {version}: the index has no file of it")
    return found


def pip_says(key: str) -> str:
    """pip's own setting, empty where there is none."""
    asked = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", key], capture_output=True, text=True, check=False
    )
    return asked.stdout.strip()


if __name__ == "__main__":
    main()
