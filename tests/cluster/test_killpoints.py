"""A sample of the kills of tests/killpoints.py, and that its checker finds what must not be there."""

import shutil
from pathlib import Path

from agent.repo.git_command import run_git
from tests.killpoints import Kills
from tests.left_by_a_farm import faults


def test_a_farm_that_is_killed_goes_on_as_if_nothing_had_been_and_the_checker_can_tell(tmp_path: Path) -> None:
    kills = Kills(tmp_path, seed=3)
    kills.measure("try")
    places = kills.places["try"]
    counts = kills.run(1, scenario="try", at=len(places) - 1 - places[::-1].index("before fsync journal"))
    assert (counts["kills"] == 1, counts["violations"], counts["hangs"]) == (True, 0, 0), counts["first"]
    assert len({place.partition(" ")[2] for place in places}) > 15

    whole = tmp_path / "try-whole"
    journal = whole / "home" / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    run = next(line for line in lines if b'"id": "run:' in line)
    shutil.copy(journal, tmp_path / "journal")
    journal.write_bytes(b"".join(line for line in lines if line != run) + lines[-1])
    (whole / "home" / "some.tmp").touch()
    run_git(whole / "repo", "update-ref", "refs/heads/autoresearch/one", "main")
    found = "\n".join(faults(whole, ["one-0000-1"]))
    for fault in ("acknowledged and is gone", "is recorded 2 times", "some.tmp is left", "its head is"):
        assert fault in found, found
