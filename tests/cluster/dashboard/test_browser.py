"""A real browser at the pages of a night: no error, no other host, at any width, light or dark, with scripts off, by keyboard.

Pictures of the pages go to `tests/cluster/dashboard/pictures`, which git ignores.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

import pytest

from cluster.home import Home
from results.experiment import Verdict
from results.store import Store
from tests.cluster.dashboard.night import record_night
from tests.cluster.dashboard.visitor import PAGES, TOKEN, served
from tests.results.result_samples import make_run

if TYPE_CHECKING:  # each test process imports this file, and one of them needs a browser
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

PICTURES = Path(__file__).with_name("pictures")

WIDE: dict[str, Any] = {"viewport": {"width": 1280, "height": 860}}
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 800}, "device_scale_factor": 2, "is_mobile": True}
LOOKS: dict[str, tuple[tuple[int, int], Literal["light", "dark"]]] = {
    "light": ((1280, 860), "light"),
    "dark": ((1280, 860), "dark"),
    "narrow": ((320, 640), "light"),
}
"""The sizes of a window and its colours, one after the other."""

DRAWN = ("/progress",)
"""Pages whose scripts draw."""

SQL = f"/sql?q={quote('SELECT rank, id, title, val_bpb, effect, helps FROM leaderboard LIMIT 20')}"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed here")


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def address(night: Home) -> Iterator[str]:
    with served(night) as found:
        yield found


@contextmanager
def opened(browser: "Browser", address: str, **look: Any) -> "Iterator[tuple[Page, list[str]]]":
    """A page that has followed the link, and what goes wrong on it."""
    context = browser.new_context(**look)
    page, wrong = context.new_page(), list[str]()
    page.on("console", lambda message: wrong.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    page.on("request", lambda sent: None if sent.url.startswith(address) else wrong.append(f"another host: {sent.url}"))
    page.on("response", lambda got: wrong.append(f"{got.status}: {got.url}") if got.status >= 400 else None)
    page.goto(f"{address}/?token={TOKEN}")
    yield page, wrong
    context.close()


def is_wide(page: "Page") -> bool:
    """Whether the page can be scrolled sideways."""
    return bool(page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"))


def test_pages_have_no_error_ask_no_other_host_and_fit(browser: "Browser", address: str) -> None:
    with opened(browser, address) as (page, wrong):
        for path in (*PAGES, SQL):
            for number, (look, ((width, height), colours)) in enumerate(LOOKS.items()):
                page.emulate_media(color_scheme=colours)
                page.set_viewport_size({"width": width, "height": height})
                if not number or path in DRAWN:  # a script that draws begins anew in each look
                    page.goto(f"{address}{path}")
                check_page(page, path, look)
        assert wrong == []
    with opened(browser, address, **PHONE) as (page, wrong):
        for path in (*PAGES, SQL):
            page.goto(f"{address}{path}")
            check_page(page, path, "phone")
        assert wrong == []


def check_page(page: "Page", path: str, look: str) -> None:
    """It fits its window, and has a title and one heading. Its picture is taken if pictures are asked for."""
    if path in DRAWN:
        page.wait_for_selector(".chart canvas")
    name = path.partition("?")[0].strip("/").replace("/", "-") or "overview"
    page.screenshot(path=PICTURES / f"{name}-{look}.png", full_page=True)
    assert not is_wide(page), (path, look)
    assert len(page.query_selector_all("h1")) == 1 and page.title(), (path, look)


def test_dark_mode_is_dark_and_the_chart_follows_it(browser: "Browser", address: str) -> None:
    brightness = """() => {
        const [r, g, b] = getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number);
        return (r + g + b) / 3;
    }"""
    with opened(browser, address) as (page, _):
        page.goto(f"{address}/progress")
        page.wait_for_selector(".chart canvas")
        assert page.evaluate(brightness) > 200
        before = page.evaluate("document.querySelector('.chart canvas').toDataURL()")
        page.emulate_media(color_scheme="dark")
        page.wait_for_timeout(300)
        assert page.evaluate(brightness) < 60
        assert page.evaluate("document.querySelector('.chart canvas').toDataURL()") != before


def test_an_experiment_is_reached_by_keyboard_alone(browser: "Browser", address: str) -> None:
    with opened(browser, address) as (page, wrong):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        for _ in range(30):
            if (page.evaluate("document.activeElement.getAttribute('href')") or "").startswith("/experiments/"):
                break
            page.keyboard.press("Tab")
            assert page.evaluate("document.activeElement.matches(':focus-visible')")
        page.keyboard.press("Enter")
        page.wait_for_url("**/experiments/mar8*")
        page.goto(f"{address}/sql")
        page.focus("textarea")
        page.keyboard.type("SELECT count(*) AS kept FROM history")
        page.keyboard.press("Control+Enter")
        page.wait_for_url("**/sql?q=SELECT*")
        assert page.text_content("thead th") == "kept" and wrong == []


def test_pages_are_readable_with_scripts_off(browser: "Browser", address: str) -> None:
    with opened(browser, address, java_script_enabled=False) as (page, _):
        assert "1.0140" in page.inner_text("main")
        page.goto(f"{address}/progress")
        assert page.is_visible("noscript svg") or page.is_visible("figure svg")
        page.goto(f"{address}/experiments")
        page.select_option("select[name=status]", "kept")
        page.click("form.filters button")
        assert "status=kept" in page.url and "7 of 7" in page.inner_text("main")


def test_a_point_of_the_chart_opens_its_experiment(browser: "Browser", address: str) -> None:
    with opened(browser, address, **WIDE) as (page, wrong):
        page.goto(f"{address}/progress")
        page.wait_for_selector(".chart canvas")
        place = page.evaluate("""() => {
            const element = document.querySelector(".chart"), chart = echarts.getInstanceByDom(element);
            const kept = chart.getOption().series.find((one) => one.name === "kept").data.at(-1);
            const [x, y] = chart.convertToPixel("grid", kept.value), box = element.getBoundingClientRect();
            return [box.x + x, box.y + y];
        }""")
        page.mouse.move(*place)
        page.mouse.click(*place)
        page.wait_for_url("**/experiments/mar8-0008")
        assert wrong == []


def test_a_new_verdict_is_seen_without_a_reload(browser: "Browser", tmp_path: Path) -> None:
    home = Home(tmp_path)
    record_night(home.folder)
    with served(home) as address, opened(browser, address) as (page, wrong):
        other = page.context.new_page()
        other.goto(f"{address}/integrity")
        scored = "Number(document.querySelector('#page .inline').innerText.match(/([0-9]+) ok/)[1])"
        before = other.evaluate(scored)
        page.wait_for_timeout(500)  # they listen
        with Store.open(home.folder) as store:
            id = store.query("SELECT id FROM history WHERE decision IS NULL").rows[0][0]
            store.add_run(id, make_run("another", 1.0139))
            store.add_verdict(id, Verdict(decision="keep", reason="it helps a lot"))
        page.wait_for_selector("text=it helps a lot", timeout=2_000)
        assert page.inner_text("#last_verdicts li:first-child .outcome") == "kept" and wrong == []
        for _ in range(80):
            if other.evaluate(scored) == before + 1:
                break
            other.wait_for_timeout(100)
        assert other.evaluate(scored) == before + 1, "another page than the overview"
