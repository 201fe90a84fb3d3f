"""A farm under surroundings that no developer's machine has: all of them at once, since a run takes seconds."""

import json
import os
import subprocess
import sys
from pathlib import Path

from research.files import research_folder
from tests.cluster.forked_farm import ForkedFarm
from tests.cluster.test_farm import wait_for
from tests.cluster.tiny_checkout import GOOD_LR, Checkout

PROJECT = research_folder().parent

ODD = {
    "HOME": "/proc",  # can't be written
    "http_proxy": "http://127.0.0.1:1",  # refuses whatever is sent there
    "https_proxy": "http://127.0.0.1:1",
}


def test_a_run_where_nothing_is_as_usual(checkout: Checkout, tmp_path: Path) -> None:
    """Umask 077, a home folder that can't be written, proxies, a linked worktree, letters outside of ASCII, an output that
    can't be written from the first line on, and a train.py that a killed farm has half written.
    """
    checkout.edit("from the one before it.", "from the one before it \N{RIGHTWARDS ARROW} \N{SNOWMAN}.")
    checkout.git("commit", "--quiet", "--all", "--message", "letters")
    linked = tmp_path / "linked"
    checkout.git("worktree", "add", "--quiet", "-b", "side", str(linked))
    half_written = linked / "research" / ".train.py.0123abcd.tmp"
    half_written.touch()
    researcher = checkout.script({"title": "learn \N{SNOWMAN}", "constants": {"LR": GOOD_LR}})
    command = ("run", "--tag", "odd", "--devices", "cpu", "--budget", "1", "--experiments", "1", "--researcher",
               researcher)  # fmt: skip
    environment = {**checkout._environment(), **ODD}
    farm = ForkedFarm(command, folder=linked, environment=environment, output=Path("/dev/full"), umask=0o077)
    wait_for("end of the farm", lambda: farm.poll() is not None)
    assert farm.returncode == 0 and not half_written.exists()

    home = linked / "results" / "data"
    events = [json.loads(line) for line in (home / "logs" / "farm.log.jsonl").read_text().splitlines()]
    ends = [event["event"] for event in events if event["event"] in ("output_lost", "farm_ended")]
    assert ends == ["output_lost", "farm_ended"]
    decisions = {event["title"]: event["decision"] for event in events if event["event"] == "verdict"}
    assert decisions == {"baseline": "keep", "learn \N{SNOWMAN}": "keep"}
    kept = checkout.git("show", "autoresearch/odd:research/train.py")
    assert "\N{RIGHTWARDS ARROW} \N{SNOWMAN}" in kept and f"LR = {GOOD_LR}" in kept
    assert (home / "journal.jsonl").stat().st_mode & 0o077 == 0


WRITES = """
import locale
from agent.rebase import merge_texts
from cluster.judge_process import judge_environment
from tests.cluster.farm_samples import CPU
assert locale.getpreferredencoding() != "UTF-8"
print(ascii(merge_texts("a\\nb\\nc\\n", "\\u2192\\na\\nb\\nc\\n", "a\\nb\\nc\\nd\\n")), judge_environment(CPU)["PYTHONUTF8"])
"""


def test_the_locales_encoding_is_not_that_of_files() -> None:
    """Python reads and writes files in the locale's encoding unless it is told otherwise; train.py is UTF-8 everywhere."""
    odd = {**os.environ, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    done = subprocess.run([sys.executable, "-c", WRITES], env=odd, capture_output=True, text=True, cwd=PROJECT, check=False)
    assert done.stdout == r"'\u2192\na\nb\nc\nd\n' 1" + "\n", done.stderr
