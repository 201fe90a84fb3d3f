"""A researcher that runs a coding agent's non-interactive command line: `claude -p`, `codex exec`, or a script."""

import shlex
import shutil
import time
from pathlib import Path

from agent.researcher import Context, NotConfigured, ProposalFailed
from agent.researchers.command_run import CommandLine, CommandRun, scratch_folder
from agent.researchers.containment import AgentBounds, containment
from results.experiment import Proposal, Usage

CLAUDE_PERMISSIONS = (
    "--permission-mode",
    "--dangerously-skip-permissions",
    "--allowedTools",
    "--allowed-tools",
    "--settings",
)
"""Options of `claude`, one of which it needs to edit files without asking."""


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
        has_prompt = any("{prompt}" in part or "{prompt_file}" in part for part in self.arguments)
        command = CommandLine(
            arguments=self.arguments if has_prompt else (*self.arguments, "{prompt}"), timeout_s=self.timeout_s
        )
        with scratch_folder() as scratch:
            run = CommandRun(command, scratch=scratch, bounds=self._bounds, here=self._containment)
            status = await run.to_end(context)
            if status != 0:
                raise ProposalFailed(f"The command exited with status {status}. {run.tail()}")
            return run.proposal(context, researcher=self.name, usage=Usage(seconds=time.monotonic() - started))

    async def close(self) -> None:
        """Does nothing: a proposal that is cancelled kills its command itself."""


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
