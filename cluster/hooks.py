"""Commands of the user's own that run before and after each experiment of a farm, with JSON on standard input.

They run as the user, on the machine of the farm's own process. One that fails or takes too long is told and recorded, and the
farm goes on.
"""

import asyncio
import contextlib
import json
import os
import shlex
import shutil
import signal
import tempfile
from collections.abc import Mapping
from typing import Any, Literal, Protocol

from research.errors import UserError
from research.formatting import one_line
from results.experiment import Experiment, ExperimentRecord
from results.store import Store

HOOK_SECONDS = 60.0
"""How long a hook may take before it is killed."""

END_SECONDS = 3.0
"""How long a hook that still runs may take when the farm ends."""

HOOK_FAILED = "hook_failed"
"""The kind of the event that records that a hook failed."""

LONGEST_REASON = 300
"""Characters of a failed hook's output that are kept."""

Hook = Literal["before-experiment", "after-experiment"]


class _Observer(Protocol):
    def on_event(self, kind: str, **fields: Any) -> None: ...


class Hooks:
    """The hooks of a farm. Its methods are called in the farm's event loop."""

    def __init__(self, commands: Mapping[Hook, str | None], *, store: Store, observer: _Observer,
                 timeout_s: float = HOOK_SECONDS) -> None:  # fmt: skip
        """`commands` are command lines that no shell reads; None: there is no such hook."""
        self._commands, self._store, self._observer, self._timeout_s = commands, store, observer, timeout_s
        self._begun: set[str] = set()
        self._running: set[asyncio.Task[None]] = set()

    async def before(self, experiment: Experiment) -> None:
        """Runs the hook before the first run of an experiment since the farm started, and waits for it."""
        if experiment.id not in self._begun:
            self._begun.add(experiment.id)
            await self._run("before-experiment", about(experiment))

    def after(self, record: ExperimentRecord) -> None:
        """Runs the hook beside the loops after an experiment has its verdict."""
        task = asyncio.get_running_loop().create_task(self._run("after-experiment", outcome_of(record)))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def close(self) -> None:
        """Ends hooks that still run, after a moment: a farm that is stopped waits for nothing long."""
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=END_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _run(self, hook: Hook, told: dict[str, Any]) -> None:
        command = self._commands.get(hook)
        if command is None:
            return
        try:
            problem = await problem_of(command, json.dumps({"hook": hook, **told}), self._timeout_s)
        except OSError as error:
            problem = f"it can't be started ({error.strerror})"
        except asyncio.CancelledError:
            self._tell(hook, told, "it had not ended when its loop or the farm did, and was killed")
            raise
        if problem:
            self._tell(hook, told, problem)

    def _tell(self, hook: Hook, told: dict[str, Any], problem: str) -> None:
        fields = {"branch": told["branch"], "experiment": told["experiment"], "hook": hook, "reason": problem}
        self._store.add_event(HOOK_FAILED, fields)
        self._observer.on_event(HOOK_FAILED, **fields)


def about(experiment: Experiment) -> dict[str, Any]:
    """What a hook is told of an experiment."""
    names = ("branch", "number", "kind", "title", "hypothesis", "researcher", "commit", "parent_commit", "diff")
    return {"experiment": experiment.id, **{name: getattr(experiment, name) for name in names}}


def outcome_of(record: ExperimentRecord) -> dict[str, Any]:
    """What a hook is told of an experiment and its verdict; figures that aren't known are null."""
    verdict = record.verdict
    assert verdict is not None
    names = ("decision", "reason", "gain", "effect", "helps")
    return {**about(record.experiment), "val_bpb": record.val_bpb, **{name: getattr(verdict, name) for name in names}}


def check_hook(option: str, command: str | None) -> None:
    """Raises UserError for a command line that can't be parsed, or whose program isn't there. None is no hook."""
    if command is None:
        return
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UserError(f"{option} can't be parsed: {error}.") from None
    if not words or shutil.which(words[0]) is None:
        found = repr(one_line(words[0], 80)) if words else "an empty command"
        raise UserError(f"{option}: {found} was not found: install it, or give its whole path.")


async def problem_of(command: str, text: str, timeout_s: float) -> str:
    """Why a hook failed, in one line; empty if it did not. Raises OSError if it can't be started."""
    with tempfile.TemporaryFile() as output:
        process = await asyncio.create_subprocess_exec(
            *shlex.split(command), stdin=asyncio.subprocess.PIPE, stdout=output, stderr=output, start_new_session=True
        )
        try:
            await asyncio.wait_for(process.communicate(text.encode()), timeout_s)
        except TimeoutError:
            return f"it was killed after {timeout_s:g} s"
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if process.returncode == 0:
            return ""
        output.seek(max(0, output.seek(0, os.SEEK_END) - 4 * LONGEST_REASON))
        tail = one_line(output.read().decode("utf-8", errors="replace"), 4 * LONGEST_REASON)[-LONGEST_REASON:]
        return f"it exited with status {process.returncode}{f': {tail}' if tail else ''}"
