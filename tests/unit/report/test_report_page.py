"""The page: everything escaped, every gap filled with words, the same bytes each time, written whole or not at all."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hasten.errors import BadInput
from hasten.report import page, words
from hasten.report.result import Result

Folder = Callable[..., Path]
EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)> $\\frac{ {{ 7*7 }} \x00\x07"


class Page(HTMLParser):
    """The elements and attributes of a page, its text and its script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = self.script = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            self.script += data
        else:
            self.text += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


def read(folder: Path) -> Page:
    return Page(page.write(folder).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory, example: Any) -> str:
    """The page of a run that went well."""
    return page.write(example.build(tmp_path_factory.mktemp("full"))).read_bytes().decode()


def evil(value: object) -> object:
    """Every text in ``value`` made hostile, but for those that choose what is drawn."""
    if isinstance(value, dict):
        kept = ("verdict", "plan", "created")
        return {k: v if k in kept and isinstance(v, str) else evil(v) for k, v in value.items()}
    if isinstance(value, list):
        return [evil(v) for v in value]
    return f"{value}{EVIL}" if isinstance(value, str) else value


def test_says_what_came_out(full: str) -> None:
    text = " ".join(Page(full).text.replace("\u00a0", " ").split())
    assert "emoji32: 19.6× faster, no measurable loss" in text
    assert "95 % interval 19.1 to 20.2, 15 rounds" in text
    assert "A loss of 3.1 % or more would have been seen" in text
    assert "Peak 812 MB before, 420 MB after" in text
    assert "slower than OpenVINO here (0.71x)" in text
    assert "busy in 2 of 15 rounds" in text
    assert "CC BY-SA 4.0" in text
    assert "9f2c" * 16 in text
    assert "hasten demo" in text
    assert "hasten apply runs/a/plan.toml emoji32 --out runs/a-faster" in text
    assert "seed 0" in text
    assert "15.1 MB before, 3.90 MB after" in text
    assert "helps: slower without it" in text
    assert "failed: no C++ compiler on this machine" in text


def test_nothing_is_loaded_and_nothing_runs_but_its_own_script(full: str) -> None:
    found = Page(full)
    own = resources.files("hasten.report").joinpath("page.js").read_text(encoding="utf-8")
    assert [attributes for tag, attributes in found.elements if tag == "script"] == [{}]
    assert found.script == own
    digest = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
    policy = next(a["content"] for _, a in found.elements if a.get("http-equiv") == "Content-Security-Policy") or ""
    assert f"script-src 'sha256-{digest}';" in policy
    assert "default-src 'none'" in policy
    assert not re.search(r"https?:|fetch|import|eval|innerHTML|XMLHttp", own)
    assert not found.count("iframe")
    for tag, attributes in found.elements:
        assert not [name for name in attributes if name.startswith("on")]
        if tag == "use":
            assert (attributes["href"] or "").startswith("#")
        elif tag in ("img", "link"):
            assert (attributes.get("src") or attributes.get("href") or "").startswith("data:")
        elif tag == "a":
            assert (attributes["href"] or "").startswith("#")
    style = resources.files("hasten.report").joinpath("style.css").read_text(encoding="utf-8")
    assert "url(" not in style
    assert "@import" not in style
    assert style.count("{") == style.count("}")


def test_hostile_text_is_inert(folder: Folder) -> None:
    hostile = evil(json.loads((folder() / "result.json").read_text()))
    assert isinstance(hostile, dict)
    found = read(folder(None, **hostile))
    assert found.text.count("<script>alert(1)</script>") > 50  # shown as text, in the page and in its charts
    assert found.count("script") == 1
    assert found.script == resources.files("hasten.report").joinpath("page.js").read_text(encoding="utf-8")
    assert found.count("img") == 3 + 6 * 3
    assert not [1 for _, attributes in found.elements if "onerror" in attributes]
    assert "7*7" in found.text
    assert "\x00" not in found.text


