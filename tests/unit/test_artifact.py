"""An artifact that is not what hasten wrote is never called verified, and says in one line what is wrong.

Whoever changes a file can change hashes.json to match, so most cases here do.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hasten import artifact, verification
from hasten.diffusion.schedule import cosine
from hasten.errors import BadInput
from hasten.files import sha256
from hasten.model import source as sources
from hasten.technique.plan import Plan
from hasten.technique.runtime import Runtime
from hasten.technique.sampler import Sampler

QUICK = Sampler("ddim", 2, "uniform")
REFERENCE = "reference.safetensors"


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HASTEN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def whole(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return artifact.save(tmp_path_factory.mktemp("whole") / "a", sources.load(tiny_folder), Plan((QUICK,)))


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(whole, tmp_path / "a"))


def rehash(folder: Path) -> None:
    """Make hashes.json fit what is there."""
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != "hashes.json"]
    (folder / "hashes.json").write_text(json.dumps({p.relative_to(folder).as_posix(): sha256(p) for p in files}))


def edit(folder: Path, change: Callable[[dict[str, Any]], Any], name: str = "artifact.json") -> None:
    """Change a JSON file, and hashes.json with it."""
    value = json.loads((folder / name).read_text())
    change(value)
    (folder / name).write_text(json.dumps(value))
    if name != "hashes.json":
        rehash(folder)


def refusal(call: Callable[[], Any]) -> str:
    """The one line that ``call`` is refused with."""
    with pytest.raises(BadInput) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 600
    return text


def test_whole_is_verified(folder: Path) -> None:
    found = verification.verify(folder)
    assert (found.problems, found.differences, found.agreement_db) == ((), (), verification.SAME_DB)


def spoiled(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> tuple[str, ...]:
    """What verify says of a reference that ``change`` made."""
    tensors = load_file(folder / REFERENCE)
    change(tensors)
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / REFERENCE)
    rehash(folder)
    return verification.verify(folder).problems


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.update({k: v * 0 for k, v in t.items()}), "noise is not what the seed draws"),
        (lambda t: t["noise"].neg_(), "noise is not what the seed draws"),
        (lambda t: t["noise"][0].fill_(torch.nan), "noise is not what the seed draws"),
        (lambda t: t["labels"].fill_(3), "labels are not what the seed draws"),
        (lambda t: t["samples"].zero_(), "all zero"),
        (lambda t: t["samples"].fill_(torch.nan), "NaN or Inf"),
        (lambda t: t["samples"][0, 0, 0].fill_(torch.inf), "NaN or Inf"),
        (lambda t: t["samples"].mul_(1.1), "the limit is 40 dB"),
        (lambda t: t["samples"].mul_(1e-30), "the limit is 40 dB"),
        (lambda t: t.update(samples=t["samples"][:2]), "'samples' must be F32 (4, 1, 8, 8), and is F32 (2, 1, 8, 8)"),
        (lambda t: t.update(samples=t["samples"].double()), "and is F64"),
        (lambda t: t.update(noise=t["noise"][:, :, :4]), "'noise' must be F32"),
        (lambda t: t.update(labels=t["labels"].float()), "'labels' must be I64"),
        (lambda t: t.update(labels=t["labels"][:1]), "'labels' must be I64 (4,)"),
        (lambda t: t.update(labels=t["labels"] + 10**9), "labels are not what the seed draws"),
        (lambda t: t.pop("labels"), "is nothing"),
        (lambda t: t.pop("samples"), "is nothing"),
        (lambda t: t.update(more=torch.ones(2)), "'more' must be nothing"),
        (lambda t: t.clear(), "is nothing"),
    ],
)
def test_the_reference_itself_is_checked(folder: Path, change: Callable[[Any], Any], words: str) -> None:
    problems = spoiled(folder, change)
    assert len(problems) == 1
    assert words in problems[0]
    assert "\n" not in problems[0]


@pytest.mark.parametrize("content", [b"", b"\0" * 8, b"\0" * 1000, b"x" * 1000, b"\xff" * 8])
def test_a_reference_that_is_no_safetensors_file(folder: Path, content: bytes) -> None:
    (folder / REFERENCE).write_bytes(content)
    rehash(folder)
    assert len(verification.verify(folder).problems) == 1


def test_noise_of_another_processor_is_taken(folder: Path) -> None:
    def other_rounding(tensors: dict[str, torch.Tensor]) -> None:
        tensors["noise"] += 5e-7

    assert spoiled(folder, other_rounding) == ()


def test_outputs_that_are_nan_are_no_agreement(
    tiny_folder: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "hasten.model.target.Target.sample", lambda self, case: torch.full_like(case.noise, float("nan"))
    )
    assert verification.verify(folder).problems == ("reference outputs hold NaN or Inf",)
    made = folder.parent / "nan"
    assert "hold NaN or Inf" in refusal(lambda: artifact.save(made, sources.load(tiny_folder), Plan((QUICK,))))
    assert sorted(path.name for path in folder.parent.iterdir()) == ["a"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a.clear(), "artifact version None"),
        (lambda a: a.update(version=2), "artifact version 2, this hasten reads 1"),
        (lambda a: a.update(version=True), "artifact version True"),
        (lambda a: a.update(version=[1]), "artifact version [1]"),
        (lambda a: a.pop("environment"), "environment is missing"),
        (lambda a: a.pop("weight_hash"), "weight_hash is missing"),
        (lambda a: a.pop("guidance"), "guidance is missing"),
        (lambda a: a.update(guidence=2.0), "did you mean 'guidance'"),
        (lambda a: a.update(guidance="2"), "guidance = '2'"),
        (lambda a: a.update(guidance=float("nan")), "guidance = nan"),
        (lambda a: a.update(weight_hash=7), "weight_hash = 7"),
        (lambda a: a.update(weight_hash="../" * 20), "weight_hash = "),
        (lambda a: a.update(plan_hash=""), "plan_hash = ''"),
        (lambda a: a.update(has_source="no"), "has_source = 'no'"),
        (lambda a: a.update(label="fast"), "label = 'fast'"),
        (lambda a: a.update(environment=[]), "environment = []"),
        (lambda a: a["environment"].update(memory_bytes="much"), "environment = 'much'"),
        (lambda a: a["environment"].update(packages=3), "environment = 3"),
        (lambda a: a["environment"].update(cpu="\x1b[2J"), "environment = "),
        (lambda a: a.update(device=0), "device = 0"),
        (lambda a: a.update(device="abacus"), "no device 'abacus'"),
        (lambda a: a.update(slim=True), "is slim"),
        (lambda a: a.update(weight_hash="0" * 64), "other weights"),
    ],
)
def test_what_artifact_json_says_is_checked(folder: Path, change: Callable[[Any], Any], words: str) -> None:
    edit(folder, change)
    assert words in refusal(lambda: verification.verify(folder))
    assert words in refusal(lambda: artifact.parts(folder))


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"3", b"\xff", b"[" * 100_000, b'{"version":' * 20_000, b" " * (1 << 21), b'{"version": 1, "a": '
     + b"[" * 40 + b"]" * 40 + b"}"],
    ids=range(9),
)  # fmt: skip
def test_what_is_no_json_is_refused(folder: Path, content: bytes) -> None:
    for name in ("hashes.json", "artifact.json"):
        (folder / name).write_bytes(content)
        assert name in refusal(lambda: verification.verify(folder))


def test_missing_files_are_named(folder: Path) -> None:
    (folder / "hashes.json").unlink()
    assert "hashes.json is missing" in refusal(lambda: verification.verify(folder))
    (folder / "artifact.json").unlink()
    (folder / "artifact.json").mkdir()
    assert "is no artifact" in refusal(lambda: artifact.parts(folder))


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../a/artifact.json", "source/../plan.toml", "./plan.toml", "C:\\x", "\\\\a\\b", "", "a//b"]
)
def test_hashes_are_of_files_inside(folder: Path, name: str) -> None:
    edit(folder, lambda hashes: hashes.update({name: "0" * 64}), "hashes.json")
    assert "no path inside the artifact" in refusal(lambda: verification.verify(folder))


@pytest.mark.parametrize("value", [None, 3, [], {}, "", "0" * 63, "G" * 64, "0" * 64 + "\n"])
def test_hashes_are_hashes(folder: Path, value: object) -> None:
    edit(folder, lambda hashes: hashes.update({"plan.toml": value}), "hashes.json")
    assert "'plan.toml'" in refusal(lambda: verification.verify(folder))


def test_no_hashes_vouch_for_nothing(folder: Path) -> None:
    (folder / "hashes.json").write_text("{}")
    assert "plan.toml is not listed in hashes.json" in verification.verify(folder).problems


def test_links_and_what_is_no_file_are_problems(folder: Path, tmp_path: Path) -> None:
    (folder / "plan.toml").rename(tmp_path / "plan.toml")
    (folder / "plan.toml").symlink_to(tmp_path / "plan.toml")
    (folder / "source").rename(tmp_path / "source")
    (folder / "source").symlink_to(tmp_path / "source")
    (folder / "dangling").symlink_to("nowhere")
    os.mkfifo(folder / "pipe\n")
    problems = verification.verify(folder).problems
    assert {"plan.toml is a link", "source is a link", "dangling is a link", "'pipe\\n' is no file"} <= set(problems)


@pytest.mark.parametrize("content", ["", "version = 1\ntechniques = []\n", '[[techniques]]\ntechnique = "layout"\n'])
def test_another_plan_is_refused(folder: Path, content: str) -> None:
    (folder / "plan.toml").write_text(content)
    assert "plan.toml was changed" in verification.verify(folder).problems
    rehash(folder)
    for call in (verification.verify, artifact.parts, artifact.load):
        assert "plan.toml" in refusal(lambda call=call: call(folder))
    if content:
        assert "plan.toml was changed; " in refusal(lambda: artifact.parts(folder))


def test_the_device_is_kept_and_can_be_another(folder: Path, tiny_folder: Path) -> None:
    assert json.loads((folder / "artifact.json").read_text())["device"] == "cpu"
    edit(folder, lambda about: about.update(device="meta"))
    assert "no device 'meta'" in refusal(lambda: artifact.load(folder))
    assert artifact.load(folder, device="cpu")[1].device == "cpu"
    assert verification.verify(folder, device="cpu").problems == ()
    assert "no device 'abacus'" in refusal(lambda: artifact.load(folder, sources.load(tiny_folder), "abacus"))
    edit(folder, lambda about: about.pop("device"))  # as artifacts were before
    assert verification.verify(folder).problems == ()


def test_this_machine_is_here(folder: Path) -> None:
    edit(folder, lambda about: about["environment"].update(python="2.7.18"))
    (difference,) = verification.verify(folder).differences
    assert difference.endswith("here, 2.7.18 there")


@pytest.mark.parametrize(("mask", "modes"), [(0o022, {0o755, 0o644}), (0o027, {0o750, 0o640})])
def test_modes_follow_the_umask(tiny_folder: Path, tmp_path: Path, mask: int, modes: set[int]) -> None:
    before = os.umask(mask)
    try:
        folder = artifact.save(tmp_path / "a", sources.load(tiny_folder), Plan((Runtime(), QUICK)))
    finally:
        os.umask(before)
    found = {path: path.stat().st_mode & 0o777 for path in (folder, *folder.rglob("*"))}
    assert any(path.parent.name == "prepared" for path in found)
    assert set(found.values()) == modes
    assert verification.verify(folder).problems == ()


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_can_not_be_read_is_named(folder: Path) -> None:
    (folder / "source").chmod(0)
    try:
        problems = verification.verify(folder).problems
    finally:
        (folder / "source").chmod(0o755)
    assert "source can't be read (Permission denied)" in problems


def test_an_artifact_of_a_module_takes_its_source(tiny_folder: Path, tmp_path: Path) -> None:
    own = replace(sources.load(tiny_folder), folder=None)
    folder = artifact.save(tmp_path / "a", own, Plan((QUICK,)))
    assert "pass it" in refusal(lambda: verification.verify(folder))
    assert verification.verify(folder, own).problems == ()


class Own(torch.nn.Module):
    """A module whose fresh weights are others each time, some tied, some by weight_norm; a buffer may be infinite."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.first = torch.nn.utils.weight_norm(torch.nn.Conv2d(1, width, 3, padding=1))
        self.last = torch.nn.Conv2d(width, 1, 3, padding=1)
        self.again = torch.nn.Conv2d(width, 1, 3, padding=1)
        self.again.weight = self.last.weight
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))

    def forward(self, x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        hidden = self.first(x) + 0.01 * labels[:, None, None, None]
        return self.last(hidden) + self.again(hidden).tanh()


def own(module: torch.nn.Module | None = None, **others: Any) -> sources.Source:
    given = {"schedule": cosine(), "prediction": "v_prediction", "shape": (1, 8, 8), "num_labels": 3, "null_label": 2}
    return sources.load(module or Own(), **given | others)


@pytest.mark.parametrize("techniques", [(QUICK,), (Runtime(), QUICK)])
def test_an_artifact_of_a_module_keeps_its_weights(tmp_path: Path, techniques: tuple[Any, ...]) -> None:
    source = own(guidance=2.0, steps=5)
    folder = artifact.save(tmp_path / "a", source, Plan(techniques))
    case = artifact.reference_case(source)
    wanted, fresh = artifact.load(folder, source)[0].sample(case), own()
    assert fresh.weight_hash != source.weight_hash
    target, loaded, _ = artifact.load(folder, fresh)
    assert torch.equal(target.sample(case), wanted)
    assert (loaded.weight_hash, loaded.guidance, loaded.steps) == (source.weight_hash, 2.0, 5)
    assert verification.verify(folder, fresh).problems == ()
    how = (
        "hasten.load_artifact(FOLDER, hasten.load(Own(...), schedule=..., prediction='v_prediction', shape=(1, 8, 8), "
    )
    assert how + "num_labels=3, null_label=2))" in refusal(lambda: artifact.load(folder))


def test_other_modules_do_not_take_the_weights_of_an_artifact(tmp_path: Path) -> None:
    folder = artifact.save(tmp_path / "a", own(guidance=2.0), Plan((QUICK,)))
    assert "'again.weight' is (1, 4, 3, 3), and Own has (1, 5, 3, 3)" in refusal(
        lambda: artifact.load(folder, own(Own(5)))
    )
    assert "its null_label=" in refusal(lambda: artifact.load(folder, own(null_label=None)))
    module = Own()
    torch.nn.utils.remove_weight_norm(module.first)
    assert "'first.weight' is none, and Own has (4, 1, 3, 3)" in refusal(lambda: artifact.load(folder, own(module)))


def test_changed_weights_of_a_module_are_found(tmp_path: Path) -> None:
    folder = artifact.save(tmp_path / "a", own(), Plan((QUICK,)))
    kept = load_file(folder / "weights.safetensors")
    save_file(kept | {"last.bias": kept["last.bias"] + 1e-6}, folder / "weights.safetensors")
    assert verification.verify(folder, own()).problems == ("weights.safetensors was changed",)
    rehash(folder)
    assert "weights.safetensors was changed" in refusal(lambda: verification.verify(folder, own()))
    (folder / "weights.safetensors").unlink()
    rehash(folder)
    assert "was made from other weights" in refusal(lambda: verification.verify(folder, own()))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_make_no_artifact(tmp_path: Path, value: float) -> None:
    module = Own()
    with torch.no_grad():
        module.last.bias[0] = value
    assert "Own: 'last.bias' holds NaN or Inf" in refusal(lambda: artifact.save(tmp_path / "a", own(module), Plan(())))
    assert list(tmp_path.iterdir()) == []


def test_a_slim_artifact_of_a_module_has_no_weights(tmp_path: Path) -> None:
    source = own()
    folder = artifact.save(tmp_path / "a", source, Plan((Runtime(), QUICK)), slim=True)
    assert not (folder / "weights.safetensors").exists()
    assert verification.verify(folder, source).problems == ()
    assert "was made from other weights" in refusal(lambda: artifact.load(folder, own()))
