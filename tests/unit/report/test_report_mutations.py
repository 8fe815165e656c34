"""Run folders that are broken in all ways: one line that names the file, or a page; never another exception."""

from __future__ import annotations

import copy
import importlib.util
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hasten.errors import BadInput
from hasten.report import page, profile_page, train_page

MUTATIONS = 100
Write = Callable[[Path], Path]
WRITERS: dict[str, Write] = {
    "run.json": train_page.write,
    "metrics.jsonl": train_page.write,
    "result.json": page.write,
    "profile.json": profile_page.write,
}
WAYS = ("drop", "type", "null", "huge", "NaN", "nested", "truncated", "not UTF-8", "empty")
OTHER_TYPES: tuple[Any, ...] = ("text", 3, -2.5, True, [], {}, [[]], {"a": [1]})


def trained(folder: Path) -> Path:
    """A run of training, with few lines so that its charts are quickly drawn."""
    path = Path(__file__).with_name("test_train_page.py")
    spec = importlib.util.spec_from_file_location("train_page_example", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made: Path = module.run(folder, steps=12)
    return made


@pytest.fixture
def make(example: Any, tmp_path: Path) -> Callable[[str], Path]:
    """The folder whose file of that name is to be broken."""

    def made(name: str) -> Path:
        folder = tmp_path / "run"
        if name in ("run.json", "metrics.jsonl"):
            return trained(folder)
        if name == "result.json":
            few = {"observations": example.observations(1, 1), "candidates": example.candidates()[-2:]}
            return example.build(folder, {}, **few)  # type: ignore[no-any-return]
        folder.mkdir()
        (folder / name).write_text(json.dumps(example.profile()))
        return folder

    return made


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in ``value``."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    return [each for key in keys for each in ((value, key), *places(value[key]))]


def broken(text: bytes, way: str, rng: random.Random) -> bytes:
    """One JSON value, broken that way."""
    if way == "truncated":
        return text[: rng.randrange(1, len(text) - 1)]
    if way == "not UTF-8":
        at = rng.randrange(len(text))
        return text[:at] + b"\xff\xfe" + text[at:]
    if way == "empty":
        return rng.choice([b"", b"{}", b"[]", b"null", b" ", b"0"])
    value = copy.deepcopy(json.loads(text))
    container, key = rng.choice(places(value))
    if way == "drop":
        del container[key]
    elif way == "nested":
        container[key] = "@"
        deep = rng.choice([("[", "]"), ('{"a":', "}")])
        return json.dumps(value).replace('"@"', deep[0] * 2000 + "0" + deep[1] * 2000).encode()
    else:
        others = {"null": [None], "NaN": [float("nan"), float("inf")], "huge": [10**400, 1e300, -1e300, 2**63, -1]}
        container[key] = rng.choice(others.get(way, OTHER_TYPES))
    return json.dumps(value).encode()


@pytest.mark.parametrize("name", WRITERS)
def test_a_broken_file_is_bad_input_or_a_page(make: Callable[[str], Path], name: str) -> None:
    folder = make(name)
    write, path = WRITERS[name], folder / name
    whole = path.read_bytes()
    lines = whole.split(b"\n")
    said = []
    for number in range(MUTATIONS):
        way = WAYS[number % len(WAYS)]
        rng = random.Random(f"{name} {number}")
        if name == "metrics.jsonl":
            at = rng.randrange(len(lines) - 1)
            path.write_bytes(b"\n".join([*lines[:at], broken(lines[at], way, rng), *lines[at + 1 :]]))
        else:
            path.write_bytes(broken(whole, way, rng))
        try:
            write(folder)
        except BadInput as error:
            said.append(str(error))
        except Exception as error:
            raise AssertionError(f"mutation {number} ({way}) raised {error!r}") from error
        else:
            assert way not in ("nested", "truncated", "not UTF-8", "empty"), (number, way)
    assert len(said) >= MUTATIONS // 2
    assert [each for each in said if name not in each or not each.isprintable() or len(each) > 500] == []


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("run.json", "recipe.train.steps", "many"),
        ("run.json", "recipe.teacher", 3),
        ("run.json", "environment", None),
        ("metrics.jsonl", "step", "1"),
        ("result.json", "source.name", 3),
        ("result.json", "environment.gpu", "a gpu"),
        ("result.json", "version", True),
        ("profile.json", "modules.rows", []),
        ("profile.json", "steps.network_seconds", None),
    ],
)
def test_the_key_is_named(make: Callable[[str], Path], name: str, key: str, value: object) -> None:
    folder = make(name)
    path = folder / name
    first, *others = path.read_text().split("\n") if name == "metrics.jsonl" else [path.read_text()]
    found = json.loads(first)
    *outer, last = key.split(".")
    inner = found
    for each in outer:
        inner = inner[each]
    inner[last] = value
    path.write_text("\n".join([json.dumps(found), *others]))
    with pytest.raises(BadInput) as error:
        WRITERS[name](folder)
    assert f": {key}: " in str(error.value) or f": {key}." in str(error.value)


def test_an_empty_run_and_one_of_another_version(make: Callable[[str], Path]) -> None:
    folder = make("run.json")
    (folder / "run.json").write_text("{}")
    with pytest.raises(BadInput, match=r"run\.json can.t be read: recipe: Field required"):
        train_page.write(folder)
    (folder / "run.json").unlink()
    (folder / "metrics.jsonl").write_text("")
    with pytest.raises(BadInput, match=r"metrics\.jsonl is empty"):
        train_page.write(folder)
