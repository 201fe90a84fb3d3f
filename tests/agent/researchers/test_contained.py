"""What a coding agent's command can't do: real, hostile programs, contained as this host can and by Landlock alone."""

import asyncio
import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from agent.researcher import NotConfigured
from agent.researchers import command, containment
from agent.researchers.command import CommandResearcher
from agent.researchers.containment import AgentBounds, Containment, containment_here, containment_warning
from research.files import research_folder
from research.sandbox import landlock
from results.experiment import Proposal
from tests.agent.samples import TRAIN_PY, make_context
from tests.in_time import in_time

MOUNTS, LANDLOCK, NOTHING = Containment(namespaces=True), Containment(landlock=True), Containment(problems={"x": "y"})

PRELUDE = """
import json, os, pathlib, socket, subprocess, sys, time
TRAIN = pathlib.Path("research/train.py")
TRAIN.write_text(TRAIN.read_text().replace("DEPTH = 2", "DEPTH = 3"))
def outcome(attempt):
    try:
        return attempt() or "done"
    except OSError as error:
        return type(error).__name__
def say(**found):
    pathlib.Path("IDEA.md").write_text("an idea\\n" + json.dumps(found))
"""


@pytest.fixture(params=["mounts", "landlock"])
def here(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Containment:
    """Each way in which a host can contain a command."""
    found = MOUNTS if request.param == "mounts" else LANDLOCK
    if not (containment_here().namespaces if found is MOUNTS else landlock.abi()):
        pytest.skip(f"no {request.param} here")
    monkeypatch.setattr(command, "containment", lambda mode: found)
    return found


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's home folder."""
    folder = tmp_path / "user"
    (folder / ".claude").mkdir(parents=True)
    (folder / ".ssh").mkdir()
    (folder / ".ssh" / "key").write_text("a key")
    (folder / ".claude" / "settings.json").write_text("{}")
    monkeypatch.setenv("HOME", str(folder))
    return folder


def command_of(tmp_path: Path, script: str) -> str:
    path = tmp_path / "agent.py"
    path.write_text(PRELUDE + script)
    return f"{shlex.quote(sys.executable)} {shlex.quote(str(path))}"


def propose(tmp_path: Path, script: str, bounds: AgentBounds | None = None, *, timeout_s: float = 30) -> Proposal:
    researcher = CommandResearcher(command_of(tmp_path, script), timeout_s=timeout_s, bounds=bounds)
    return asyncio.run(researcher.propose(make_context()))


def said(proposal: Proposal) -> dict[str, object]:
    """What the script said of its attempts."""
    found: dict[str, object] = json.loads(proposal.hypothesis)
    return found


def processes_with(word: str) -> list[int]:
    """Processes that have a word in their command line."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if word in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


# --- files --------------------------------------------------------------------------------------------------------------


def test_it_edits_its_folder_and_writes_nothing_else(tmp_path: Path, user: Path, here: Containment) -> None:
    checkout, outside = research_folder(), Path("/tmp/autoresearch-outside")
    script = f"""
paths = [{str(user / "x")!r}, {str(outside)!r}, {str(checkout / "x")!r}, "/etc/cron.d/x", "/var/spool/x", "/x",
         {str(user / ".ssh" / "x")!r}, "/dev/shm/autoresearch-outside"]
say(found=[outcome(lambda: pathlib.Path(path).write_text("x") and None) for path in paths])
"""
    proposal = propose(tmp_path, script)
    assert proposal.train_py == TRAIN_PY.replace("DEPTH = 2", "DEPTH = 3") and proposal.title == "an idea"
    left = [user / "x", outside, checkout / "x", Path("/etc/cron.d/x"), Path("/var/spool/x"), Path("/x"), user / ".ssh" / "x",
            Path("/dev/shm/autoresearch-outside")]  # fmt: skip
    assert [path for path in left if path.exists()] == []
    found = said(proposal)["found"]
    assert isinstance(found, list) and "done" not in found[2:6]
    assert here is MOUNTS or "done" not in found


def test_what_agents_keep_and_what_the_user_names_can_be_written(tmp_path: Path, user: Path, here: Containment) -> None:
    named = tmp_path / "named"
    named.mkdir()
    (user / ".claude.json").write_text("{}")
    script = f"""
user, named = pathlib.Path({str(user)!r}), pathlib.Path({str(named)!r})
(user / ".claude" / "token").write_text("new")
(user / ".claude.json").write_text("new")
(named / "x").write_text("new")
say(settings=outcome(lambda: (user / ".claude" / "settings.json").write_text("hooks") and None))
"""
    proposal = propose(tmp_path, script, AgentBounds(writable=(named,)))
    written = [user / ".claude" / "token", user / ".claude.json", named / "x"]
    assert [path.read_text() for path in written] == ["new"] * 3
    if here is MOUNTS:  # Landlock can't take a file out of a folder
        assert said(proposal)["settings"] == "OSError" and (user / ".claude" / "settings.json").read_text() == "{}"


def test_the_farms_home_and_keys_cannot_be_read(tmp_path: Path, user: Path, here: Containment) -> None:
    home, other = tmp_path / "farm", tmp_path / "farm-link"
    home.mkdir()
    other.symlink_to(home)
    (home / "journal.jsonl").write_text("audit scores")
    (tmp_path / "corpus").write_text("evaluation rows")
    neighbour = home / "worktrees" / "other" / "research" / "train.py"
    neighbour.parent.mkdir(parents=True)
    neighbour.write_text("another loop's")
    paths = [home / "journal.jsonl", other / "journal.jsonl", neighbour, tmp_path / "corpus", user / ".ssh" / "key"]
    script = f"""
paths = {[str(path) for path in paths]!r}
paths += [f"/proc/{os.getpid()}/root{{path}}" for path in paths] + [f"/proc/{os.getpid()}/environ"]
say(found=[outcome(lambda: pathlib.Path(path).read_text()) for path in paths])
"""
    bounds = AgentBounds(hidden=(home, tmp_path / "corpus"), writable=(tmp_path,))  # hidden although it is in a writable folder
    if here is LANDLOCK:
        bounds = AgentBounds(hidden=(home, tmp_path / "corpus"))
    found = said(propose(tmp_path, script, bounds))["found"]
    assert isinstance(found, list) and set(found) <= {"FileNotFoundError", "PermissionError"}, found
    assert (home / "journal.jsonl").read_text() == "audit scores"


def test_services_and_devices_are_out_of_sight(tmp_path: Path, user: Path) -> None:
    """No service can be asked to run something, and no disk can be read past its files."""
    if not containment_here().namespaces:
        pytest.skip("no namespaces here")
    script = """
say(run=sorted(os.listdir("/run")), devices=sorted(os.listdir("/dev")), tmp=os.listdir("/var/tmp"),
    processes=[name for name in os.listdir("/proc") if name.isdigit()],
    kernel=outcome(lambda: open("/proc/sys/kernel/core_pattern", "w").close()),
    null=outcome(lambda: open("/dev/null", "w").write("x") and None),
    bus=outcome(lambda: socket.socket(socket.AF_UNIX).connect("/run/dbus/system_bus_socket")))
"""
    found = said(propose(tmp_path, script))
    assert set(found["run"]) <= {"systemd", "resolvconf", "current-system", "opengl-driver", "NetworkManager"}  # type: ignore[call-overload]
    assert not [name for name in found["devices"] if name.startswith(("sd", "vd", "nvme", "nvidia", "mem"))]  # type: ignore[attr-defined]
    assert len(found["processes"]) <= 3 and found["null"] == "done"  # type: ignore[arg-type]
    assert found["kernel"] != "done" and found["bus"] != "done"


def undoing(hidden: Path) -> str:
    """A shell script that tries what mounts allow to get at a file in a hidden folder, and to write beside it."""
    around, place = hidden.parent.parent, "/tmp/autoresearch-place"
    return f"""
mkdir -p {place}
mount -o remount,rw,bind /; umount -l {hidden.parent}; cat {hidden}
mount --bind {around} {place}; cat {place}/{hidden.relative_to(around)}; umount {place}
mount --rbind / {place}; umount -l {place}{hidden.parent}; cat {place}{hidden}
echo x > {around}/x; echo x > {place}{around}/x; cat /proc/1/root{hidden}; cat {hidden}
"""


def test_it_cannot_undo_its_bounds(tmp_path: Path, user: Path, here: Containment) -> None:
    """Neither by itself nor from a user namespace of its own, in which it would have every capability."""
    hidden = research_folder() / "data" / "sources.py"  # in no folder for temporary files, so that it is covered
    script = f"""
def tried(*before):
    done = subprocess.run([*before, "sh", "-c", {undoing(hidden)!r}], capture_output=True, text=True)
    return done.stdout
say(plain=tried(), nested=tried("unshare", "-Urm"), same=tried("unshare", "-Um"))
"""
    found = said(propose(tmp_path, script, AgentBounds(hidden=(hidden.parent,))))
    assert set(found.values()) == {""} and not (research_folder() / "x").exists()


def test_an_ordinary_user_is_contained_too() -> None:
    setpriv = shutil.which("setpriv")
    if os.geteuid() != 0 or setpriv is None:
        pytest.skip("the other tests run as an ordinary user, or root can't become one")
    with tempfile.TemporaryDirectory(dir="/tmp") as place:  # where pytest's folders are, no other user may go
        Path(place).chmod(0o755)
        check_as_an_ordinary_user(Path(place), setpriv)


def check_as_an_ordinary_user(place: Path, setpriv: str) -> None:
    user, agent, hidden = place / "nobody", place / "agent.sh", research_folder() / "data" / "sources.py"
    (user / ".codex").mkdir(parents=True)
    for folder in (user, user / ".codex"):
        os.chown(folder, 65534, 65534)
    agent.write_text(
        "#!/bin/sh\nsed -i 's/DEPTH = 2/DEPTH = 3/' research/train.py\necho new > $HOME/.codex/token\n"
        f"echo x > $HOME/x\nid -u > IDEA.md\nunshare -Urm sh -c {shlex.quote(undoing(hidden))} >> IDEA.md\n"
        "setsid env -i sleep 98765 &\n"
    )
    agent.chmod(0o755)
    program = f"""
import asyncio
from agent.researchers.command import CommandResearcher
from pathlib import Path
from agent.researchers.containment import AgentBounds
from tests.agent.samples import make_context
bounds = AgentBounds(hidden=(Path({str(hidden.parent)!r}),))
proposal = asyncio.run(CommandResearcher("/bin/sh {agent}", bounds=bounds).propose(make_context()))
print(proposal.title, proposal.hypothesis)
"""
    reads_all = ("--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search")  # Python may be in root's home
    as_nobody = [setpriv, "--reuid", "65534", "--regid", "65534", "--clear-groups", *reads_all]
    done = subprocess.run(
        [*as_nobody, sys.executable, "-c", program],
        env={"HOME": str(user), "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": "/tmp"},
        cwd=research_folder().parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "65534", done.stderr
    assert (user / ".codex" / "token").read_text() == "new\n" and not (user / "x").exists()
    assert processes_with("98765") == []


# --- processes ----------------------------------------------------------------------------------------------------------

DAEMONS = """
word = {word!r}
sleep = [sys.executable, "-c", "import time; time.sleep(60)", word]
subprocess.Popen(["setsid", "env", "-i", *sleep])
subprocess.Popen(["nohup", *sleep], env={{}}, stdout=sys.stdout)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.environ.clear()
        os.execv(sleep[0], sleep)
    os._exit(0)
time.sleep(0.3)
"""


@pytest.mark.parametrize("what", [MOUNTS, LANDLOCK, NOTHING], ids=["mounts", "landlock", "nothing"])
def test_daemons_without_a_mark_end_with_their_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: Containment
) -> None:
    if (what is MOUNTS and not containment_here().namespaces) or (what is LANDLOCK and not landlock.abi()):
        pytest.skip("not here")
    monkeypatch.setattr(command, "containment", lambda mode: what)
    word = f"daemon-{tmp_path.name}-{time.monotonic_ns()}"
    started = time.monotonic()
    propose(tmp_path, DAEMONS.format(word=word) + "assert len(os.listdir('.'))\n")
    assert processes_with(word) == []
    assert in_time(started, 10)  # one that holds the output open keeps nobody waiting


def test_a_fork_bomb_ends_with_its_command(tmp_path: Path) -> None:
    if not containment_here().namespaces:
        pytest.skip("no namespaces here")
    word = f"bomb-{time.monotonic_ns()}"
    script = """
import signal
for _ in range(40):
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        end = time.monotonic() + 20
        while time.monotonic() < end:  # each is replaced by another as long as there is one
            if os.fork():
                os._exit(0)
            os.setsid()
            time.sleep(0.001)
        os._exit(0)
time.sleep(0.5)
"""
    path = tmp_path / "agent.py"
    path.write_text(PRELUDE + script)
    researcher = CommandResearcher(f"{shlex.quote(sys.executable)} {path} {word}")
    asyncio.run(researcher.propose(make_context()))
    assert processes_with(word) == []


def test_nothing_outlives_a_farm_that_is_killed(tmp_path: Path) -> None:
    word = f"orphan-{time.monotonic_ns()}"
    line = command_of(tmp_path, DAEMONS.format(word=word) + "time.sleep(60)\n")
    program = f"""
import asyncio
from agent.researchers.command import CommandResearcher
from tests.agent.samples import make_context
asyncio.run(CommandResearcher({line!r}).propose(make_context()))
"""
    farm = subprocess.Popen([sys.executable, "-c", program], cwd=research_folder().parent)
    deadline = time.monotonic() + 120
    while len(processes_with(word)) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(processes_with(word)) >= 3
    farm.send_signal(signal.SIGKILL)
    farm.wait()
    while processes_with(word) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes_with(word) == []


# --- what a host lacks --------------------------------------------------------------------------------------------------


def test_a_host_without_namespaces_is_said_once_and_refused_if_strict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containment, "containment_here", lambda: LANDLOCK)
    warning = containment_warning("auto")
    assert warning is not None and "Landlock" in warning and "farm doctor" in warning and "\n" not in warning
    with pytest.raises(NotConfigured, match="namespaces"):
        CommandResearcher("true", bounds=AgentBounds(sandbox="strict"))
    CommandResearcher("true", bounds=AgentBounds(sandbox="auto"))
    monkeypatch.setattr(containment, "containment_here", lambda: MOUNTS)
    assert containment_warning("auto") is None
    CommandResearcher("true", bounds=AgentBounds(sandbox="strict"))
    assert containment_warning("off") is not None


def test_without_a_sandbox_it_writes_where_the_user_may_and_its_daemons_still_end(tmp_path: Path, user: Path) -> None:
    word = f"off-{time.monotonic_ns()}"
    script = DAEMONS.format(word=word) + f"pathlib.Path({str(user / 'x')!r}).write_text('x')\n"
    propose(tmp_path, script, AgentBounds(sandbox="off"))
    assert (user / "x").read_text() == "x" and processes_with(word) == []
