"""What a dashboard with five open pages costs a farm that runs, and whether its pages stay live through an interrupt.

    uv run python -m benchmarks.live_dashboard --experiments 8 --picture docs/dashboard.png

A farm of two loops runs on this machine's CPU in a clone of the checkout, beside a dashboard whose five pages are open in a
headless chromium. Printed is what part of a core the driver takes with these pages open and with all closed, by turns, and how
late the pages show what the journal holds. The farm is then interrupted as by Ctrl-C and resumed. Nothing else should run.
"""

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING

import psutil

from cluster.home import Home
from cluster.local_api import connect

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page

PAGES = ("/", "/experiments", "/progress", "/near-misses", "/integrity")

SHOWN = "() => Number((document.querySelector('#experiment_rows .total').innerText.match(/of ([0-9,]+)/) || [0, 0])[1])"
"""How many experiments the list says there are."""

ROUNDS, SECONDS = 3, 15.0
"""How often pages are opened and closed, and how long each is measured."""

START_SECONDS = 240.0


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A browser at a dashboard."""

    context: "BrowserContext"
    address: str


def main() -> None:
    """Runs the farm and prints what was measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--experiments", type=int, default=8, metavar="N", help="ideas per loop (default: 8)")
    parser.add_argument("--budget", type=float, default=3, metavar="S", help="seconds of training per run (default: 3)")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="where the overview's picture goes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="live-dashboard-") as folder, dashboard(Path(folder) / "home") as link:
        checkout, home = Path(folder) / "checkout", Home(Path(folder) / "home")
        subprocess.run(["git", "clone", "--quiet", str(Path(__file__).parent.parent), str(checkout)], check=True)
        words = ["run", "--loops", "2", "--tag", "night", "--profile", "cpu", "--budget", f"{options.budget:g}", "--researcher",
                 "search", "--experiments", str(options.experiments), "--home", str(home.folder)]  # fmt: skip
        farm = start(words, checkout)
        try:
            with pages(link) as opened:
                measure(farm, home, opened)
                stop(farm)
                farm = start(words, checkout)
                print(f"after an interrupt and a resume: {lateness(home, opened, start_s=START_SECONDS)}")
                if options.picture:
                    take_picture(opened, options.picture)
        finally:
            stop(farm)


def start(words: list[str], checkout: Path) -> "subprocess.Popen[bytes]":
    """A command of the farm in a checkout."""
    return subprocess.Popen([sys.executable, "-m", "cluster.cli", *words], cwd=checkout, stdout=subprocess.DEVNULL)


@contextmanager
def dashboard(home: Path) -> Iterator[str]:
    """The link to a dashboard over a home."""
    words = [sys.executable, "-m", "cluster.dashboard.serving", str(home)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as serving:
        assert serving.stdout is not None
        yield serving.stdout.readline().strip()
        serving.terminate()


def stop(farm: "subprocess.Popen[bytes]") -> None:
    """Interrupts a farm as Ctrl-C does, and waits for its end."""
    with suppress(ProcessLookupError):
        farm.send_signal(signal.SIGINT)
    farm.wait()


@contextmanager
def pages(link: str) -> "Iterator[Opened]":
    """A browser that has followed the link."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        context = browser.new_context(viewport={"width": 1280, "height": 860})
        first = context.new_page()
        first.goto(link)
        yield Opened(context=context, address=first.url.rstrip("/"))
        browser.close()


def open_pages(opened: Opened) -> "list[Page]":
    """The five pages, and no other."""
    close_pages(opened)
    found = [opened.context.new_page() for _ in PAGES]
    for page, path in zip(found, PAGES, strict=True):
        page.goto(f"{opened.address}{path}")
    return found


def close_pages(opened: Opened) -> None:
    """Closes all pages but an empty one, which keeps the browser."""
    left = opened.context.new_page()
    for page in opened.context.pages:
        if page is not left:
            page.close()


def measure(farm: "subprocess.Popen[bytes]", home: Home, opened: Opened) -> None:
    """Prints the share of a core that the driver takes with pages and without, and how late they are."""
    close_pages(opened)
    wait_for_farm(home)
    driver = psutil.Process(farm.pid)
    with_pages, without = [], []
    for _ in range(ROUNDS):
        open_pages(opened)
        with_pages.append(share_of_core(driver))
        close_pages(opened)
        without.append(share_of_core(driver))
    shares = f"{fmean(with_pages):.2%} of a core with five pages, {fmean(without):.2%} without"
    print(f"driver: {shares} ({ROUNDS} turns of {SECONDS:g} s): {fmean(with_pages) - fmean(without):+.2%}")
    client = connect(home)
    assert client is not None
    before, asked = driver.cpu_times(), 200
    for _ in range(asked):
        client.status()
    after = driver.cpu_times()
    seconds = (after.user + after.system - before.user - before.system) / asked
    print(f"one question for its status: {seconds * 1e3:.2f} ms of the driver's CPU at most; each 2 s: {seconds / 2:.3%}")
    print(f"pages: {lateness(home, opened, start_s=0.0)}")


def share_of_core(process: psutil.Process) -> float:
    """The share of a core that a process takes for SECONDS, without its children."""
    before, began = process.cpu_times(), time.monotonic()
    time.sleep(SECONDS)
    after = process.cpu_times()
    return (after.user + after.system - before.user - before.system) / (time.monotonic() - began)


def wait_for_farm(home: Home) -> None:
    """Waits until a farm answers, and has recorded something."""
    until = time.monotonic() + START_SECONDS
    while connect(home) is None or not recorded(home):
        if time.monotonic() > until:
            raise SystemExit("the farm does not start")
        time.sleep(0.5)


def lateness(home: Home, opened: Opened, *, start_s: float) -> str:
    """How long after a new experiment is recorded the list shows it, over the next three of them."""
    page = open_pages(opened)[1]
    if start_s:
        wait_for_farm(home)
    late = []
    for _ in range(3):
        before = recorded(home)
        until = time.monotonic() + START_SECONDS
        while recorded(home) == before and time.monotonic() < until:
            page.wait_for_timeout(50)
        there, began = recorded(home), time.monotonic()
        while page.evaluate(SHOWN) < there and time.monotonic() - began < START_SECONDS:
            page.wait_for_timeout(50)
        late.append(time.monotonic() - began)
    return f"a new experiment is shown after {median(late):.1f} s ({max(late):.1f} s at most)"


def recorded(home: Home) -> int:
    """The number of experiments in the journal."""
    if not home.journal.is_file():
        return 0
    return home.journal.read_bytes().count(b'"kind": "experiment", "time"')


def take_picture(opened: Opened, path: Path) -> None:
    """The overview as it is now."""
    page = opened.context.new_page()
    page.goto(opened.address)
    page.wait_for_timeout(1_500)
    page.screenshot(path=path)


if __name__ == "__main__":
    main()
