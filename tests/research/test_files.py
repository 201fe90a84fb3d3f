"""A file is written whole or not at all."""

import os
import stat
import threading
from pathlib import Path

import pytest

from research.files import replacing, write_atomically


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.mark.parametrize("content", ["naïve\n", b"\xff\0"])
def test_a_file_is_written_and_nothing_else_is_left(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "new" / "file"
    for written in ("old", content):
        write_atomically(path, written)
    assert path.read_bytes() == (content if isinstance(content, bytes) else content.encode())
    assert names(path.parent) == ["file"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        assert path.read_text() == "old"
        raise RuntimeError
    assert path.read_text() == "old" and names(tmp_path) == ["file"]


def test_a_private_file_is_for_this_user_alone_from_its_first_byte(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch(0o644)
    with replacing(path, private=True) as temporary:
        assert stat.S_IMODE(temporary.stat().st_mode) == 0o600
        temporary.write_text("secret")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_other_files_get_the_mode_that_the_process_gives(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file", "text")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_the_first_file_stays_where_nothing_is_overwritten(tmp_path: Path) -> None:
    for text in ("first", "second"):
        write_atomically(tmp_path / "file", text, overwrite=False)
    assert (tmp_path / "file").read_text() == "first" and names(tmp_path) == ["file"]


def test_a_reader_sees_one_whole_file_while_threads_write(tmp_path: Path) -> None:
    path = tmp_path / "file"
    texts = {letter * 100_000 for letter in "abc"}
    write_atomically(path, "a" * 100_000)
    writers = [threading.Thread(target=lambda text=text: [write_atomically(path, text) for _ in range(20)]) for text in texts]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert path.read_text() in texts
    assert names(tmp_path) == ["file"]
