"""Real commands: small Python scripts in place of a coding agent."""

import asyncio
import contextlib
import json
import re
import shlex
import sys
import time
from pathlib import Path

import psutil
import pytest

from agent.researcher import NotConfigured, ProposalFailed
from agent.researchers.command import CommandResearcher, permission_warning
from agent.researchers.containment import AgentBounds
from agent.researchers.make import researcher_warnings
from research.errors import UserError
from research.files import research_folder
from results.experiment import ExperimentRecord, Proposal
from tests.agent.samples import TRAIN_PY, make_context, make_record
from tests.in_time import in_time

EDIT = """
import pathlib, sys
train = pathlib.Path("research/train.py")
train.write_text(train.read_text().replace("DEPTH = 2", "DEPTH = 3"))
"""


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """The file in which a script records what it saw, in a folder that it may write."""
    folder = tmp_path / "notes"
    folder.mkdir()
    return folder / "notes"


def command_of(tmp_path: Path, script: str, arguments: str = "") -> str:
    path = tmp_path / "agent.py"
    path.write_text(script)
    return f"{shlex.quote(sys.executable)} {shlex.quote(str(path))} {arguments}"


def propose(tmp_path: Path, script: str, arguments: str = "", *, timeout_s: float = 20) -> Proposal:
    context = make_context((make_record(0, decision="keep"), make_record(1, title="wider")))
    researcher = CommandResearcher(
        command_of(tmp_path, script, arguments), timeout_s=timeout_s, bounds=AgentBounds(writable=(tmp_path / "notes",))
    )
    return asyncio.run(researcher.propose(context))


def test_only_its_train_py_and_its_idea_are_taken(tmp_path: Path) -> None:
    script = EDIT + "\n".join(
        [
            "pathlib.Path('research/run.py').write_text('hacked')",
            "pathlib.Path('IDEA.md').write_text('# Deeper  model\\n\\nDepth helps.\\n')",
        ]
    )
    proposal = propose(tmp_path, script)
    assert proposal.train_py == TRAIN_PY.replace("DEPTH = 2", "DEPTH = 3")
    assert (proposal.title, proposal.hypothesis, proposal.researcher) == ("Deeper model", "Depth helps.", "command")
    assert proposal.changes == {"DEPTH": (2, 3)} and proposal.usage.seconds > 0


def test_without_an_idea_the_change_is_the_title(tmp_path: Path) -> None:
    assert propose(tmp_path, EDIT).title == "DEPTH 2 -> 3"


def test_the_command_sees_a_plain_copy_with_the_history(tmp_path: Path, notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = (
        EDIT
        + f"""
import json, os
files = sorted(str(p) for p in pathlib.Path().rglob("*") if p.is_file())
seen = {{"files": files, "history": open("HISTORY.md").read(), "tsv": open("results.tsv").read(),
        "program": open("program.md").read(), "prompt": sys.argv[-1], "stdin": sys.stdin.read(),
        "folder": os.getcwd(), "env": dict(os.environ)}}
pathlib.Path({str(notes)!r}).write_text(json.dumps(seen))
"""
    )
    monkeypatch.setenv("ANTHROPIC_API_KEY", "the agent's own")
    monkeypatch.setenv("AUTORESEARCH_CACHE", "/x")
    monkeypatch.setenv("FARM_CACHE", "/x")
    monkeypatch.setenv("GIT_DIR", "/x")
    propose(tmp_path, script)
    seen = json.loads(notes.read_text())
    assert {"HISTORY.md", "program.md", "results.tsv", "research/train.py", "research/contract.py"} <= set(seen["files"])
    assert not [name for name in seen["files"] if ".git" in name]
    assert "e0001 | discard" in seen["history"] and "wider" in seen["tsv"] and seen["program"] == "Lower val_bpb."
    assert "IDEA.md" in seen["prompt"] and seen["stdin"] == ""
    assert seen["env"]["ANTHROPIC_API_KEY"] == "the agent's own" and seen["env"]["CUDA_VISIBLE_DEVICES"] == ""
    assert seen["env"]["PWD"] == seen["folder"]
    assert not {"AUTORESEARCH_CACHE", "FARM_CACHE", "GIT_DIR"} & set(seen["env"])


def test_the_prompt_replaces_its_placeholders(tmp_path: Path) -> None:
    script = EDIT + (
        "assert sys.argv[1].startswith('say: You are') and sys.argv[2] == '-q' and len(sys.argv) == 4\n"
        "assert pathlib.Path(sys.argv[3]).read_text() in sys.argv[1]\n"
    )
    propose(tmp_path, script, "'say: {prompt}' -q {prompt_file}")


def test_no_shell_reads_the_command(tmp_path: Path) -> None:
    propose(tmp_path, EDIT + "assert sys.argv[1:5] == ['$HOME', ';', 'touch', '*'], sys.argv\n", "'$HOME' ';' touch '*'")


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("", "unchanged"),
        ("import sys; print('no credit\\nleft'); sys.exit(3)", r"status 3\..*: no credit left"),
        ("raise SystemExit(1)", r"status 1\..*nothing"),
        ("open('research/train.py', 'w').write('def (')", "does not parse: line 1"),
        ("open('research/train.py', 'wb').write(b'\\xff')", "not UTF-8"),
        ("open('research/train.py', 'w').write('#' * 10**6)", "the limit is"),
        ("import os; os.unlink('research/train.py')", "no regular file"),
        ("import os; os.unlink('research/train.py'); os.symlink('/etc/passwd', 'research/train.py')", "no regular file"),
        ("import os; os.unlink('research/train.py'); os.mkfifo('research/train.py')", "no regular file"),
        ("import os; os.unlink('research/train.py'); os.mkdir('research/train.py')", "no regular file"),
    ],
)
def test_a_useless_outcome_fails_the_proposal_in_one_line(tmp_path: Path, script: str, reason: str) -> None:
    with pytest.raises(ProposalFailed, match=reason) as failure:
        propose(tmp_path, script)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize(
    ("command", "reason"), [("", "empty"), ("'", "can't be parsed"), ("no-such-agent -p", "'no-such-agent' was not found")]
)
def test_a_bad_command_is_refused_at_once(command: str, reason: str) -> None:
    with pytest.raises(NotConfigured, match=reason) as failure:
        CommandResearcher(command)
    assert isinstance(failure.value, UserError)


