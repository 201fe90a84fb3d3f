"""A farm outlives whoever reads its output."""

import json
import os
import subprocess
import sys
from pathlib import Path

PRINTS = """
import sys
from pathlib import Path
from cluster.home import Home
from cluster.output import LastingOutput
output = LastingOutput(Home(Path(sys.argv[1])))
for number in range(3):
    output.line("x" * 70_000)  # more than a pipe holds
print("done", file=sys.stderr)
"""


def test_a_reader_that_goes_away_is_told_once_and_noted_in_the_log(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-c", PRINTS, str(tmp_path)]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    told, last = done.stderr.splitlines()
    assert (done.returncode, last) == (0, "done")
    assert "goes on" in told and "farm stop" in told and f"--home {tmp_path}" in told
    [event] = [json.loads(line) for line in (tmp_path / "logs" / "farm.log.jsonl").read_text().splitlines()]
    assert event["event"] == "output_lost"


def test_a_full_disk_under_a_redirected_output_is_no_end(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PRINTS, str(tmp_path)]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0 and done.stderr.endswith("done\n")
    assert "output_lost" in (tmp_path / "logs" / "farm.log.jsonl").read_text()
