"""The homes and caches that are known."""

from pathlib import Path

import pytest

from cluster.known_folders import known_folders, list_file, remember


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


def test_folders_are_remembered_once_as_long_as_they_are_there(tmp_path: Path) -> None:
    assert known_folders() == ()
    home, cache, odd = tmp_path / "home", tmp_path / "cache", tmp_path / "caf\udce9"
    for folder in (home, cache, odd):
        folder.mkdir()
    remember(home, cache)
    remember(cache, odd)
    assert known_folders() == (home, cache, odd)
    cache.rmdir()
    remember(home)
    assert known_folders() == (home, odd)


def test_a_list_that_cannot_be_written_or_read_stops_nothing(tmp_path: Path, state: Path) -> None:
    state.write_text("a file where the folder should be")
    remember(tmp_path)
    assert known_folders() == () and not list_file().exists()


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    list_file().parent.mkdir(parents=True)
    left = list_file().with_name(".folders.0123abcd.tmp")
    left.touch()
    remember(tmp_path)
    assert not left.exists() and known_folders() == (tmp_path,)
