"""What a process in the sandbox can't do: each layer by itself, and all together."""

import errno
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors

from research.errors import UserError
from research.sandbox.layers import BROKEN, NO_LAYERS, Layers, check_strict, needed_files, probe, shut_to_others
from research.sandbox.linux import machine
from research.sandbox.visible import UNUSED_PACKAGES, is_within, package_folders, view_of_run
from tests.research.inside import inside

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or machine() not in ("x86_64", "aarch64"), reason="needs Linux on a processor that it knows"
)

REFUSED, UNREADABLE, GONE = f"errno {errno.EPERM}", f"errno {errno.EACCES}", f"errno {errno.ENOENT}"
ALL = Layers(identity=True, namespaces=True, landlock=7, seccomp=True)

TRIES = """{
    "socket": attempt(lambda: __import__("socket").socket()),
    "pair": attempt(lambda: __import__("socket").socketpair()),
    "secret": attempt(lambda: Path(%(secret)r).read_text()),
    "home": attempt(lambda: os.listdir(Path(%(secret)r).parent)),
    "checkout": attempt(lambda: Path(%(checkout)r, "pyproject.toml").read_text()),
    "own file": attempt(lambda: Path("x").write_text("abc")),
    "package": attempt(lambda: Path(%(checkout)r, "research", "x").write_text("abc")),
    "mount": attempt(lambda: __import__("research.sandbox.linux").sandbox.linux.mount("none", "/tmp", "tmpfs", 0)),
    "unshare": attempt(lambda: __import__("research.sandbox.linux").sandbox.linux.unshare(0x10000000)),
    "outlive": attempt(lambda: __import__("research.sandbox.linux").sandbox.linux.prctl(1, 0)),
    "kill": attempt(lambda: os.kill(%(victim)d, 9)),
    "program": attempt(lambda: __import__("subprocess").run(["true"]).returncode),
    "capabilities": Path("/proc/self/status").read_text().split("CapEff:")[1].split()[0],
    "processes": len([name for name in os.listdir("/proc") if name.isdigit()]),
    "user": os.getuid(),
}"""


@pytest.fixture
def victim():
    process = subprocess.Popen(["sleep", "1000"])
    yield process
    assert process.poll() is None, "it was killed"
    process.kill()
    process.wait()


def tries(tmp_path: Path, victim: "subprocess.Popen[bytes]") -> str:
    secret = tmp_path / "home" / "key"
    secret.parent.mkdir()
    secret.write_text("secret")
    checkout = Path(__file__).resolve().parents[3]
    return TRIES % {"secret": str(secret), "checkout": str(checkout), "victim": victim.pid}


def test_all_layers_together(tmp_path: Path, victim: "subprocess.Popen[bytes]") -> None:
    found, got = inside(tries(tmp_path, victim), missing=[])
    if "namespaces" not in found["layers"]:
        pytest.skip(f"this host gives no namespaces: {found['problems'].get('namespaces')}")
    assert isinstance(got, dict)
    assert (got["secret"], got["home"], got["checkout"]) == (GONE, GONE, GONE)
    assert (got["socket"], got["mount"], got["unshare"], got["outlive"]) == (REFUSED, REFUSED, REFUSED, REFUSED)
    assert got["kill"] == f"errno {errno.ESRCH}" and got["processes"] <= 2
    assert (got["pair"], got["own file"], got["program"]) == ("done", 3, 0)
    assert str(got["package"]).startswith("errno")
    assert int(got["capabilities"], 16) == 0 and got["user"] != 0


def test_without_namespaces_the_other_layers_still_hold(tmp_path: Path, victim: "subprocess.Popen[bytes]") -> None:
    found, got = inside(tries(tmp_path, victim), denied=["unshare"])
    assert "namespaces" not in found["layers"] and "Operation not permitted" in found["problems"]["namespaces"]
    if not any(name.startswith("landlock") for name in found["layers"]):
        pytest.skip("this host has no Landlock either")
    assert isinstance(got, dict)
    assert (got["secret"], got["home"], got["checkout"], got["package"]) == (UNREADABLE,) * 4
    assert (got["socket"], got["mount"], got["unshare"], got["outlive"]) == (REFUSED, REFUSED, REFUSED, REFUSED)
    assert got["kill"] == REFUSED and int(got["capabilities"], 16) == 0
    assert (got["pair"], got["own file"], got["program"]) == ("done", 3, 0)


def test_without_landlock_namespaces_hide_as_much(tmp_path: Path, victim: "subprocess.Popen[bytes]") -> None:
    found, got = inside(tries(tmp_path, victim), denied=["landlock_create_ruleset"])
    assert not any(name.startswith("landlock") for name in found["layers"]) and "landlock" in found["problems"]
    if "namespaces" not in found["layers"]:
        pytest.skip("this host gives no namespaces")
    assert isinstance(got, dict)
    assert (got["secret"], got["home"], got["checkout"], got["socket"]) == (GONE, GONE, GONE, REFUSED)
    assert str(got["package"]).startswith("errno")


@pytest.mark.parametrize("denied", [[], ["unshare"]], ids=["namespaces", "Landlock alone"])
def test_what_lies_below_a_readable_folder_can_be_hidden(denied: list[str]) -> None:
    """As the tests of Python's library are, where they are the text that runs are scored on."""
    import email

    private = Path(email.__file__).parent
    code = f"[attempt(lambda: Path({str(private / 'header.py')!r}).read_text()), len(Path({os.__file__!r}).read_text()) > 9]"
    _, got = inside(code, private=[private], denied=denied)
    assert got in ([GONE, True], [UNREADABLE, True])


