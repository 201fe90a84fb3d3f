"""What a run sees of a system: layouts of several distributions, made in a folder."""

import sys
import sysconfig
from pathlib import Path

import pytest

from research.sandbox import system_paths, visible
from research.sandbox.system_paths import SystemPaths, unused_python_paths
from research.sandbox.visible import View, view_of_run


def tree(root: Path, *names: str) -> None:
    """Makes these files below `root`; a name `A -> B` is a link."""
    for name in names:
        link, _, target = name.partition(" -> ")
        (root / link).parent.mkdir(parents=True, exist_ok=True)
        if target:
            (root / link).symlink_to(target)
        else:
            (root / link).write_text("x")


def seen(found: SystemPaths | View, root: Path, name: str) -> bool:
    """Whether a run sees the file `name` below `root`."""
    path = (root / name).resolve()
    hidden = [other.resolve() for other in found.hidden]
    shown = any(path.is_relative_to(other.resolve()) for other in found.readable)
    return shown and not any(path.is_relative_to(other) for other in hidden)


COMMON = ("usr/bin/gcc", "usr/include/stdio.h", "usr/include/c++/12/vector", "usr/local/cuda/bin/nvcc", "usr/local/cuda/nvvm/x",
          "usr/local/cuda/targets/x86_64-linux/lib/libcudart.so", "usr/local/nvidia/lib64/libcuda.so")  # fmt: skip
TEXTS = ("usr/share/doc/python/index.rst", "usr/src/linux/a.c", "usr/games/x", "opt/app/doc", "usr/local/cuda/doc/a.html",
         "usr/local/lib/python3.9/os.py")  # fmt: skip
LAYOUTS = {
    "Debian": (
        ("lib -> usr/lib", "lib64 -> usr/lib64", "usr/lib64/ld-linux-x86-64.so.2", "usr/lib/x86_64-linux-gnu/libc.so.6",
         "usr/lib/gcc/x86_64-linux-gnu/12/cc1plus", "usr/lib/locale/C.utf8/LC_CTYPE", "usr/lib/x86_64-linux-gnu/gconv/x.so",
         "usr/lib/llvm-14/bin/clang", "usr/local/lib/libx.so.1"),
        ("usr/lib/python3.11/os.py", "usr/lib/python3/dist-packages/x.py", "usr/lib/git-core/git", "usr/lib/node_modules/a.js",
         "usr/lib/x86_64-linux-gnu/perl/5.36/a.pm"),
    ),
    "Fedora": (
        ("lib64 -> usr/lib64", *(f"usr/lib64/lib{n}.so.{n}" for n in range(80)), "usr/libexec/gcc/x86_64-redhat-linux/14/cc1",
         "usr/lib/gcc/x86_64-redhat-linux/14/crtbegin.o", "usr/lib64/nvidia/libcuda.so"),
        ("usr/lib64/python3.13/os.py", "usr/lib/python3.13/os.py", "usr/lib64/perl5/a.pm", "usr/libexec/git-core/git",
         "usr/lib64/libreoffice/help/a.txt"),
    ),
    "NixOS": (("nix/store/abc-glibc/lib/libc.so.6", "run/opengl-driver/lib/libcuda.so"), ()),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_libraries_and_compilers_are_seen_and_texts_are_not(name: str, tmp_path: Path) -> None:
    needed, texts = LAYOUTS[name]
    tree(tmp_path, *COMMON, *needed, *TEXTS, *texts)
    found = system_paths.system_paths(root=tmp_path)
    files = [name.partition(" -> ")[0] for name in (*COMMON, *needed) if " -> " not in name]
    assert [name for name in files if not seen(found, tmp_path, name)] == []
    assert [name for name in (*TEXTS, *texts) if seen(found, tmp_path, name)] == []


def prefixes(monkeypatch: pytest.MonkeyPatch, *, base: Path, prefix: Path, packages: Path) -> None:
    sysconfig.get_config_vars()  # reads a module of Python's library the first time
    monkeypatch.setattr(sys, "base_prefix", str(base))
    monkeypatch.setattr(sys, "prefix", str(prefix))
    monkeypatch.setattr(sys, "path", [str(packages)])


def test_of_a_prefix_with_many_environments_only_the_running_one_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A virtual environment made with pyenv's or conda's Python."""
    base, venv = tmp_path / "conda", tmp_path / "venv"
    tree(base, "lib/python3.11/os.py", "lib/python3.11/site-packages/x.py", "envs/other/lib/python3.9/os.py", "pkgs/a/b.py")
    tree(venv, "lib/python3.11/site-packages/torch.py")
    prefixes(monkeypatch, base=base, prefix=venv, packages=venv / "lib/python3.11/site-packages")
    found = view_of_run(private=(), gpu_minor=None)
    assert seen(found, base, "lib/python3.11/os.py") and seen(found, venv, "lib/python3.11/site-packages/torch.py")
    for name in ("lib/python3.11/site-packages/x.py", "envs/other/lib/python3.9/os.py", "pkgs/a/b.py"):
        assert not seen(found, base, name), name


def test_an_environment_in_use_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tmp_path / "conda"
    tree(base, "envs/mine/lib/python3.11/site-packages/torch.py", "envs/other/a.py")
    prefixes(monkeypatch, base=base, prefix=base / "envs/mine", packages=base / "envs/mine/lib/python3.11/site-packages")
    found = view_of_run(private=(), gpu_minor=None)
    assert seen(found, base, "envs/mine/lib/python3.11/site-packages/torch.py")


def test_a_python_in_usr_brings_its_library_and_not_all_of_usr(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("base_prefix", "prefix"):
        monkeypatch.setattr(sys, name, "/usr")
    found = view_of_run(private=(), gpu_minor=None)
    assert not {Path("/usr"), Path("/usr/lib"), Path("/usr/share")} & set(found.readable)
    assert unused_python_paths() == []


def test_variables_that_name_the_whole_system_open_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_HOME", "/usr")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/usr/lib:/usr/local:/")
    found = view_of_run(private=(), gpu_minor=None)
    assert not {Path("/"), Path("/usr"), Path("/usr/lib"), Path("/usr/local")} & set(found.readable)


def test_a_compiler_elsewhere_is_seen_with_its_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, "gcc/bin/gcc", "gcc/lib64/libstdc++.so", "gcc/libexec/gcc/cc1", "gcc/share/doc/gcc.txt")
    (tmp_path / "gcc/bin/gcc").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/gcc/bin:/usr/bin")
    found = view_of_run(private=(), gpu_minor=None)
    assert seen(found, tmp_path, "gcc/bin/gcc") and seen(found, tmp_path, "gcc/libexec/gcc/cc1")
    assert not seen(found, tmp_path, "gcc/share/doc/gcc.txt")


def test_the_probe_sees_no_text_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    found = view_of_run(private=(), gpu_minor=None)
    for name in ("/usr/share/doc", "/usr/src", "/usr/games", "/opt"):
        if Path(name).exists():
            assert not seen(found, Path("/"), name.lstrip("/")), name
    assert visible.is_needed(Path(sys.prefix))


def test_the_folder_that_a_judge_is_started_in_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m` puts it on the path of modules, with whatever lies there."""
    (tmp_path / "private.txt").write_text("mine")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert not seen(view_of_run(private=(), gpu_minor=None), tmp_path, "private.txt")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/elsewhere")  # whatever contains the temporary folder is kept back
    assert seen(view_of_run(private=(), gpu_minor=None), tmp_path, "private.txt"), "what a user names is"
