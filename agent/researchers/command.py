"""A researcher that runs a coding agent's non-interactive command line: `claude -p`, `codex exec`, or a script."""

import asyncio
import contextlib
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

from agent.compare_programs import changed_constants, describe_changes, same_lines
from agent.researcher import Context, NotConfigured, ProposalFailed
from agent.researchers.agent_folder import read_idea, read_train_py, write_agent_folder
from agent.researchers.contained import Order
from agent.researchers.containment import AgentBounds, containment, files_of_command
from research.files import research_folder
from research.formatting import one_line
from research.sandbox import machine_files
from research.valid_train_py import problem_with
from results.experiment import Proposal, Usage

MARK = "AUTORESEARCH_AGENT"
"""The environment variable that marks every process of the command, so that leftover ones can be found and killed."""

HIDDEN = (
    *("AUTORESEARCH_", "FARM_", "GIT_", "PYTHON", "RAY_", "VIRTUAL_ENV", "OMP_NUM_THREADS"),
    *("DBUS_SESSION_BUS_ADDRESS", "SSH_AUTH_SOCK", "XDG_RUNTIME_DIR"),
)
"""Prefixes of environment variables that are not passed to the agent: the farm's own, and those that name services' sockets."""

END_SECONDS = 15.0
"""How long the process that contains a command has to end it."""

TAIL_BYTES = 2000
"""Bytes at the end of the output that are read for an error message."""

CLAUDE_PERMISSIONS = (
    "--permission-mode",
    "--dangerously-skip-permissions",
    "--allowedTools",
    "--allowed-tools",
    "--settings",
)
"""Options of `claude`, one of which it needs to edit files without asking."""

PROMPT = """\
You are one researcher of a farm that searches for the research/train.py with the lowest val_bpb after a fixed training
time. Propose ONE idea now, by editing research/train.py in the current folder.

1. Read program.md (the policy), HISTORY.md and results.tsv (what has been tried), and research/train.py (the head).
   The other files in research/ are for reading: changes to them are ignored.
2. Edit research/train.py. It must parse, and keep build_model() and train(session).
3. Write IDEA.md: line 1 is a short title that says what changes, the rest says why it should lower val_bpb.

Then exit. Don't run anything: a loop trains, scores, commits, logs, and keeps or discards your edit, so skip what
program.md says about setup, running, git and results.tsv. The GPU is busy and hidden from you. This folder is a copy
without git that will be deleted: only research/train.py and IDEA.md are taken from it. Nobody can answer questions.
"""