FAMILY = """
import os, subprocess, sys, time
sleep = [sys.executable, "-c", "import time; time.sleep(60)", {notes!r}]
children = [subprocess.Popen(sleep), subprocess.Popen(sleep, start_new_session=True), subprocess.Popen(sleep, env={{}})]
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.environ.clear()
        open({notes!r} + ".done", "w").close()
        os.execv(sleep[0], sleep)
    time.sleep(60)
while not os.path.exists({notes!r} + ".done"):
    time.sleep(0.01)
{after}
"""


def assert_gone(notes: Path) -> None:
    assert Path(f"{notes}.done").exists()
    assert processes_with(str(notes)) == []


def processes_with(word: str) -> list[int]:
    """Processes that have a word in their command line."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if word in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def test_a_command_that_takes_too_long_is_killed_with_all_it_started(tmp_path: Path, notes: Path) -> None:
    started = time.monotonic()
    with pytest.raises(ProposalFailed, match=r"after 1\.5 s"):
        propose(tmp_path, FAMILY.format(notes=str(notes), after="time.sleep(60)"), timeout_s=1.5)
    assert in_time(started, 6)
    assert_gone(notes)


def test_what_a_command_leaves_running_is_killed(tmp_path: Path, notes: Path) -> None:
    propose(tmp_path, FAMILY.format(notes=str(notes), after=EDIT))
    assert_gone(notes)


def test_a_cancelled_proposal_kills_its_command(tmp_path: Path, notes: Path) -> None:
    async def cancel_when_running() -> None:
        command = command_of(tmp_path, FAMILY.format(notes=str(notes), after="time.sleep(60)"))
        researcher = CommandResearcher(command, bounds=AgentBounds(writable=(notes.parent,)))
        proposal = asyncio.create_task(researcher.propose(make_context()))
        while not Path(f"{notes}.done").exists():
            await asyncio.sleep(0.01)
        proposal.cancel()
        with pytest.raises(asyncio.CancelledError):
            await proposal

    asyncio.run(asyncio.wait_for(cancel_when_running(), 30))
    assert_gone(notes)


@pytest.mark.parametrize(
    "command", ["claude -p", "/opt/bin/claude --print --model m", "claude -p --output-format json {prompt}"]
)
def test_claude_without_permission_to_edit_is_warned_of(command: str) -> None:
    warning = permission_warning(command)
    assert warning is not None and "--permission-mode acceptEdits" in warning and "\n" not in warning
    assert researcher_warnings(f"command:{command}", "auto")[0] == warning


@pytest.mark.parametrize(
    "command",
    [
        "claude -p --permission-mode acceptEdits",
        "claude -p --permission-mode=plan",
        "claude -p --dangerously-skip-permissions",
        "claude -p --allowedTools Edit,Write",
        "codex exec -p x",
        "sh -c 'claude -p'",
        "claude 'unbalanced",
        "",
    ],
)
def test_other_commands_are_not_warned_of(command: str) -> None:
    assert permission_warning(command) is None


def test_a_command_that_vanishes_fails_the_proposal(tmp_path: Path) -> None:
    path = tmp_path / "agent"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    researcher = CommandResearcher(str(path))
    path.unlink()
    with pytest.raises(ProposalFailed, match="can't be started"):
        asyncio.run(researcher.propose(make_context()))


# --- the examples of docs/researchers.md --------------------------------------------------------------------------------------


def example(language: str) -> str:
    """The code of an example in docs/researchers.md."""
    page = (Path(__file__).parents[3] / "docs" / "researchers.md").read_text(encoding="utf-8")
    (code,) = re.findall(rf"^```{language}\n(.*?)^```", page, re.M | re.S)
    return str(code)


@pytest.mark.parametrize(("language", "program"), [("sh", "/bin/sh"), ("python", sys.executable)])
@pytest.mark.parametrize(
    "train_py", [TRAIN_PY, (research_folder() / "train.py").read_text(encoding="utf-8")], ids=["small", "own"]
)
def test_an_example_makes_a_proposal_and_does_not_repeat_it(tmp_path: Path, language: str, program: str, train_py: str) -> None:
    script = tmp_path / "idea"
    script.write_text(example(language))
    researcher = CommandResearcher(f"{program} {shlex.quote(str(script))}")
    records: tuple[ExperimentRecord, ...] = (make_record(0, decision="keep"),)
    titles = []
    with pytest.raises(ProposalFailed, match=r"tried|no idea is left"):
        while len(titles) < 40:
            proposal = asyncio.run(researcher.propose(make_context(records, train_py)))
            ((name, (old, new)),) = proposal.changes.items()
            assert name.endswith("_LR") and isinstance(old, float) and new in (pytest.approx(1.1 * old), old / 2, old * 2)
            assert proposal.hypothesis and proposal.title.startswith(name)
            titles.append(proposal.title)
            records += (make_record(len(records), title=proposal.title),)
    assert titles and len(set(titles)) == len(titles)