def test_ids_are_unique_and_links_lead_somewhere(full: str) -> None:
    elements = Page(full).elements
    ids = Counter(attributes["id"] for _, attributes in elements if "id" in attributes)
    assert not [name for name, count in ids.items() if count > 1]
    wanted = [a["href"] for tag, a in elements if tag == "a"]
    assert len(wanted) > 5
    assert not [link for link in wanted if (link or "").removeprefix("#") not in ids]


def test_charts_follow_the_theme(full: str) -> None:
    charts = re.findall(r"<svg.*?</svg>", full, re.DOTALL)
    assert len(charts) == 6
    assert "var(--ink)" in "".join(charts)
    colours = set(re.findall(r' (?:fill|stroke)="([^"]*)"', "".join(charts)))
    assert colours <= {"none", "transparent"} | set(re.findall(r"var\(--[a-z]+\)", "".join(charts)))
    assert "font-family" not in "".join(charts)


def test_the_same_inputs_give_the_same_bytes(full: str, folder: Folder) -> None:
    assert page.write(folder()).read_bytes() == full.encode()


NULLABLE = [
    "data", "candidate", "speedup", "break_even", "quality", "attribution", "candidates", "refused", "proposed",
    "profile", "observations", "environment", "warnings", "seconds", "seed",
]  # fmt: skip


SMALL: dict[str, Any] = {"observations": None, "candidates": None, "attribution": None}  # no chart, so quickly drawn
FEW: dict[str, Any] = {
    "observations": [
        {"plan": p, "case": 0, "round": 0, "seconds": 1.0, "images": 1} for p in ("baseline", "candidate")
    ],
    "candidates": [{"label": ["x"], "seconds_per_image": 0.1, "loss": 0.01, "drift_db": 30.0}],
    "attribution": [{"technique": "sampler", "ratio": 2.0, "low": 1.9, "high": 2.1, "verdict": "FASTER"}],
}


@pytest.mark.parametrize("name", NULLABLE)
def test_any_part_may_be_missing(folder: Folder, name: str) -> None:
    assert "<h1>" in page.write(folder({}, **{**FEW, name: None})).read_text(encoding="utf-8")


def test_an_interrupted_run_without_a_candidate(folder: Folder) -> None:
    found = read(folder({}, **dict.fromkeys(NULLABLE), interrupted=True))
    text = " ".join(found.text.split())
    assert "emoji32: nothing was confirmed to be faster" in text
    assert "Interrupted." in text
    assert "--resume" in text
    assert "This run left no samples." in text
    assert not re.search(r"\b(None|nan|Undefined)\b", text)
    assert not found.count("svg")


def test_numbers_that_are_none_count_as_not_measured(folder: Folder) -> None:
    from_nowhere = float("nan")
    speedup = {"ratio": from_nowhere, "low": from_nowhere, "high": float("inf"), "verdict": "UNDECIDED", "reason": "x"}
    found = read(folder({}, **SMALL, speedup=speedup))
    assert not re.search(r"\b(nan|inf)\b", found.text)
    assert "Speed is undecided: x" in found.text


@pytest.mark.parametrize(
    ("verdict", "ratio", "low", "high", "wanted"),
    [
        ("SLOWER", 0.5, 0.4, 0.8, ("2.00× slower", "interval 1.25 to 2.50")),
        ("UNDECIDED", 1.01, 0.97, 1.05, ("1.01× undecided", "interval 0.970 to 1.05")),
        ("FASTER", 2.0, 1.9, 2.1, ("2.00× faster", "interval 1.90 to 2.10")),
    ],
)
def test_the_verdict_on_speed(folder: Folder, verdict: str, ratio: float, low: float, high: float, wanted: str) -> None:
    found = read(
        folder({}, **SMALL, speedup={"ratio": ratio, "low": low, "high": high, "rounds": 9, "verdict": verdict})
    )
    text = " ".join(found.text.split())
    for part in wanted:
        assert part in text


