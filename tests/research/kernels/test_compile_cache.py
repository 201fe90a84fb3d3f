"""Compiled code: who may leave some for later runs, and what becomes of it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from triton import knobs
from triton.runtime.cache import FileCacheManager

from research.files import research_folder
from research.hyperparameters import fingerprint_without_constants, read_constants, write_constants
from research.kernels import compile_cache
from research.starting_hyperparameters import fit_to_profile

SHIPPED = (research_folder() / "train.py").read_text()


def test_the_shipped_file_is_trusted_with_any_constants() -> None:
    assert fingerprint_without_constants(SHIPPED) == compile_cache.SHIPPED, (
        "train.py has changed: put the first one into SHIPPED"
    )
    assert compile_cache.is_trusted(fit_to_profile(SHIPPED, "cpu", None)[0])
    assert compile_cache.is_trusted(write_constants(SHIPPED, {"DEPTH": 3, "MATRIX_LR": 0.5}))


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text + "\nimport os\n",
        lambda text: text.replace("def build_model", "print()\n\n\ndef build_model", 1),
        lambda text: text.replace(f"DEPTH = {read_constants(SHIPPED)['DEPTH']}", "DEPTH = print() or 8", 1),
        lambda text: text + "\nDEPTH = __import__('os').getpid()\n",
        lambda text: re.sub(r"(?m)^(DEPTH = \d+)", r"\1; print()", text),
        lambda text: re.sub(r"(?m)^DEPTH = \d+", "DEPTH = (4,\n 5); print()", text),
        lambda text: "def (",
    ],
    ids=["a line more", "a call more", "a call in a constant", "a constant again", "a statement behind a constant",
         "a statement behind a constant of two lines", "no Python"],
)  # fmt: skip
def test_any_other_program_is_not(edit) -> None:
    text = edit(SHIPPED)
    assert text != SHIPPED and not compile_cache.is_trusted(text)


def test_an_edited_file_does_not_vouch_for_itself(tmp_path: Path) -> None:
    """In a checkout, the file that is edited and the one that was shipped are the same file."""
    shutil.copytree(research_folder(), tmp_path / "research", ignore=shutil.ignore_patterns("__pycache__"))
    edited = tmp_path / "research" / "train.py"
    edited.write_text(SHIPPED + "\nprint()\n")
    asked = "from research.kernels.compile_cache import is_trusted; print(is_trusted(open('research/train.py').read()))"
    done = subprocess.run([sys.executable, "-c", asked], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True,
                          text=True)  # fmt: skip
    assert done.stdout == "False\n", done.stderr


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


def begin(shared: Path, private: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(compile_cache.SHARED_VARIABLE, str(shared))
    monkeypatch.setenv(compile_cache.PRIVATE_VARIABLE, str(private))
    compile_cache.link_shared()


def test_a_run_finds_what_is_shared_and_replaces_it_only_for_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared, private = tmp_path / "shared", tmp_path / "private"
    (shared / "ab").mkdir(parents=True)
    (shared / "ab" / "kernel.py").write_text("code")
    begin(shared, private, monkeypatch)
    assert (private / "ab" / "kernel.py").read_text() == "code"
    (private / "ab" / "another").write_text("planted")
    (private / "ab" / "another").replace(private / "ab" / "kernel.py")  # as all compilers write
    assert (private / "ab" / "kernel.py").read_text() == "planted" and (shared / "ab" / "kernel.py").read_text() == "code"


def test_a_beginning_leaves_out_what_another_run_is_adding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private, shared, copy = tmp_path / "private", tmp_path / "shared", tmp_path / "copy"
    private.mkdir()
    (private / "kernel").write_text("new")
    add = Path.replace

    def begun_before_it_is_whole(self: Path, target: Path) -> Path:
        begin(shared, copy, monkeypatch)
        return add(self, target)

    monkeypatch.setattr(Path, "replace", begun_before_it_is_whole)
    compile_cache.add_to_shared(private, shared)
    assert list(copy.iterdir()) == []
    assert [path.name for path in shared.iterdir()] == ["kernel"]


def tritons_own(folder: Path) -> FileCacheManager:
    """What Triton itself reads and writes a kernel's files with."""
    with knobs.cache.scope():
        knobs.cache.dir = str(folder / compile_cache.TRITON)
        return FileCacheManager("hash")


def test_triton_finds_a_kernel_that_another_run_compiled_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, shared = tmp_path / "first", tmp_path / "second", tmp_path / "shared"
    manager = tritons_own(first)
    manager.put_group("kernel.json", {"kernel.cubin": manager.put(b"code", "kernel.cubin")})
    compile_cache.add_to_shared(first, shared)
    shutil.rmtree(first)
    begin(shared, second, monkeypatch)
    found = tritons_own(second).get_group("kernel.json")
    assert found and Path(found["kernel.cubin"]).read_bytes() == b"code"


def test_a_kernel_that_was_not_finished_is_not_added(tmp_path: Path) -> None:
    """Its folder is linked whole, to where no run can write what lacks."""
    private, shared = tmp_path / "private", tmp_path / "shared"
    tritons_own(private).put(b"code", "kernel.cubin")
    compile_cache.add_to_shared(private, shared)
    assert list(shared.rglob("kernel.cubin")) == []


def test_files_that_say_that_a_process_is_at_work_are_not_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are opened to be written to, not replaced: a link to one would end the run."""
    private, shared = tmp_path / "private", tmp_path / "shared"
    private.mkdir()
    for name in ("ab.lock", "kernel"):
        (private / name).write_text("")
    compile_cache.add_to_shared(private, shared)
    assert [path.name for path in shared.iterdir()] == ["kernel"]


def test_a_run_is_known_to_have_been_added(tmp_path: Path) -> None:
    """What choosing a kernel for attention compiled is none."""
    private, shared = tmp_path / "private", tmp_path / "shared"
    private.mkdir()
    compile_cache.add_run_to_shared([private], shared)
    assert not compile_cache.holds_a_run(shared) and not shared.exists()
    (private / "kernel").write_text("")
    compile_cache.add_to_shared(private, shared)
    assert not compile_cache.holds_a_run(shared)
    compile_cache.add_run_to_shared([private], shared)
    assert compile_cache.holds_a_run(shared)
