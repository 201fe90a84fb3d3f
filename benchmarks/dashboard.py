"""How long the dashboard's pages take over a home with many made-up experiments.

    uv run python -m benchmarks.dashboard --experiments 10000

The home is that of `benchmarks/store.py`. `first` is the first request of each page after the start, `again` the median of five
more, in seconds of wall-clock time; estimates are computed in the background meanwhile, so pages that show them are asked again
once they are there.
"""

import argparse
import secrets
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.store import journal_lines
from cluster.dashboard.application import cookie_of, make_application
from cluster.dashboard.reader import HomeReader
from cluster.dashboard.serving import read_ahead
from cluster.home import Home

PAGES = (
    "/",
    "/experiments",
    "/experiments?status=discarded&sort=val_bpb&down=0&page=40",
    "/experiments?text=idea%2099&slot=DEPTH",
    "/experiments/bench-0-000100",
    "/progress",
    "/progress.json",
    "/near-misses",
    "/lineage",
    "/cost",
    "/sql?q=SELECT%20*%20FROM%20history",
    "/integrity",
)

ESTIMATING_SECONDS = 300.0
"""How long estimates may take."""


def main() -> None:
    """Measures the pages over a home of the size that the command line names, and prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--experiments", type=int, default=10_000, metavar="N")
    parser.add_argument("--branches", type=int, default=4, metavar="N", help="branches of the group (default: 4)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dashboard-benchmark-") as folder:
        home = Home(Path(folder))
        with home.journal.open("wb") as journal:
            journal.writelines(journal_lines(options.experiments, options.branches))
        measure(home)


def measure(home: Home) -> None:
    """Prints the seconds of the start and of each page."""
    from starlette.testclient import TestClient

    began = time.monotonic()
    reader, token = HomeReader(home), secrets.token_urlsafe(32)
    read_ahead(reader)
    print(f"{'start':<60}{time.monotonic() - began:>8.3f}")
    with TestClient(make_application(reader, token=token), base_url="http://127.0.0.1") as client:
        client.cookies.set(cookie_of(home), token)

        def seconds(path: str) -> float:
            before = time.monotonic()
            answer = client.get(path)
            assert answer.status_code == 200, path
            return time.monotonic() - before

        first = {path: seconds(path) for path in PAGES}
        began = time.monotonic()
        while not reader.estimates().is_known and time.monotonic() - began < ESTIMATING_SECONDS:
            time.sleep(0.1)
        print(f"{'estimates, in the background':<60}{time.monotonic() - began:>8.3f}")
        print(f"{'page':<60}{'first':>8}{'again':>8}")
        for path, took in first.items():
            print(f"{path:<60}{took:>8.3f}{median(seconds(path) for _ in range(5)):>8.3f}")


if __name__ == "__main__":
    main()
