"""Whether an artifact is whole, and still gives what it gave: nothing that stands in it is believed for its hashes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath, PureWindowsPath

import torch
from safetensors.torch import load as load_tensors

from hasten import artifact
from hasten.environment import differences, environment
from hasten.errors import BadInput, shown
from hasten.files import sha256, why
from hasten.model.header import check_header
from hasten.model.source import Source
from hasten.model.workload import Case

TOLERANCE_DB, SAME_DB = 40.0, 150.0
# Noise that the same seed draws on another processor differs by rounding: up to 5e-7 between AVX2 and plain code.
NOISE_TOLERANCE = 1e-4
DTYPES = {torch.float32: "F32", torch.int64: "I64"}


@dataclass(frozen=True)
class Verification:
    """``problems`` is empty when the artifact is whole; ``agreement_db`` is the reference outputs' SQNR."""

    problems: tuple[str, ...]
    differences: tuple[str, ...]
    agreement_db: float | None
    files: int


def verify(folder: Path | str, source: Source | None = None, device: str | None = None) -> Verification:
    """Check every hash, the reference case itself and what it gives when sampled again; name what differs in the
    environment.

    What the hashes vouch for is not believed for it: whoever changes a file can change hashes.json too.
    """
    folder = Path(folder)
    about = artifact.about_of(folder)
    hashes = _hashes(folder)
    problems = _file_problems(folder, hashes)
    agreement = None
    if not problems:
        differing, agreement = _compare(folder, source, device)
        problems += differing
    here = differences(environment(), about.environment.model_dump())
    return Verification(tuple(problems), tuple(here), agreement, len(hashes))


def _file_problems(folder: Path, hashes: dict[str, str]) -> list[str]:
    """What the files are, against ``hashes``: links, what is missing, too much, changed or can't be read."""
    there = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*"))}
    there.pop("hashes.json", None)
    links = [name for name, path in there.items() if path.is_symlink()]
    problems = [f"{_plain(name)} is a link" for name in links]
    problems += [f"{_plain(name)} is missing" for name in sorted(set(hashes) - set(there))]
    for name, path in there.items():
        if name in links:
            continue
        try:
            if path.is_dir():
                next(path.iterdir(), None)  # whose files would else seem to be missing
            elif not path.is_file():
                problems.append(f"{_plain(name)} is no file")
            elif name not in hashes:
                problems.append(f"{_plain(name)} is not listed in hashes.json")
            elif sha256(path) != hashes[name]:
                problems.append(f"{_plain(name)} was changed")
        except OSError as error:
            problems.append(f"{_plain(name)} can't be read ({why(error)})")
    return problems


def _compare(folder: Path, source: Source | None, device: str | None) -> tuple[list[str], float | None]:
    """What is wrong with the reference, and how well outputs made now agree with its."""
    target, source, _ = artifact.load(folder, source, device)
    case = artifact.reference_case(source)
    try:
        stored = _reference(folder / "reference.safetensors", case)
    except BadInput as error:
        return [str(error)], None
    try:
        made = target.sample(replace(case, noise=stored["noise"]))
    except RuntimeError as error:  # as a graph that was changed can give
        return [f"reference outputs can't be made ({' '.join(str(error).split())[:200]})"], None
    samples = stored["samples"]
    if made.shape != samples.shape:
        return [f"reference outputs have the shape {tuple(made.shape)}, not {tuple(samples.shape)}"], None
    if not made.isfinite().all():
        return ["reference outputs hold NaN or Inf"], None
    noise = (made - samples).double().square().mean().item()
    signal = samples.double().square().mean().item()
    agreement = SAME_DB if noise == 0 else min(10 * math.log10(signal / noise), SAME_DB)
    if not agreement >= TOLERANCE_DB:
        return [f"reference outputs agree to {agreement:.1f} dB, the limit is {TOLERANCE_DB:.0f} dB"], agreement
    return [], agreement


def _reference(path: Path, case: Case) -> dict[str, torch.Tensor]:
    """The stored noise, labels and samples.  Raises BadInput unless they are those of ``case``, the samples finite and
    not all zero; nothing is allocated before names, shapes and dtypes are right."""
    drawn = {"noise": case.noise, "samples": case.noise} | ({} if case.labels is None else {"labels": case.labels})
    expected = {name: (DTYPES[tensor.dtype], tuple(tensor.shape)) for name, tensor in drawn.items()}
    there = {name: (info.dtype, info.shape) for name, info in check_header(path).items()}
    for name in sorted(set(expected) | set(there)):
        if expected.get(name) != there.get(name):
            be, have = ("{} {}".format(*held[name]) if name in held else "nothing" for held in (expected, there))
            raise BadInput(f"{path.name}: {shown(name)} must be {be}, and is {shown(have)[1:-1]}")
    stored: dict[str, torch.Tensor] = load_tensors(path.read_bytes())
    if not (stored["noise"] - case.noise).abs().max() <= NOISE_TOLERANCE:
        raise BadInput(f"{path.name}: the noise is not what the seed draws")
    if case.labels is not None and not torch.equal(stored["labels"], case.labels):
        raise BadInput(f"{path.name}: the labels are not what the seed draws")
    if not stored["samples"].isfinite().all():
        raise BadInput(f"{path.name}: the stored outputs hold NaN or Inf")
    if not stored["samples"].any():
        raise BadInput(f"{path.name}: the stored outputs are all zero")
    return stored


def _hashes(folder: Path) -> dict[str, str]:
    """File names, relative to ``folder``, and their SHA-256."""
    path, hashes = folder / "hashes.json", artifact.content_of(folder, "hashes.json")
    for name, value in hashes.items():
        posix, windows = PurePosixPath(name), PureWindowsPath(name)
        if posix.anchor or windows.anchor or ".." in (*posix.parts, *windows.parts) or posix.as_posix() != name:
            raise BadInput(f"{path}: {shown(name)} is no path inside the artifact; {artifact.AGAIN}")
        if not (isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")):
            raise BadInput(
                f"{path}: {shown(name)}: {shown(value)} is no SHA-256 of 64 hexadecimal digits; {artifact.AGAIN}"
            )
    return hashes


def _plain(name: str) -> str:
    """A file's name, quoted where it would not print."""
    return name if name.isprintable() else shown(name)
