"""README and docs: every block of code runs, or is parsed by the command that it names, or says why not.

A page's blocks run in order, in a folder with a tiny ``my_model`` and ``my_pictures``.  What takes minutes has a
stand-in that leaves the same files: ``optimize`` saves an artifact without a search.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from command_line import hasten as run
from PIL import Image

import hasten
from hasten.cli import cli
from hasten.technique import plan as plans
from hasten.train import recipe

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MARKER = re.compile(r"<!-- not run: .{10,} -->")
NOT_RUN = 2  # blocks of all pages that say that they aren't; no more without a good reason
# Parsed alone: they take minutes, or measure in processes of their own.
PARSED = {"demo", "optimize", "distill", "compare"}
PARSED_OPTIONS = {"--plan", "--sparsity"}
SHELL = {"python -m venv .venv", ". .venv/bin/activate", "mkdocs build --strict"}
SMALLER = {"size=32": "size=8", "rounds=9, images=4, seconds=60": 'rounds=2, kind="step"'}
RECIPE = """\
data = { name = "folder", path = "my_pictures", size = 8 }
model = { block_out_channels = [8, 16], attention_levels = [1], attention_head_dim = 8 }
train = { steps = 6, batch_size = 4, warmup_steps = 2, checkpoint_every = 3, sample_every = 6 }
"""


@dataclass(frozen=True)
class Block:
    """A fenced block: where it stands, its language, whether it is made by a command, and whether it says why not."""

    page: Path
    line: int
    language: str
    text: str
    made: bool
    excused: bool

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}, line {self.line}"


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page."""
    found, made, lines = [], page.parent.name == "commands", page.read_text(encoding="utf-8").splitlines()
    inside: list[str] | None = None
    for number, line in enumerate(lines):
        if line.startswith("```"):
            if inside is None:
                inside, start = [], number
                continue
            excused = bool(start and MARKER.fullmatch(lines[start - 1]))
            found.append(Block(page, start + 1, lines[start][3:], "\n".join(inside), made, excused))
            inside = None
        elif inside is not None:
            inside.append(line)
        elif mark := re.fullmatch(r"<!-- (/?)[a-z]+ -->", line):
            made = not mark[1]
    assert inside is None, f"{page} ends inside a block"
    return found


BLOCKS = [block for page in PAGES for block in blocks(page)]


def test_every_block_runs_is_made_or_says_why_not() -> None:
    for block in BLOCKS:
        assert block.language in ("bash", "python", "toml", "text"), block
        assert block.language != "text" or block.made or block.excused, f"{block}: text is made by a command"
    assert sum(block.excused for block in BLOCKS) == NOT_RUN
    assert sum(block.language in ("bash", "python", "toml") for block in BLOCKS) > 30


def stand_in(source: Any, data: Any = None, *, out: Path | str, **options: Any) -> dict[str, Any]:
    """What ``optimize`` takes, leaves and returns, without its search; the figures are the last demo's."""
    from hasten import artifact
    from hasten.story.optimize import optimize

    inspect.signature(optimize).bind(source, data, out=out, **options)
    assert data is None or data.shape == source.shape
    plan = plans.parse('version = 1\ntechniques = [{ technique = "sampler", solver = "deis", steps = 4 }]')
    demos = json.loads((ROOT / "benchmarks" / "results" / "demo.json").read_text())
    result: dict[str, Any] = max(demos.values(), key=lambda each: each["created"])
    out = Path(out)
    artifact.save(out / "artifact", source, plan)
    plans.write(plan, out / "plan.toml")
    (out / "result.json").write_text(json.dumps(result))
    return result


