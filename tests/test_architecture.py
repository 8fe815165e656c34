"""The layers of DESIGN: imports go down only, the core stays free of what it must not know, nothing unpickles."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parent.parent / "src" / "hasten"
# High to low; what stands in one row does not import from the same row, but for a package's own modules.
LAYERS = (
    ("__main__",),
    ("cli",),
    ("commands",),
    ("story",),
    ("report",),
    ("result", "subject", "history", "verification"),
    ("distill",),
    ("train", "artifact", "propose"),
    ("measure", "technique"),
    ("runtime",),
    ("model",),
    ("diffusion", "search", "data"),
    ("environment",),
    ("guard", "gate"),
    ("files",),
    ("errors", "seeds"),
)
LEVEL = {name: len(LAYERS) - row for row, names in enumerate(LAYERS) for name in names}
MODULES = sorted(SRC.rglob("*.py"))


def part(path: Path) -> str:
    """The layer that a file belongs to."""
    relative = path.relative_to(SRC)
    return relative.parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Dotted names of everything that a file imports, at any depth of nesting, for type checkers only too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def parents(names: set[str]) -> set[str]:
    """The names, and what they are in: of ``from hasten.files import size`` the module is in the second."""
    return names | {name.rpartition(".")[0] for name in names}


def parts_of(names: set[str]) -> set[str]:
    """Which parts of hasten are among the names."""
    return {name.split(".")[1] for name in names if name.startswith("hasten.") and name.split(".")[1] in LEVEL}


def test_every_file_has_a_layer() -> None:
    unknown = {part(path) for path in MODULES} - set(LEVEL) - {"__init__"}
    assert not unknown, f"not in LAYERS: {unknown}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SRC)))
def test_imports_go_down(path: Path) -> None:
    mine = part(path)
    if mine == "__init__":
        return
    for other in parts_of(imported(path)):
        assert other == mine or LEVEL[other] < LEVEL[mine], f"{path.relative_to(SRC)} imports {other}"


def test_no_import_runs_in_a_circle() -> None:
    known = {".".join(("hasten", *path.relative_to(SRC).with_suffix("").parts)): path for path in MODULES}
    graph = {name: parents(imported(path)) & known.keys() - {name} for name, path in known.items()}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


@pytest.mark.parametrize("path", sorted((SRC / "train").glob("*/*.py")), ids=lambda path: str(path.relative_to(SRC)))
def test_the_folders_of_training_stand_under_the_files_beside_them(path: Path) -> None:
    beside = {f"hasten.train.{each.stem}" for each in (SRC / "train").glob("*.py") if each.stem != "__init__"}
    assert not parents(imported(path)) & beside


def test_messages_of_the_library_name_no_flags() -> None:
    """Who calls a function has arguments; what is run again by a command says so in ``again`` and on the pages."""
    told = ("cli.py", "again.py", "train_page.py", "environment.py")
    for path in MODULES:
        if part(path) == "commands" or path.name in told:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not re.search(r"(^|[ (\"'])--[a-z]", node.value), f"{path.relative_to(SRC)}: {node.value}"


@pytest.mark.parametrize("folder", ["search", "report"])
def test_no_torch(folder: str) -> None:
    for path in (SRC / folder).rglob("*.py"):
        assert not any(name.split(".")[0] in ("torch", "diffusers") for name in imported(path)), path


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SRC)))
def test_no_pickle_and_no_network(path: Path) -> None:
    banned = {"pickle", "dill", "joblib", "cloudpickle", "shelve", "marshal", "urllib", "requests", "http", "socket"}
    found = {name.split(".")[0] for name in imported(path)} & banned
    if path.name == "guard.py":
        found -= {"socket"}  # for the name of this host in a lock
    assert not found
    assert "torch.load(" not in path.read_text(encoding="utf-8")


def test_init_files_are_empty_but_the_top_one() -> None:
    assert all(not path.read_text() for path in SRC.rglob("__init__.py") if path.parent != SRC)


def test_help_needs_no_torch() -> None:
    code = "import sys; from hasten.cli import _exit_status, cli; "
    code += "_exit_status(lambda: cli.main(['--help'], standalone_mode=False), False); "
    code += "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_public_names_are_what_they_say_whatever_was_imported_before() -> None:
    """``hasten.data`` was a function until the package of that name was imported."""
    import hasten

    for name in hasten.__all__:
        assert callable(getattr(hasten, name)), name
    modules = {path.stem for path in Path(hasten.__file__).parent.iterdir() if not path.name.startswith("_")}
    assert not modules & set(hasten.__all__)