def test_a_bad_result_leaves_the_old_report(folder: Folder) -> None:
    place = folder({}, **SMALL)
    before = page.write(place).read_bytes()
    for content, reason in (
        ("{", "no result of hasten"),
        ("[]", "no result of hasten"),
        ('{"version": 1}', "source"),
        ('{"version": 2, "source": {"name": "x"}, "baseline": {}}', "version 2"),
        ('{"version": 1, "source": {"name": 3}, "baseline": {}}', "source.name"),
    ):
        (place / "result.json").write_text(content, encoding="utf-8")
        with pytest.raises(BadInput, match=reason) as error:
            page.write(place)
        assert "\n" not in str(error.value)
        assert (place / "report.html").read_bytes() == before
    (place / "result.json").unlink()
    with pytest.raises(BadInput, match="can't be read"):
        page.write(place)
    assert sorted(p.name for p in place.iterdir()) == ["report.html"]


def test_no_plan_held_the_budget(folder: Folder) -> None:
    found = read(folder({}, **SMALL, passed=False))
    heads = re.findall(r"<(title|h1)>(.*?)</\1>", (page.write(folder({}, **SMALL, passed=False))).read_text())
    assert heads == [(tag, "emoji32: no plan held the budget") for tag in ("title", "h1")]
    assert "came nearest" in found.text


def test_where_the_time_of_an_image_goes(folder: Folder) -> None:
    """result.json has seconds of one evaluation of a batch; both sides are shown as seconds of an image."""
    many = [{"name": f"op{i}", "calls": 1, "seconds": 0.01, "share": 1 / 13, "bound_seconds": 0.005} for i in range(13)]
    part = [
        {"name": "conv", "calls": 30, "seconds": 0.058, "share": 0.58, "bound_seconds": 0.029},
        {"name": "norm", "calls": 9, "seconds": 0.0333, "share": 0.333, "bound_seconds": None},
    ]
    sides = {
        "baseline": {"seconds_per_image": 0.41, "rows": many},
        "candidate": {"seconds_per_image": 0.02, "rows": part},
    }
    shown = page.profiles(
        Result.model_validate({**json.loads((folder() / "result.json").read_text()), "profile": sides})
    )
    for side, seconds in zip(shown, (0.41, 0.02), strict=True):
        assert sum(bar["seconds"] for bar in side["rows"]) == pytest.approx(seconds)
        assert sum(float(bar["share"].split()[0]) for bar in side["rows"]) == pytest.approx(100.0)
    before, after = shown
    assert before["rows"][-1]["name"] == "the rest (3 more)"
    assert [(bar["name"], bar["share"]) for bar in after["rows"]] == [
        ("conv", "58.0\u00a0%"), ("norm", "33.3\u00a0%"), ("the rest", "8.7\u00a0%"),
    ]  # fmt: skip
    assert after["rows"][0]["seconds"] == pytest.approx(0.58 * 0.02)
    assert after["rows"][0]["over"] == pytest.approx(2.0)
    text = read(folder({}, **SMALL, profile=sides)).text
    assert "Where the time of an image goes" in text
    assert "ms per image" in text


def test_a_graphics_processor(folder: Folder, example: Any) -> None:
    environment = {**example.result()["environment"], "gpu": example.GPU}
    text = read(folder({}, **SMALL, environment=environment)).text.replace("\u00a0", " ")
    assert "NVIDIA H200, 150 GB, CUDA 13.0, first of 2" in text


@pytest.mark.parametrize(
    ("verdict", "low", "high", "meaning"),
    [
        ("SLOWER", 1.2, 1.4, "helps: slower without it"),
        ("FASTER", 0.8, 0.9, "costs speed: faster without it"),
        ("UNDECIDED", 0.9, 1.1, "undecided: no difference seen"),
    ],
)
def test_what_a_technique_s_verdict_means(folder: Folder, verdict: str, low: float, high: float, meaning: str) -> None:
    part = {"technique": "layout", "ratio": (low + high) / 2, "low": low, "high": high, "verdict": verdict}
    text = read(folder({}, **{**SMALL, "attribution": [part]})).text
    assert meaning in text
    assert f">{verdict.lower()}<" not in text


