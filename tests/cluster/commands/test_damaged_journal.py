"""A journal with a damaged line, and no database: every command names the line and `farm doctor`, whichever line it is."""

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from cluster.cli import main
from cluster.commands.read_home import history_to_run_on
from cluster.home import Home
from research.errors import UserError
from tests.agent.shared_lab import SharedLab

READING = (["status", "--json"], ["report"], ["show", "1"])
WRITING = (["drop", "mar8-cpu0-0001"], ["confirm"], ["combine"], ["sql", "SELECT count(*) FROM history"])
"""Commands that open the store: only for the first line of each kind, since each makes a database."""


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The lines of a journal with a head of several ideas."""
    folder = tmp_path_factory.mktemp("damaged")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
        lab = SharedLab(folder, loops=1)

        async def research() -> None:
            (loop,) = lab.open()
            await loop.start()
            for _ in range(5):
                await loop.step()
            await loop.close()

        asyncio.run(research())
        lab.store.close()
    return (lab.home / "journal.jsonl").read_bytes().splitlines(keepends=True)


def kind_of(line: bytes) -> str:
    record = json.loads(line)
    return f"{record['kind']} {record['body'].get('kind', '')}"


def test_whichever_line_is_damaged_commands_say_so(
    journal: list[bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = set()
    for at, line in enumerate(journal):
        is_first, home = kind_of(line) not in seen, tmp_path / f"home{at}"
        seen.add(kind_of(line))
        for words in (["status"], *(READING if is_first else ()), *(WRITING if is_first else ())):
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir()
            damaged = line.replace(b'"checksum": "', b'"checksum": "-', 1)
            (home / "journal.jsonl").write_bytes(b"".join([*journal[:at], damaged, *journal[at + 1 :]]))
            main([*words, "--home", str(home)])
            captured = capsys.readouterr()
            told = f"{captured.out}{captured.err}"
            if words[0] != "sql":  # its warning of the line is logged
                assert f"line {at + 1}: " in told and "farm doctor" in told, (words, kind_of(line), told)
            assert "Nothing is recorded" not in told and "know the terms" not in told, (words, kind_of(line), told)
        with pytest.raises(UserError, match=rf"line {at + 1}: .*farm doctor"):
            history_to_run_on(Home(home))
    assert {"branch ", "experiment baseline", "run ", "event head"} <= seen


def test_a_query_of_a_damaged_journal_warns(journal: list[bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "journal.jsonl").write_bytes(b"".join([b"{}\n", *journal[1:]]))
    assert main(["sql", "SELECT count(*) FROM history", "--home", str(tmp_path)]) == 0
    assert "line 1: " in caplog.text and f"farm doctor --home {tmp_path}" in caplog.text
