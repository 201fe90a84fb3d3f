"""Reads the texts of proposals ahead: in processes of its own on a large farm, whose event loop would otherwise be late.

What is found there (`Readings`) is told to the functions that loops ask afterwards, which remember it.
"""

import asyncio
import contextlib
import gc
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, TypeVar

from agent.code_lines import changed_lines, priced_lines
from agent.compare_programs import changed_constants, program_of, slots_of, structure_of
from agent.diff import unified_diff
from agent.main_guard import begins_with_guard
from agent.rebase import rebased_text
from research.cpu_cores import usable_cores
from research.hyperparameters import same_but_for_constants
from research.remembered_texts import Remembered
from research.runnable import not_runnable
from research.start_apart import start_apart
from research.streams import own_output
from research.valid_train_py import character_problem, syntax_problem

FUNCTIONS: dict[str, Remembered[..., Any]] = {
    "begins_with_guard": begins_with_guard,
    "changed_constants": changed_constants,
    "changed_lines": changed_lines,
    "character_problem": character_problem,
    "not_runnable": not_runnable,
    "priced_lines": priced_lines,
    "program_of": program_of,
    "rebased_text": rebased_text,
    "same_but_for_constants": same_but_for_constants,
    "slots_of": slots_of,
    "structure_of": structure_of,
    "syntax_problem": syntax_problem,
    "unified_diff": unified_diff,
}
"""What can be asked of texts, by its name."""

FEW_LOOPS = 2
"""So many loops need no process for it: their texts are read in threads."""

MOST_PROCESSES = 4
"""The most processes that read at the same time: each reads eight texts a second, and 1,024 devices have four ideas in one."""

MOST_READINGS = 8
"""How often texts that an experiment asks about are read ahead, while others of its group change what it asks."""

Found = TypeVar("Found")

Question = tuple[str, tuple[Any, ...]]
"""The name of one of FUNCTIONS, and its arguments."""

Reading = tuple[Question, Any]
"""A question and its answer."""


class NotRead(Exception):
    """Some questions about texts have not been answered yet, and whoever asks can't wait for them."""

    def __init__(self, questions: "list[Question]") -> None:
        super().__init__(f"{len(questions)} questions")
        self.questions = questions


def require_answers(questions: "Sequence[Question]") -> None:
    """Raises NotRead unless all of these questions have been answered before."""
    if open_ones := _open_ones(questions):
        raise NotRead(open_ones)


def about_edit(before: str, after: str, evaluation: int) -> list[Question]:
    """What a loop asks of an edit until it is recorded. `evaluation`: bytes of text that it is scored on."""
    one: list[Question] = [(name, (text,)) for text in (before, after)
                           for name in ("syntax_problem", "character_problem", "program_of", "begins_with_guard")]  # fmt: skip
    pair = [(name, (before, after)) for name in ("slots_of", "changed_constants", "priced_lines")]
    return [("not_runnable", (after, evaluation)), *one, *pair, *about_record(before, after)]


def about_record(before: str, after: str) -> list[Question]:
    """What is asked of any text that runs, beside the one that it is made from."""
    return [("program_of", (after,)), ("structure_of", (after,)), ("changed_lines", (before, after)),
            ("unified_diff", (before, after))]  # fmt: skip