def test_the_worst_pairs_and_their_difference(folder: Folder, example: Any) -> None:
    arrays = example.samples(8, (3, 8, 8))
    arrays["candidate"] = arrays["baseline"].copy()
    arrays["candidate"][5] *= 0.9
    arrays["candidate"][2] *= -1.0
    found = read(folder(arrays, **SMALL))
    text = " ".join(found.text.replace("\u00a0", " ").split())
    alts = [a["alt"] or "" for tag, a in found.elements if tag == "img"]
    factor = re.search(r"Difference amplified (\d+)\u00d7", text)
    assert factor is not None
    assert [alt.split(":")[0] for alt in alts[:3]] == ["Before", "After", f"Difference \u00d7 {factor[1]}"]
    assert [alt.partition(": ")[2] for alt in alts[3:]] == ["sample 3, label 2"] * 3 + ["sample 6, label 5"] * 3
    names = [json.loads(a["data-names"] or "") for _, a in found.elements if "data-names" in a]
    assert [len(n) for n in names] == [9, 1, 1]
    far = 10 * np.log10(4 / np.square(arrays["baseline"][2] * 2.0).mean())
    assert names[1] == [f"sample 3, label 2: drift {words.decibel(float(far))}"]
    assert names[0][1] == "sample 1, label 0: drift 150\u00a0dB"
    assert "of 8; the middle one of all has 150 dB" in text


def test_samples_that_are_the_same(folder: Folder, example: Any) -> None:
    same = example.samples(3, (3, 8, 8))["baseline"]
    found = read(folder({"baseline": same, "candidate": same}, **SMALL))
    assert "Every sample is the same before and after, bit by bit." in found.text
    assert "drifted most" not in found.text
    assert found.count("img") == 3


def test_one_side_alone_has_no_difference(folder: Folder, example: Any) -> None:
    found = read(folder({"baseline": example.samples(3, (3, 8, 8))["baseline"]}, **SMALL))
    assert "Only the baseline's samples." in found.text
    assert "drifted" not in found.text
    assert found.count("img") == 1


def test_one_of_a_kind(folder: Folder) -> None:
    text = " ".join(read(folder({}, **FEW, break_even={"preparation_seconds": 2.0, "images": 1})).text.split())
    assert "The one plan that was tried" in text
    assert "All 2 runs that were timed" in text
    assert "it pays after 1 image." in text
    assert "All 1" not in text


def test_samples_that_cannot_be_used(folder: Folder) -> None:
    place = folder(None, **SMALL)
    for arrays, reason in (
        ({"baseline": np.asarray([object()] * 3, dtype=object)}, "can't be read"),
        ({"baseline": np.zeros((2, 3, 8, 8)), "candidate": np.zeros((3, 3, 8, 8))}, "not equal"),
        ({"baseline": np.zeros((2, 3, 8, 8)), "labels": np.zeros(3)}, "labels of shape"),
    ):
        np.savez(place / "samples.npz", **arrays)
        with pytest.raises(BadInput, match=reason):
            page.write(place)
    whole = (place / "samples.npz").read_bytes()
    (place / "samples.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInput, match="can't be read"):
        page.write(place)


def test_without_torch() -> None:
    code = "import sys; from hasten.report import page; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def contrast(one: str, other: str) -> float:
    """WCAG 2's contrast ratio of two colours #rrggbb."""

    def luminance(colour: str) -> float:
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_text_stands_out_in_both_themes() -> None:
    style = resources.files("hasten.report").joinpath("style.css").read_text(encoding="utf-8")
    themes = [dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6})", block)) for block in re.findall(r":root \{[^}]*\}", style)]
    themes = [theme for theme in themes if theme]
    assert len(themes) == 2
    for theme in themes:
        for text in ("ink", "muted", "after", "good", "warn", "bad"):
            for ground in ("bg", "panel", "notice"):
                assert contrast(theme[text], theme[ground]) >= 4.5, (text, ground)
        assert contrast(theme["before"], theme["bg"]) >= 3