@pytest.mark.parametrize("denied", [[], ["unshare"]], ids=["namespaces", "Landlock alone"])
def test_packages_that_no_run_needs_can_be_neither_read_nor_imported(denied: list[str]) -> None:
    folders = package_folders()
    assert [folder.name for folder in folders] == list(UNUSED_PACKAGES)
    code = f"""[
        [attempt(lambda: Path(folder, "__init__.py").read_text()) for folder in {[str(folder) for folder in folders]}],
        [__import__("importlib.util").util.find_spec(name) is None for name in {UNUSED_PACKAGES}],
        attempt(lambda: Path({safetensors.__file__!r}).read_text()) != "",
    ]"""
    _, got = inside(code, unread=folders, denied=denied)
    count = len(folders)
    assert got in ([[reason] * count, [True] * count, True] for reason in (GONE, UNREADABLE))


def test_a_path_of_modules_below_an_unread_folder_shows_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray puts folders of its own on the path of its workers."""
    [ray] = [folder for folder in package_folders() if folder.name == "ray"]
    monkeypatch.syspath_prepend(ray / "thirdparty_files")
    view = view_of_run(private=(), gpu_minor=None, unread=[ray])
    assert ray in view.hidden and not any(is_within(path, ray) for path in view.readable)


def test_attributes_of_files_outside_stay_as_they_are(tmp_path: Path) -> None:
    """Landlock alone lets an owner change them."""
    file = tmp_path / "file"
    file.write_text("x")
    file.chmod(0o600)
    before = file.stat()
    inside(
        f"[attempt(lambda: os.chmod({str(file)!r}, 0o777)), attempt(lambda: os.utime({str(file)!r}, (1, 1)))]",
        denied=["unshare"],
    )
    after = file.stat()
    assert (before.st_mode, before.st_mtime, before.st_uid) == (after.st_mode, after.st_mtime, after.st_uid)


def test_writing_ends_at_the_limit() -> None:
    found, got = inside('attempt(lambda: Path("x").write_bytes(bytes(2**25)))')
    if "namespaces" in found["layers"]:
        assert got == f"errno {errno.ENOSPC}"


def test_a_mac_has_no_layers_and_is_told_so() -> None:
    assert probe(view_of_run(private=(), gpu_minor=None), platform="darwin") == NO_LAYERS
    assert NO_LAYERS.names() == ("supervision",)


@pytest.mark.parametrize(
    ("layers", "missing"),
    [
        (replace(ALL, namespaces=False), "no namespaces,"),
        (replace(ALL, landlock=0), "no Landlock,"),
        (NO_LAYERS, "no namespaces and no Landlock and no seccomp,"),
    ],
)
def test_strict_refuses_what_is_missing(layers: Layers, missing: str) -> None:
    with pytest.raises(UserError, match=missing):
        check_strict(layers)


def test_strict_takes_all_of_them() -> None:
    check_strict(replace(ALL, identity=False))


CUDA_SOCKETS = """
import socket
from research.sandbox import seccomp

def attempt(action):
    try:
        action()
    except PermissionError:
        return "refused"
    return "done"

seccomp.install(seccomp.run_program(cuda=True))
listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
listener.bind("")
listener.listen()
asked = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
print(attempt(lambda: asked.connect(listener.getsockname())), attempt(listener.accept))
for family, kind in ((socket.AF_UNIX, socket.SOCK_STREAM), (socket.AF_UNIX, socket.SOCK_DGRAM),
                     (socket.AF_INET, socket.SOCK_STREAM), (socket.AF_INET, socket.SOCK_SEQPACKET)):
    print(attempt(lambda: socket.socket(family, kind)))
"""


def test_cuda_may_listen_and_nothing_can_be_sent() -> None:
    ended = subprocess.run([sys.executable, "-c", CUDA_SOCKETS], check=True, capture_output=True, text=True)
    assert set(ended.stdout.split()) == {"refused"} and len(ended.stdout.split()) == 6


def test_a_file_that_a_runs_user_cannot_read_is_found_before_the_run(tmp_path: Path) -> None:
    """Code that was installed with a umask of 077, file or folder; what lies around the view doesn't matter."""
    (tmp_path / "code" / "package").mkdir(parents=True)
    file = tmp_path / "code" / "package" / "module.py"
    file.touch()
    for folder in (tmp_path, tmp_path / "code", tmp_path / "code" / "package"):
        folder.chmod(0o755)
    file.chmod(0o644)
    tmp_path.chmod(0o700)
    within = [tmp_path / "code"]
    assert shut_to_others(file, within=within) is None
    for part, mode in ((file, 0o600), (file.parent, 0o700), (file.parent, 0o744), (tmp_path / "code", 0o750)):
        before = part.stat().st_mode
        part.chmod(mode)
        assert shut_to_others(file, within=within) == part
        part.chmod(before)
    assert shut_to_others(tmp_path / "elsewhere", within=within) is None
    assert {path.name for path in needed_files()} >= {"train.py", "session.py", "profiles.py", "os.py"}


BROKEN_SET_UP = """
import types
from pathlib import Path
from research.sandbox.layers import NO_LAYERS, enter
enter(types.SimpleNamespace(layers=NO_LAYERS), Path("."), channel=-1)
"""


def test_any_failure_of_the_set_up_is_laid_on_the_machine() -> None:
    ended = subprocess.run([sys.executable, "-c", BROKEN_SET_UP], capture_output=True, text=True)
    assert ended.returncode == BROKEN
    assert "Traceback" in ended.stderr and "could not be set up" in ended.stderr.splitlines()[-1]