class CommandResearcher:
    """Runs the command in a temporary copy of the branch's files, and takes the edited train.py and IDEA.md from it.

    In the command, `{prompt}` stands for the prompt and `{prompt_file}` for the path of a file that holds it; without
    either, the prompt is appended as the last argument. No shell is involved. The command is contained (containment.py), and
    afterwards all processes that it started are killed (contained.py).
    """

    name = "command"

    def __init__(self, command: str, *, timeout_s: float = 1800.0, bounds: AgentBounds | None = None) -> None:
        try:
            self.arguments = tuple(shlex.split(command))
        except ValueError as error:
            raise NotConfigured(f"The researcher's command can't be parsed: {error}.") from None
        if not self.arguments:
            raise NotConfigured(
                "The researcher's command is empty: give one, such as `command:claude -p --permission-mode acceptEdits`."
            )
        if shutil.which(self.arguments[0]) is None:
            raise NotConfigured(f"The command {self.arguments[0]!r} was not found: install it, or check PATH.")
        self.timeout_s = timeout_s
        self._bounds = bounds or AgentBounds()
        self._containment = containment(self._bounds.sandbox)

    async def propose(self, context: Context) -> Proposal:
        """One edit made by the command. Raises ProposalFailed with the reason and the end of its output."""
        started = time.monotonic()
        try:
            train_py, title, hypothesis = await self._edit(context)
        except OSError as error:
            raise ProposalFailed(f"The command's folder can't be used: {error.strerror}.") from None
        problem = problem_with(train_py)
        if problem is not None:
            raise ProposalFailed(f"The command's edit can't be used: {problem}.")
        if same_lines(context.train_py, train_py):
            raise ProposalFailed("The command left research/train.py unchanged.")
        return Proposal(
            title=title or one_line(describe_changes(context.train_py, train_py), 120),
            hypothesis=hypothesis,
            train_py=train_py,
            researcher=self.name,
            changes=changed_constants(context.train_py, train_py),
            usage=Usage(seconds=time.monotonic() - started),
        )

    async def close(self) -> None:
        """Does nothing: a proposal that is cancelled kills its command itself."""

    async def _edit(self, context: Context) -> tuple[str, str, str]:
        """The text of train.py, the title and the hypothesis that the command left."""
        with tempfile.TemporaryDirectory(prefix="autoresearch-agent-", ignore_cleanup_errors=True) as name:
            scratch = Path(name)
            folder = scratch / "project"
            write_agent_folder(folder, context)
            log = scratch / "output.log"
            await self._run(self._order(scratch, folder), log)
            return read_train_py(folder), *read_idea(folder)

    def _order(self, scratch: Path, folder: Path) -> Order:
        """The command with its prompt, and its bounds."""
        prompt_file, temporary = scratch / "prompt.txt", scratch / "temporary"
        prompt_file.write_text(PROMPT, encoding="utf-8")
        temporary.mkdir()
        here = self._containment
        environment = _environment(os.environ, str(folder))
        if here.namespaces or here.landlock:
            environment["TMPDIR"] = machine_files.SCRATCH_FOLDERS[0] if here.namespaces else str(temporary)
        files = files_of_command(self.arguments, self._bounds, folder=folder, temporary=temporary, prompt_file=prompt_file,
                                 environment=environment)  # fmt: skip
        return Order(
            arguments=tuple(_with_prompt(self.arguments, prompt_file)),
            environment=environment,
            folder=str(folder),
            files=None if self._bounds.sandbox == "off" else files,
            namespaces=here.namespaces,
            landlock=here.landlock,
        )

    async def _run(self, order: Order, log: Path) -> None:
        """Runs the command to its end. Raises ProposalFailed unless it exits with 0."""
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "agent.researchers.contained"),
                cwd=research_folder().parent,
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
        assert process.stdin is not None
        process.stdin.write(order.to_json().encode() + b"\n")
        try:
            status = await asyncio.wait_for(process.wait(), self.timeout_s)
        except TimeoutError:
            raise ProposalFailed(f"The command was killed after {self.timeout_s:g} s. {_tail(log)}") from None
        finally:
            await _end(process, order.environment[MARK])
        if status != 0:
            raise ProposalFailed(f"The command exited with status {status}. {_tail(log)}")


def permission_warning(command: str) -> str | None:
    """One line if the command is `claude -p` without permission to edit; None otherwise, also for what can't be parsed."""
    try:
        arguments = shlex.split(command)
    except ValueError:
        return None
    prints = {"-p", "--print"} & set(arguments)
    if not arguments or Path(arguments[0]).name != "claude" or not prints:
        return None
    if any(argument.split("=")[0] in CLAUDE_PERMISSIONS for argument in arguments):
        return None
    return "warning: claude -p may not edit files unless it is told so: add --permission-mode acceptEdits to the command"


def _with_prompt(arguments: tuple[str, ...], prompt_file: Path) -> list[str]:
    filled = [part.replace("{prompt_file}", str(prompt_file)).replace("{prompt}", PROMPT) for part in arguments]
    return filled if filled != list(arguments) else [*arguments, PROMPT]


def _environment(inherited: Mapping[str, str], mark: str) -> dict[str, str]:
    """The user's environment with the agent's keys, without the variables in HIDDEN and without GPUs.

    On a GPU the agent would disturb the run that is being timed.
    """
    kept = {name: value for name, value in inherited.items() if not name.startswith(HIDDEN)}
    return {**kept, MARK: mark, "CUDA_VISIBLE_DEVICES": ""}


def _tail(log: Path) -> str:
    """The end of the command's output, in one line."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL_BYTES))
        text = one_line(file.read().decode("utf-8", errors="replace"), TAIL_BYTES)
    return f"Its output ends with: {text[-300:]}" if text else "It printed nothing."


async def _end(process: asyncio.subprocess.Process, mark: str) -> None:
    """Ends the process that contains a command, which kills what the command started.

    Where that can't know of all, on macOS or because it was killed itself, the mark in their environment tells.
    """
    assert process.stdin is not None
    process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), END_SECONDS)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    while survivors := _marked(mark):  # one may start another before it is killed
        for survivor in survivors:
            with contextlib.suppress(psutil.Error):
                survivor.kill()
        await asyncio.sleep(0.02)
    await process.wait()


def _marked(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found
