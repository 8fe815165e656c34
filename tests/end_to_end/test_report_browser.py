"""The report in a real browser: no console error, no broken image, no request, no sideways scrolling, dark mode."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hasten.report import page, profile_page, train_page
from hasten.story import profile as story

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="no Chromium with its chromedriver is installed on this machine"
)
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)


def example(name: str = "conftest.py") -> Any:
    """The module that builds a result folder, shared with the unit tests."""
    path = Path(__file__).parents[1] / "unit" / "report" / name
    spec = importlib.util.spec_from_file_location("report_example", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for flag in FLAGS.split():
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('browser')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> dict[str, Path]:
    """A full report; one with hostile, endless names and curves; one of a run that was interrupted; a profile."""
    built = example()
    place = tmp_path_factory.mktemp("reports")
    whole = built.result()
    hostile = {**whole["source"], "name": "<script>throw 1</script>" + "x" * 300, "folder": "y" * 300}
    candidates = [{**c, "label": ["z" * 200], "reason": "w" * 200} for c in whole["candidates"]]
    missing = dict.fromkeys(
        ("data", "candidate", "speedup", "quality", "attribution", "candidates", "refused", "profile", "environment")
    )
    folders = {
        "full": built.build(place / "full"),
        "hostile": built.build(
            place / "hostile", built.samples(4, (2, 64)), source=hostile, candidates=candidates, quality=None, data=None
        ),
        "interrupted": built.build(place / "interrupted", {}, interrupted=True, observations=None, **missing),
    }
    story.profile(tiny_folder, what="all", images=2, out=place / "profile")
    training = example("test_train_page.py").run(place / "training")
    return {name: page.write(folder) for name, folder in folders.items()} | {
        "profile": profile_page.write(place / "profile"),
        "training": train_page.write(training),
    }


def show(browser: Any, path: Path, width: int = 1280, theme: str = "light") -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": theme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(path.as_uri())
    browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")


@pytest.mark.parametrize("name", ["full", "hostile", "interrupted", "profile", "training"])
def test_clean_and_self_contained(browser: Any, reports: dict[str, Path], name: str) -> None:
    for log in ("browser", "performance"):
        browser.get_log(log)  # what came before
    show(browser, reports[name])
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requested = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert reports[name].as_uri() in requested
    assert [url for url in requested if not url.startswith("data:") and url != reports[name].as_uri()] == []
    widths = browser.execute_script("return [...document.images].map(i => i.complete ? i.naturalWidth : 0)")
    assert all(width > 0 for width in widths)
    assert len(widths) == {"full": 3 + 6 * 3, "training": 3}.get(name, 0)


@pytest.mark.parametrize("name", ["full", "hostile", "interrupted", "profile", "training"])
@pytest.mark.parametrize("width", [360, 1280])
def test_no_sideways_scrolling(browser: Any, reports: dict[str, Path], name: str, width: int) -> None:
    show(browser, reports[name], width)
    inner, scroll = browser.execute_script("return [innerWidth, document.scrollingElement.scrollWidth]")
    assert inner == width
    assert scroll <= width


@pytest.mark.parametrize(("name", "charts"), [("full", 3), ("training", 7)])
@pytest.mark.parametrize(("width", "kind"), [(360, "narrow"), (1280, "wide")])
def test_one_drawing_of_each_chart_shows_and_nothing_is_clipped(
    browser: Any, reports: dict[str, Path], width: int, kind: str, name: str, charts: int
) -> None:
    show(browser, reports[name], width)
    shown, outside = browser.execute_script(
        """
        const charts = [...document.querySelectorAll('svg.chart')].filter(c => c.getBoundingClientRect().width > 0);
        const outside = charts.flatMap(c => [...c.querySelectorAll('text')].filter(t => {
            const a = t.getBoundingClientRect(), b = c.getBoundingClientRect();
            return a.left < b.left - 1 || a.right > b.right + 1 || a.top < b.top - 1 || a.bottom > b.bottom + 1;
        }).map(t => t.textContent));
        return [charts.map(c => c.classList[1]), outside];
        """
    )
    assert shown == [kind] * charts
    assert outside == []


def test_dark_mode(browser: Any, reports: dict[str, Path]) -> None:
    colours = {}
    for theme in ("light", "dark"):
        show(browser, reports["full"], theme=theme)
        colours[theme] = browser.execute_script(
            """
            const of = (selector, key) => getComputedStyle(document.querySelector(selector))[key];
            return [of('body', 'backgroundColor'), of('body', 'color'), of('.card', 'backgroundColor'),
                    of('svg.wide text', 'fill'), of('svg.wide [id$=point-1] use', 'fill')];
            """
        )
    assert all(light != dark for light, dark in zip(colours["light"], colours["dark"], strict=True))
    brightness = {t: sum(map(int, c[0].removeprefix("rgb(").removesuffix(")").split(","))) for t, c in colours.items()}
    assert brightness["light"] > 600
    assert brightness["dark"] < 150
