"""A file is written whole or not at all."""

import os
import shutil
import stat
import threading
from pathlib import Path

import pytest

from research.files import remove_tree, remove_unfinished, replacing, write_atomically
from tests.research.nested import nest


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


def test_a_tree_is_removed_however_deeply_it_is_nested(tmp_path: Path) -> None:
    """Its longest path is far longer than the system lets a path be."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    nest(folder, 5000)
    assert remove_tree(folder)
    assert list(tmp_path.iterdir()) == []


def test_a_tree_is_removed_with_closed_folders_and_without_what_its_links_lead_to(tmp_path: Path) -> None:
    kept = tmp_path / "kept" / "file"
    kept.parent.mkdir()
    kept.write_text("x")
    folder = tmp_path / "scratch"
    (folder / "a" / "b" / "c").mkdir(parents=True)
    (folder / "a" / "b" / "file").write_text("x")
    (folder / "a" / "link").symlink_to(kept.parent)
    (folder / "link").symlink_to(kept)
    (folder / "a" / "b" / "c").chmod(0)
    (folder / "a" / "b").chmod(0o300)
    assert remove_tree(folder) and not folder.exists()
    assert kept.read_text() == "x" and kept.parent.stat().st_mode & 0o777 == 0o755
    assert remove_tree(folder), "nothing is left of what was never there"


def test_a_link_to_a_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    assert not remove_tree(tmp_path / "link")
    assert (tmp_path / "kept").is_dir()


def test_what_a_killed_process_left_unfinished_goes_and_nothing_else(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "a.tsv") as temporary:
        shutil.copy(temporary, tmp_path / ".b.tsv.0123abcd.tmp")
        raise KeyboardInterrupt
    (tmp_path / ".farm-tries-x1y2.tmp").touch()
    others = {"notes.tmp", ".mine.tmp", "a.tsv"}
    for name in others:
        (tmp_path / name).touch()
    remove_unfinished(tmp_path)
    remove_unfinished(tmp_path / "none")
    assert {path.name for path in tmp_path.iterdir()} == others
    for name in (mine := ".notes.md.0123abcd.tmp", ".results.tsv.0123abcd.tmp"):
        (tmp_path / name).touch()
    remove_unfinished(tmp_path, ("results.tsv",))
    assert {path.name for path in tmp_path.iterdir()} == {*others, mine}
