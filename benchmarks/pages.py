"""What of the documents is made of the code itself: a page a command, the map of the files, which results there are.

Imports nothing heavy; ``benchmarks/readme.py`` writes all of it.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from hasten.cli import cli

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
WIDTH = 90  # columns of a command's help
GUIDES = {
    **dict.fromkeys(("demo", "env"), ("getting-started", "Getting started")),
    **dict.fromkeys(("optimize", "apply", "verify", "sample"), ("optimise", "Optimise your model")),
    **dict.fromkeys(("train", "average", "report"), ("train", "Train")),
    **dict.fromkeys(("prune", "distill"), ("smaller", "Make it smaller")),
    **dict.fromkeys(("compare", "profile", "history"), ("compare", "Measure and compare")),
}
# What a processor has, the most telling first, by the flags of hasten.environment.
SETS = {
    "amx_int8": "AMX",
    "avx512_bf16": "AVX-512 BF16",
    "avx512_vnni": "AVX-512 VNNI",
    "avx512f": "AVX-512",
    "avx_vnni": "AVX-VNNI",
    "avx2": "AVX2",
    "sve": "SVE",
    "i8mm": "NEON I8MM",
    "asimd": "NEON",
}


def processor(environment: Mapping[str, Any]) -> str:
    """What kind of processor a figure is from: its name and its most telling instruction set."""
    name = " ".join(re.sub(r"\((R|TM)\)|\bProcessor\b|\bCPU\b", " ", environment["cpu"]).split())
    found = next((told for flag, told in SETS.items() if flag in environment["cpu_flags"]), "no vectors known")
    return f"{name}, {found}"


def machine(environment: Mapping[str, Any]) -> str:
    """The same with cores and GPU, for a sentence."""
    gpu = f", {environment['gpu']['name']}" if environment.get("gpu") else ""
    return f"{environment['cores']} cores of {processor(environment)}{gpu}"


def first_sentence(path: Path) -> str:
    """Of a module's docstring.  Raises SystemExit where there is none."""
    told = ast.get_docstring(ast.parse(path.read_text("utf-8")))
    if not told:
        raise SystemExit(f"{path.relative_to(ROOT)} has no docstring; say its one job in its first line")
    sentence = " ".join(re.split(r"(?<=[a-z)`\]\d]{2}[.?])\s+(?=[A-Z`])", told.split("\n\n")[0])[0].split())
    return sentence.replace("``", "`")


def file_map() -> str:
    """The files of ``src`` and ``benchmarks`` by folder, each with the first sentence of its docstring."""
    lines: list[str] = []
    for folder in sorted({path.parent for root in ("src", "benchmarks") for path in (ROOT / root).rglob("*.py")}):
        modules = [
            path for path in sorted(folder.glob("*.py")) if path.name != "__init__.py" or path.read_text("utf-8")
        ]
        if modules:
            lines += ["", f"## {folder.relative_to(ROOT).as_posix()}", ""]
            lines += [f"- `{path.name}`: {first_sentence(path)}" for path in modules]
    return "\n".join(lines[1:])


def layers() -> str:
    """The rows of LAYERS in tests/test_architecture.py, high to low."""
    tree = ast.parse((ROOT / "tests" / "test_architecture.py").read_text("utf-8"))
    rows = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "LAYERS"
    )
    return "```text\n" + "\n".join(", ".join(names) for names in rows) + "\n```"


def results() -> str:
    """Every file of raw results: what it answers, which command makes it, and on which machine it was made."""
    lines = ["| result | question | machine | code |", "| --- | --- | --- | --- |"]
    for path in sorted(RESULTS.glob("*.json")):
        read = json.loads(path.read_text("utf-8"))
        if path.stem == "demo":
            told, made = "The demo, by kind of processor.", [each["environment"] for each in read.values()]
        else:
            told, made = first_sentence(path.parent.parent / f"{path.stem}.py"), [read["environment"]]
        machines = "; ".join(machine(each) for each in made)
        commits = "; ".join(f"`{each['commit']}`" if each.get("commit") else "not recorded" for each in made)
        lines.append(f"| `{path.name}` | {told} | {machines} | {commits} |")
    return "\n".join(lines)


def commands() -> dict[str, str]:
    """The text of each command's page, by the command's name, and of ``index``, the list of them."""
    rows = ["| command | does |", "| --- | --- |"]
    pages = {}
    for name, command in cli.commands.items():
        guide, title = GUIDES[name]
        pages[name] = (
            f"# hasten {name}\n\n```text\n{_help(name, command)}\n```\n\nWhen to use it: [{title}](../{guide}.md).\n"
        )
        rows.append(f"| [`hasten {name}`]({name}.md) | {command.get_short_help_str(200)} |")
    whole = _help("", cli).partition("\n\nCommands:")[0]
    told = "A page a command, made from `--help` by `python benchmarks/readme.py`."
    exits = "\n".join(f"- {line}" for line in EXITS)
    pages["index"] = (
        f"# Commands\n\n{told}\n\n" + "\n".join(rows) + f"\n\n```text\n{whole}\n```\n\nExit status:\n\n{exits}\n"
    )
    return pages


EXITS = (
    "0: done.",
    "1: something failed; one line on standard error says what. `hasten --debug COMMAND` shows the traceback.",
    "2: what was asked for can't be done; one line says what, where, and what to do.",
    "3: no plan held the budget (`optimize`), or a condition of `--gate` does not hold (`compare`).",
    "4: the measurement can't tell whether a condition of `--gate` holds.",
    "130: stopped by Ctrl-C; what was written is whole, and `--resume` goes on.",
)


def _help(name: str, command: click.Command) -> str:
    parent = click.Context(cli, info_name="hasten", **cli.context_settings)
    context = click.Context(command, info_name=name, parent=parent) if name else parent
    context.terminal_width = context.max_content_width = WIDTH
    return "\n".join(line.rstrip() for line in command.get_help(context).splitlines())


def written() -> Iterator[tuple[Path, str]]:
    """The pages that are made as a whole: where each stands, and what is in it."""
    for name, text in commands().items():
        yield ROOT / "docs" / "commands" / f"{name}.md", text
