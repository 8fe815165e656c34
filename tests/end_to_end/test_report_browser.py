"""The report in a real browser: no console error, no broken image, no request, no sideways scrolling, dark mode; tables
that sort, pictures that enlarge, charts that answer to a finger."""

from __future__ import annotations

import importlib.util
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hasten.report import page, profile_page, train_page

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
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
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
    profile = built.profile()
    outermost, inner = profile["modules"]["rows"]
    parts = ["up_blocks", "0", "attentions", "0", "transformer_blocks", "0", "attn1", "to_out", "0"]
    deep = [{**inner, "name": ".".join(parts[: n + 1]), "depth": n + 1} for n in range(len(parts))]
    profile["modules"]["rows"] = [outermost, *deep]
    profile["steps"]["network_seconds"] = [0.9] + [0.02 + 1e-4 * n for n in range(49)]
    profile["memory"]["timeline"] = [[0.01 * n, 1e6 * (n % 37)] for n in range(400)]
    (place / "profile").mkdir()
    (place / "profile" / "profile.json").write_text(json.dumps(profile))
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


@pytest.mark.parametrize("name", ["full", "profile", "training"])
def test_no_column_is_cut_on_a_phone(browser: Any, reports: dict[str, Path], name: str) -> None:
    show(browser, reports[name], 360)
    cut = "return [...document.querySelectorAll('.scroll')].filter(s => s.scrollWidth > s.clientWidth)"
    assert browser.execute_script(f"{cut}.map(s => s.ariaLabel)") == []


def column(browser: Any, table: str, number: int) -> list[str]:
    """The text of a column as it stands."""
    rows = f"[...document.querySelectorAll('[aria-label=\"{table}\"] tbody tr')]"
    found: list[str] = browser.execute_script(f"return {rows}.map(r => r.cells[{number}].textContent.trim())")
    return found


@pytest.mark.parametrize("width", [360, 1280])
def test_tables_sort_by_what_figures_amount_to(browser: Any, reports: dict[str, Path], width: int) -> None:
    show(browser, reports["full"], width)
    table = "Plans that were tried"
    buttons = browser.find_elements("css selector", f"[aria-label='{table}'] thead button")
    headings = browser.find_elements("css selector", f"[aria-label='{table}'] thead th")
    assert len(buttons) == len(headings) == 9
    buttons[3].click()
    losses = column(browser, table, 3)
    signed = [float(text.replace("\u2212", "-").replace("\u00a0%", "")) for text in losses[:-1]]
    assert signed == sorted(signed)
    assert signed[0] < 0 < signed[-1]
    assert losses[-1] == "\u2013"  # what failed has none
    assert [h.get_attribute("aria-sort") for h in headings] == [None] * 3 + ["ascending"] + [None] * 5
    buttons[3].click()
    downwards = [float(t.replace("\u2212", "-").replace("\u00a0%", "")) for t in column(browser, table, 3)[:-1]]
    assert downwards == sorted(signed, reverse=True)
    assert headings[3].get_attribute("aria-sort") == "descending"
    buttons[2].click()
    times = column(browser, table, 2)[:-1]
    milliseconds = [float(text.split("\u00a0")[0]) * {"ms": 1, "s": 1000}[text.split("\u00a0")[1]] for text in times]
    assert milliseconds == sorted(milliseconds)
    assert headings[3].get_attribute("aria-sort") is None


def test_amounts(browser: Any, reports: dict[str, Path]) -> None:
    show(browser, reports["full"])
    wanted = {
        "4 min 31 s": 271, "1 h 5 min": 3900, "410 ms": 0.41, "7.5 \u00b5s": 7.5e-6, "15.1 MB": 15.1e6, "2 GiB": 2**31,
        "\u22123.0 %": -3, "1,234": 1234, "19.1 to 20.2": 19.1, "2.59\u00d7 2.48 to 2.91": 2.59,
        "": None, "\u2013": None,
    }  # fmt: skip
    found = browser.execute_script("return arguments[0].map(amount)", list(wanted))
    assert found == pytest.approx(list(wanted.values()))


