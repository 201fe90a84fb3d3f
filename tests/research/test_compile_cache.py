"""Compiled code: who may leave some for later runs, and what becomes of it."""

import os
from pathlib import Path

import pytest

from research import compile_cache
from research.hyperparameters import fit_to_profile, read_constants, write_constants

SHIPPED = Path(compile_cache.__file__).with_name("train.py").read_text()


def test_the_shipped_file_is_trusted_with_any_constants() -> None:
    assert compile_cache.is_trusted(SHIPPED)
    assert compile_cache.is_trusted(fit_to_profile(SHIPPED, "cpu", None)[0])
    assert compile_cache.is_trusted(write_constants(SHIPPED, {"DEPTH": 3, "MATRIX_LR": 0.5}))


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text + "\nimport os\n",
        lambda text: text.replace("def build_model", "print()\n\n\ndef build_model", 1),
        lambda text: text.replace(f"DEPTH = {read_constants(SHIPPED)['DEPTH']}", "DEPTH = print() or 8", 1),
        lambda text: text + "\nDEPTH = __import__('os').getpid()\n",
        lambda text: "def (",
    ],
    ids=["a line more", "a call more", "a call in a constant", "a constant again", "no Python"],
)
def test_any_other_program_is_not(edit) -> None:
    text = edit(SHIPPED)
    assert text != SHIPPED and not compile_cache.is_trusted(text)


def test_plain_files_are_added_and_what_is_there_stays(tmp_path: Path) -> None:
    private, shared = tmp_path / "private", tmp_path / "shared"
    (private / "ab").mkdir(parents=True)
    (private / "ab" / "kernel.py").write_text("new")
    (private / "old").write_text("changed")
    (private / "link").symlink_to("/etc/passwd")
    os.mkfifo(private / "pipe")
    shared.mkdir()
    (shared / "old").write_text("old")
    compile_cache.add_to_shared(private, shared)
    assert sorted(str(path.relative_to(shared)) for path in shared.rglob("*")) == ["ab", "ab/kernel.py", "old"]
    assert (shared / "ab" / "kernel.py").read_text() == "new" and (shared / "old").read_text() == "old"


def test_a_run_begins_with_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared, private = tmp_path / "shared", tmp_path / "private"
    (shared / "ab").mkdir(parents=True)
    (shared / "ab" / "kernel.py").write_text("code")
    monkeypatch.setenv(compile_cache.SHARED_VARIABLE, str(shared))
    monkeypatch.setenv(compile_cache.PRIVATE_VARIABLE, str(private))
    compile_cache.begin_with_shared()
    (private / "ab" / "kernel.py").write_text("planted")
    assert (shared / "ab" / "kernel.py").read_text() == "code"


def test_a_copy_leaves_out_what_another_run_is_adding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private, shared, copy = tmp_path / "private", tmp_path / "shared", tmp_path / "copy"
    private.mkdir()
    (private / "kernel").write_text("new")
    add = Path.replace

    def copied_before_it_is_whole(self: Path, target: Path) -> Path:
        monkeypatch.setenv(compile_cache.SHARED_VARIABLE, str(shared))
        monkeypatch.setenv(compile_cache.PRIVATE_VARIABLE, str(copy))
        compile_cache.begin_with_shared()
        return add(self, target)

    monkeypatch.setattr(Path, "replace", copied_before_it_is_whole)
    compile_cache.add_to_shared(private, shared)
    assert list(copy.iterdir()) == []
    assert [path.name for path in shared.iterdir()] == ["kernel"]