class TextReader:
    """Answers questions about texts beside the event loop. Several loops share it."""

    def __init__(self, *, most_processes: int | None = None) -> None:
        """`most_processes`: by default as many as there are cores, up to MOST_PROCESSES."""
        self.loops = 0
        """How many loops use it."""
        self._most = most_processes or min(MOST_PROCESSES, usable_cores())
        self._threads: ThreadPoolExecutor | None = None
        """One for each process that may read."""
        self._lock = threading.Lock()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._idle: list[subprocess.Popen[bytes]] = []
        self._is_closed = False

    async def read(self, questions: Sequence[Question]) -> bool:
        """Finds what is not remembered yet of the answers, so that they are at hand when they are asked for. Returns whether
        there was anything to find.
        """
        if self._is_closed or not _open_ones(questions):
            return False
        if self.loops <= FEW_LOOPS:
            await asyncio.to_thread(answers, _open_ones(questions))
            return True
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._most, thread_name_prefix="texts")
        await asyncio.get_running_loop().run_in_executor(self._threads, self._read_apart, questions)
        return True

    async def with_answers(self, attempt: Callable[[bool], Found]) -> Found:
        """What `attempt` returns once the texts that it misses, by NotRead, have been read. It is told whether to read itself,
        as it is at last, where others change meanwhile what it asks.
        """
        for _ in range(MOST_READINGS):
            try:
                return attempt(False)
            except NotRead as missing:
                await self.read(missing.questions)
        return attempt(True)

    def close(self) -> None:
        """Ends the processes. A second call does nothing."""
        with self._lock:
            self._is_closed = True
            ending, self._processes, self._idle = self._processes, [], []
        for process in ending:  # what is being read is not needed any more
            process.kill()
            process.wait()
        if self._threads is not None:
            self._threads.shutdown(wait=False)

    def _read_apart(self, questions: Sequence[Question]) -> None:
        """Has a process answer the questions; if it ends meanwhile, they are answered here."""
        asked = _open_ones(questions)  # another loop may have asked for the same meanwhile, as after a new head
        if not asked or self._is_closed:
            return
        process = self._taken()
        if process is None:
            return
        assert process.stdin is not None and process.stdout is not None
        try:
            _write(process.stdin, asked)
            found: list[Reading] = pickle.load(process.stdout)
        except (OSError, EOFError, pickle.UnpicklingError):
            process.kill()
            process.wait()
            if not self._is_closed:
                answers(asked)
            return
        with self._lock:
            if not self._is_closed:
                self._idle.append(process)
        for (name, given), answer in found:
            FUNCTIONS[name].tell(answer, *given)

    def _taken(self) -> "subprocess.Popen[bytes] | None":
        """A process that reads nothing now, which nobody else takes until it is idle again; None once all is closed."""
        with self._lock:
            if self._is_closed:
                return None
            self._processes = [process for process in self._processes if process.poll() is None]
            self._idle = [process for process in self._idle if process.returncode is None]
            if not self._idle:
                self._processes.append(_started())
                return self._processes[-1]
            return self._idle.pop()


def _open_ones(questions: Sequence[Question]) -> list[Question]:
    """The questions whose answers are not remembered."""
    return [(name, given) for name, given in questions if not FUNCTIONS[name].knows(*given)]


def answers(questions: Sequence[Question]) -> list[Reading]:
    """The questions that have an answer, each with it: of a text that is no Python some things can't be said."""
    found: list[Reading] = []
    for name, given in questions:
        with contextlib.suppress(SyntaxError):
            found.append(((name, given), FUNCTIONS[name](*given)))
    return found


def _started() -> "subprocess.Popen[bytes]":
    """A new process, which ends with its standard input."""
    return start_apart("agent.text_reader")


def _write(file: BinaryIO | Any, value: object) -> None:
    file.write(pickle.dumps(value))
    file.flush()


def serve(read: Callable[[], list[Question]], write: Callable[[list[Reading]], None]) -> None:
    """Answers lists of questions until there are no more."""
    gc.set_threshold(200_000, 20, 100)  # trees hold no cycles, and looking for them takes a third of the time
    while True:
        try:
            questions = read()
        except EOFError:
            return
        write(answers(questions))


def main() -> None:
    """Answers pickled questions on standard input until that ends."""
    with contextlib.suppress(OSError):
        os.nice(5)  # runs on this machine are scored by the clock
    told = os.fdopen(own_output(), "wb")
    serve(lambda: pickle.load(sys.stdin.buffer), lambda found: _write(told, found))


if __name__ == "__main__":
    main()