def test_pictures_enlarge_and_compare(browser: Any, reports: dict[str, Path]) -> None:
    from selenium.webdriver import ActionChains, Keys

    def state() -> tuple[str, list[str]]:
        """The title, and which canvases can be seen."""
        seen = "[...document.querySelectorAll('.stage canvas')].map(c => c.style.visibility + c.style.clipPath)"
        title, canvases = browser.execute_script(f"return [document.querySelector('dialog h2').textContent, {seen}]")
        return title, canvases

    def wait(seconds: float) -> Iterator[None]:
        """Again and again for so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            yield

    def press(*keys: str) -> None:
        ActionChains(browser).send_keys(*keys).perform()

    for width in (1280, 360):
        show(browser, reports["full"], width)
        dialog = browser.find_element("css selector", "dialog.viewer")
        assert not dialog.is_displayed()
        first = browser.find_element("css selector", ".sides img")
        first.send_keys(Keys.ENTER)
        assert dialog.is_displayed()
        assert state() == ("All 64 samples", ["visible", "visibleinset(0px 0px 0px 50%)", "hidden"])
        press(Keys.ARROW_LEFT)  # the slider has the focus
        assert state()[1][1] == "visibleinset(0px 0px 0px 49%)"
        slider, blink, difference = browser.find_elements("css selector", ".modes button")
        difference.click()
        assert state()[1] == ["hidden", "hidden", "visible"]
        assert browser.find_element("css selector", ".stage .left").text.startswith("Difference \u00d7 ")
        blink.click()
        looks = {tuple(state()[1]) for _ in wait(1.6)}
        assert looks == {("visible", "hidden", "hidden"), ("hidden", "visible", "hidden")}
        press(Keys.ARROW_RIGHT)
        assert state()[0].startswith("Sample 1, label 0: drift ")
        size = browser.execute_script("const c = document.querySelector('canvas'); return [c.width, c.height]")
        assert size == [32, 32]
        slider.click()
        inside = browser.execute_script(
            "const b = document.querySelector('dialog').getBoundingClientRect(); return [b.left, b.right, innerWidth]"
        )
        assert 0 <= inside[0] < inside[1] <= inside[2]
        press(Keys.ESCAPE)
        assert not dialog.is_displayed()
        assert browser.switch_to.active_element == first
        worst = browser.find_element("css selector", ".worst img")
        worst.click()
        drift = browser.find_element("css selector", ".worst figcaption strong").get_attribute("textContent")
        assert state()[0].endswith(f": drift {drift}")
        press(Keys.ESCAPE)


@pytest.mark.parametrize(("name", "chart"), [("full", "candidates"), ("full", "rounds"), ("training", "curves")])
def test_charts_answer_to_a_finger(browser: Any, reports: dict[str, Path], name: str, chart: str) -> None:
    show(browser, reports[name], 360)
    tip = browser.find_element("css selector", ".tip")
    assert not tip.is_displayed()
    x, y = browser.execute_script(
        f"""
        const chart = document.querySelector('#{chart} svg.narrow');
        chart.scrollIntoView({{block: 'center'}});
        const at = chart.querySelector('.mark').getBoundingClientRect();
        return [at.left + at.width / 2 + 9, at.top + at.height / 2 + 9];
        """
    )
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    for kind, points in (("touchStart", [{"x": x, "y": y}]), ("touchEnd", [])):
        browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})
    wanted = {"candidates": "per image, loss", "rounds": "round 1, case", "curves": "step "}
    assert wanted[chart] in tip.text
    left, right, inner = browser.execute_script(
        "const b = document.querySelector('.tip').getBoundingClientRect(); return [b.left, b.right, innerWidth]"
    )
    assert 0 <= left < right <= inner


@pytest.mark.parametrize(("name", "charts"), [("full", 3), ("training", 7), ("profile", 2)])
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
                    of('svg.wide text', 'fill'), of('svg.wide .mark', 'fill')];
            """
        )
    assert all(light != dark for light, dark in zip(colours["light"], colours["dark"], strict=True))
    brightness = {t: sum(map(int, c[0].removeprefix("rgb(").removesuffix(")").split(","))) for t, c in colours.items()}
    assert brightness["light"] > 600
    assert brightness["dark"] < 150
