"""One run of a coding agent's command, contained, in a temporary copy of the branch's files."""

import asyncio
import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from agent.compare_programs import changed_constants, describe_changes, same_lines
from agent.researcher import Context, ProposalFailed
from agent.researchers.agent_folder import changed_elsewhere, listing, read_idea, read_train_py, write_agent_folder
from agent.researchers.coding_agents import CodingAgent, keys_of_others
from agent.researchers.contained import Order
from agent.researchers.containment import AgentBounds, Containment, files_of_command
from agent.researchers.history_text import guidance_text
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


@dataclass(frozen=True, kw_only=True)
class CommandLine:
    """A command that makes one proposal."""

    arguments: tuple[str, ...]
    """In them `{prompt}` stands for the prompt, and `{prompt_file}` for the path of a file that holds it."""
    reads_prompt: bool = False
    """Whether the prompt is its standard input, which is empty otherwise."""
    timeout_s: float
    agent: CodingAgent | None = None
    """The coding agent that it runs, whose own state alone it may write; None: any, or none that is known."""


class CommandRun:
    """One run of a command. What it prints goes to `output` and `errors`."""

    def __init__(self, command: CommandLine, *, scratch: Path, bounds: AgentBounds, here: Containment) -> None:
        """`scratch` is an empty folder; `here` is what contains the command."""
        self._command, self._scratch, self._bounds, self._here = command, scratch, bounds, here
        self._folder = scratch / "project"
        self._before: dict[str, tuple[int, int]] = {}
        self.output, self.errors = scratch / "output.log", scratch / "errors.log"

    async def to_end(self, context: Context) -> int:
        """Runs the command in a copy of the branch's files, and then kills all processes that it started.

        Returns its exit status. Raises ProposalFailed if it takes too long, or if the copy can't be written.
        """
        try:
            write_agent_folder(self._folder, context)
            self._before = listing(self._folder)
            order = self._order(prompt_of(context))
        except OSError as error:
            raise _unusable(error) from None
        with self.output.open("wb") as output, self.errors.open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "agent.researchers.contained"),
                cwd=research_folder().parent,
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=errors,
                start_new_session=True,
            )
        assert process.stdin is not None
        process.stdin.write(order.to_json().encode() + b"\n")
        try:
            return await asyncio.wait_for(process.wait(), self._command.timeout_s)
        except TimeoutError:
            raise ProposalFailed(f"The command was killed after {self._command.timeout_s:g} s. {self.tail()}") from None
        finally:
            await _end(process, order.environment[MARK])

    def proposal(self, context: Context, *, researcher: str, usage: Usage) -> Proposal:
        """The edit that the command left. Raises ProposalFailed if it can't be used."""
        train_py, (title, hypothesis) = read_train_py(self._folder), read_idea(self._folder)
        problem = problem_with(train_py)
        if problem is not None:
            raise ProposalFailed(f"The command's edit can't be used: {problem}.")
        if same_lines(context.train_py, train_py):
            raise ProposalFailed("The command left research/train.py unchanged.")
        return Proposal(
            title=title or one_line(describe_changes(context.train_py, train_py), 120),
            hypothesis=hypothesis,
            train_py=train_py,
            researcher=researcher,
            changes=changed_constants(context.train_py, train_py),
            usage=usage,
            discarded=changed_elsewhere(self._folder, self._before),
        )

    def tail(self) -> str:
        """The end of what the command printed, in one line: of its errors, if it printed any."""
        text = _end_of(self.errors) or _end_of(self.output)
        return f"Its output ends with: {text[-300:]}" if text else "It printed nothing."

    def _order(self, prompt: str) -> Order:
        """The command with its prompt, and its bounds."""
        prompt_file, temporary = self._scratch / "prompt.txt", self._scratch / "temporary"
        prompt_file.write_text(prompt, encoding="utf-8")
        temporary.mkdir()
        agent, here = self._command.agent, self._here
        environment = _environment(os.environ, str(self._folder), agent)
        if here.namespaces or here.landlock:
            environment["TMPDIR"] = machine_files.SCRATCH_FOLDERS[0] if here.namespaces else str(temporary)
        files = files_of_command(self._command.arguments, self._bounds, folder=self._folder, temporary=temporary,
                                 prompt_file=prompt_file, environment=environment, agent=agent)  # fmt: skip
        prompted = [part.replace("{prompt_file}", str(prompt_file)).replace("{prompt}", prompt)
                    for part in self._command.arguments]  # fmt: skip
        return Order(
            arguments=tuple(prompted),
            environment=environment,
            folder=str(self._folder),
            standard_input=str(prompt_file) if self._command.reads_prompt else os.devnull,
            files=None if self._bounds.sandbox == "off" else files,
            namespaces=here.namespaces,
            landlock=here.landlock,
        )


def prompt_of(context: Context) -> str:
    """The prompt, which ends with what the next idea should heed, if there is anything."""
    guidance = guidance_text(context).rstrip()
    return f"{PROMPT}\n{guidance}\n" if guidance else PROMPT


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A temporary folder for one run. Raises ProposalFailed if it can't be used."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="autoresearch-agent-", ignore_cleanup_errors=True)
    except OSError as error:
        raise _unusable(error) from None
    with folder as name:
        yield Path(name)


def _unusable(error: OSError) -> ProposalFailed:
    return ProposalFailed(f"The command's folder can't be used: {error.strerror}.")


def _environment(inherited: Mapping[str, str], folder: str, agent: CodingAgent | None) -> dict[str, str]:
    """The user's environment with the agent's keys, without the variables in HIDDEN, other agents' keys and GPUs.

    On a GPU the agent would disturb the run that is being timed. PWD is the working folder: some agents believe it.
    """
    foreign = frozenset[str]() if agent is None else keys_of_others(agent)
    kept = {name: value for name, value in inherited.items() if not name.startswith(HIDDEN) and name not in foreign}
    return {**kept, MARK: folder, "PWD": folder, "CUDA_VISIBLE_DEVICES": ""}


def _end_of(log: Path) -> str:
    """The end of what was printed, in one line; empty if nothing was."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL_BYTES))
        return one_line(file.read().decode("utf-8", errors="replace"), TAIL_BYTES)


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
