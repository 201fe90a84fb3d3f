"""Pages over a history whose records are not held in memory: what a page reads and sends doesn't grow with it."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from benchmarks.store import GROUP, journal_lines
from cluster.dashboard import insights, progress_points
from cluster.dashboard.application import make_application
from cluster.dashboard.reader import HomeReader
from cluster.home import Home
from results.journal import JournalReader, JournalRecord
from tests.cluster.dashboard.visitor import TOKEN

ADDRESSES = ("/", "/experiments", "/experiments/bench-0-000007", "/progress", "/progress.json", "/near-misses", "/lineage",
             "/cost", "/integrity", "/fragments/headlines", "/fragments/last_verdicts")  # fmt: skip


def test_a_page_reads_no_more_records_of_a_longer_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_points, "MOST_SAMPLED", 8)
    monkeypatch.setattr(insights, "MOST_NEAR_MISSES", 3)
    read: list[int] = []
    at = JournalReader.at

    def counted(reader: JournalReader, positions: Sequence[int]) -> list[JournalRecord]:
        read.extend(positions)
        return at(reader, positions)

    monkeypatch.setattr(JournalReader, "at", counted)
    lines, home = [*journal_lines(160, 1)], Home(tmp_path)
    reader = HomeReader(home, most_kept=0)
    found: list[dict[str, int]] = []
    with TestClient(make_application(reader, token=TOKEN), base_url="http://127.0.0.1:8765") as client:
        for part in (lines[: 1 + 3 * 20], lines[1 + 3 * 20 :]):
            with home.journal.open("ab") as journal:
                journal.writelines(part)
            assert client.get(f"/?token={TOKEN}").status_code == 200
            found.append({})
            for address in ADDRESSES:
                before = len(read)
                assert client.get(address).status_code == 200
                found[-1][address] = len(read) - before
        (group,) = json.loads(client.get("/progress.json").text)["groups"]
    assert all(of_part.pop("/near-misses") <= 3 * 3 for of_part in found), "as soon as they are estimated"
    assert found[0] == found[1] and 0 < sum(found[0].values()) < 100
    assert (group["name"], group["total"], group["every"]) == (GROUP, 160, 32)
    assert group["points"][0][:3] == [0, 0.9, "kept"]
    assert [point[0] for point in group["points"][1:] if point[2] == "discarded"] == [32, 64, 96, 128], (
        "and near-misses, if known"
    )