@pytest.fixture
def world(tmp_path: Path, other_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where a page's commands are run: a model, pictures, a run of optimize, and the demo's."""
    monkeypatch.setenv("HASTEN_HISTORY", str(tmp_path / "history.jsonl"))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(other_folder, "my_model")
    rng = np.random.default_rng(0)
    for number in range(64):
        path = Path("my_pictures", str(number % 2), f"{number}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(path)
    Path("recipe.toml").write_text(RECIPE)
    return tmp_path


def command(line: str) -> None:
    """Run a command line of a page for real, or have its command parse it."""
    words = shlex.split(line, comments=True)
    if not words or " ".join(words) in SHELL:
        return
    match words:
        case ["ls", *paths]:
            subprocess.run(["ls", *paths], check=True, capture_output=True)
        case ["make", target]:
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), line
        case ["pip", "install", what]:
            extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            assert what == "." or re.fullmatch(r"\.\[(.+)\]", what)[1] in extras, line
        case ["hasten", "--help"]:
            assert run("--help") == 0
        case ["hasten", name, *arguments]:
            whole = click.Context(cli, info_name="hasten", **cli.context_settings)
            context = cli.commands[name].make_context(name, list(arguments), parent=whole)
            if name not in PARSED and not PARSED_OPTIONS & set(arguments):
                assert run(name, *arguments) == 0, line
                if name == "train":
                    run_holds_what_is_told(Path(str(context.params["out"])))
            elif name == "optimize" and not context.params["resume"]:
                source = hasten.load(context.params["source"])
                stand_in(source, out=context.params["out"])
        case _:
            raise AssertionError(f"{line!r}: not known to this test")


def run_holds_what_is_told(out: Path) -> None:
    """docs/train.md's table of what a run's folder holds, but for what the recipe must ask for."""
    part = (ROOT / "docs" / "train.md").read_text().partition("## What a run's folder holds")[2].partition("## ")[0]
    rows = re.findall(r"^\| `(.+?)/?` \| (.+) \|$", part, re.MULTILINE)
    assert len(rows) > 5
    assert all(list(out.glob(name)) for name, told in rows if ", with `" not in told)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_runs(page: Path, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All its blocks, one after the other."""
    mine = [block for block in BLOCKS if block.page == page and not block.excused and block.language != "text"]
    if any("runs/mine" in block.text or "runs/demo" in block.text for block in mine) and page.name != "README.md":
        stand_in(hasten.load("my_model"), out="runs/mine")
        shutil.copytree("runs/mine", "runs/demo")
    monkeypatch.setattr(hasten, "optimize", stand_in, raising=False)
    monkeypatch.setattr("hasten.story.compare.peak_memory", lambda *_: [None, None])  # two processes
    names: dict[str, Any] = {"__name__": "page"}
    for block in mine:
        text = block.text
        if block.language == "python":
            for long, short in SMALLER.items():
                text = text.replace(long, short)
            exec(compile(text, str(block), "exec"), names)
        elif block.language == "bash":
            for line in text.replace("\\\n", " ").splitlines():
                command(line)
        elif "[train]" in text:
            recipe.check(tomllib.loads(text), text, str(block))
        else:
            plans.build(hasten.load("my_model"), plans.parse(text))


def test_a_wrong_option_is_found(world: Path) -> None:
    """The test itself: what the command line would refuse fails here."""
    with pytest.raises(click.UsageError):
        command("hasten optimize my_model --fast --out runs/x")
    with pytest.raises(KeyError):
        command("hasten optimise my_model --out runs/x")
    with pytest.raises(AssertionError):
        command("pip install '.[everything]'")


def anchors(page: Path) -> set[str]:
    """What a link can point to within a page: its headings, as code hosts and mkdocs name them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^a-z0-9_ -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_are_relative_and_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        there = (page.parent / path) if path else page
        assert there.is_file(), f"{page.name}: {target}"
        assert page.name == "README.md" or (ROOT / "docs") in there.resolve().parents, f"{target} leaves the site"
        assert not anchor or anchor in anchors(there), f"{page.name}: {target}"


def test_readme_is_two_screens() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 100


def test_the_site_lists_every_page() -> None:
    """Each once, those of commands too."""
    listed = re.findall(r"^ +- (?:[^:\n]+: )?(\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(page.relative_to(ROOT / "docs").as_posix() for page in PAGES[1:])


def test_a_recipes_keys_are_all_told() -> None:
    """docs/train.md names each, in the table of its section."""
    parts = re.split(r"^### \[(\w+)\]$", (ROOT / "docs" / "train.md").read_text(), flags=re.MULTILINE)
    told = dict(zip(parts[1::2], parts[2::2], strict=True))
    sections = {"data": recipe.DataSection, "model": recipe.ModelSection, "train": recipe.TrainSection}
    for name, section in {**sections, "teacher": recipe.TeacherSection}.items():
        keys = {
            key for row in re.findall(r"^\| (`.+?) \|", told[name], re.MULTILINE) for key in re.findall("`(.+?)`", row)
        }
        assert keys == set(section.model_fields), name


def test_techniques_are_all_told() -> None:
    told = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "optimise.md").read_text(), re.MULTILINE))
    assert {technique.name for technique in plans.TECHNIQUES} <= told


def test_functions_of_many_parameters_are_told() -> None:
    """docs/design.md says of each why it has more than eight."""
    many = set()
    for path in (ROOT / "src" / "hasten").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                given = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
                if len([each for each in given if each.arg not in ("self", "cls")]) > 8:
                    many.add(f"{path.relative_to(ROOT / 'src' / 'hasten').as_posix()}: {node.name}")
    told = re.findall(r"^\| `(\S+\.py: \w+)` \|", (ROOT / "docs" / "design.md").read_text(), re.MULTILINE)
    assert many == set(told)
