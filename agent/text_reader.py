"""Reads the texts of proposals ahead: in a process of its own on a large farm, whose event loop would else be late.

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
from typing import Any, BinaryIO

from agent.code_lines import changed_lines, priced_lines
from agent.compare_programs import changed_constants, program_of, slots_of, structure_of
from agent.main_guard import begins_with_guard
from agent.rebase import rebased_text
from research.files import research_folder
from research.hyperparameters import same_but_for_constants
from research.remembered_texts import Remembered
from research.runnable import not_runnable
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
}
"""What can be asked of texts, by its name."""

FEW_LOOPS = 2
"""So many loops need no process for it: their texts are read in threads."""

Question = tuple[str, tuple[Any, ...]]
"""The name of one of FUNCTIONS, and its arguments."""

Reading = tuple[Question, Any]
"""A question and its answer."""


def about_edit(before: str, after: str, evaluation: int) -> list[Question]:
    """What a loop asks of an edit until it is recorded. `evaluation`: bytes of text that it is scored on."""
    one: list[Question] = [(name, (text,)) for text in (before, after)
                           for name in ("syntax_problem", "character_problem", "program_of", "begins_with_guard")]  # fmt: skip
    pair = [(name, (before, after)) for name in ("slots_of", "changed_constants", "changed_lines", "priced_lines")]
    return [("not_runnable", (after, evaluation)), *one, ("structure_of", (after,)), *pair]


class TextReader:
    """Answers questions about texts beside the event loop. Several loops share it."""

    def __init__(self) -> None:
        self.loops = 0
        """How many loops use it."""
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_closed = False

    async def read(self, questions: Sequence[Question]) -> None:
        """Finds what is not remembered yet of the answers, so that they are at hand when they are asked for."""
        open_ones = [(name, given) for name, given in questions if not FUNCTIONS[name].knows(*given)]
        if open_ones:
            await asyncio.to_thread(self._read, open_ones)

    def close(self) -> None:
        """Ends the process. A second call does nothing."""
        self._is_closed = True
        if self._process is not None:  # not under the lock: what is being read is not needed any more
            self._process.kill()
            self._process.wait()

    def _read(self, questions: Sequence[Question]) -> None:
        if self.loops <= FEW_LOOPS or not self._read_apart(questions):
            answers(questions)

    def _read_apart(self, questions: Sequence[Question]) -> bool:
        """Has the process answer. Returns False if there is none, or it has ended: then they are answered here."""
        with self._lock:
            if self._is_closed:
                return True  # nobody waits for it
            if self._process is None or self._process.poll() is not None:
                self._process = _started()
            assert self._process.stdin is not None and self._process.stdout is not None
            try:
                _write(self._process.stdin, list(questions))
                found: list[Reading] = pickle.load(self._process.stdout)
            except (OSError, EOFError, pickle.UnpicklingError):
                self._process.kill()
                self._process.wait()
                return self._is_closed
        for (name, given), answer in found:
            FUNCTIONS[name].tell(answer, *given)
        return True


def answers(questions: Sequence[Question]) -> list[Reading]:
    """The questions that have an answer, each with it: of a text that is no Python some things can't be said."""
    found: list[Reading] = []
    for name, given in questions:
        with contextlib.suppress(SyntaxError):
            found.append(((name, given), FUNCTIONS[name](*given)))
    return found


def _started() -> "subprocess.Popen[bytes]":
    """A new process, in a session of its own: Ctrl-C in the terminal is for the farm. It ends with its standard input."""
    return subprocess.Popen([sys.executable, "-m", "agent.text_reader"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            cwd=research_folder().parent, start_new_session=True)  # fmt: skip


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
    told = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(lambda: pickle.load(sys.stdin.buffer), lambda found: _write(told, found))


if __name__ == "__main__":
    main()
