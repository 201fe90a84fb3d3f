"""Compiles in a second process what the trainer is going to need, where nothing is compiled yet.

Tracing and compiling the model keeps one thread of the trainer busy for half a minute. Meanwhile a process forked off it
goes through the warm-up of the same train.py with few rows and the model uncompiled: so it soon meets the kernels that the
model is made of, and the functions that the optimizer compiles. When the trainer gets there it finds them in its folder.
"""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from research.gpu_memory import GIB
from research.sandbox.linux import die_with_parent
from research.session import Session

VARIABLE = "AUTORESEARCH_REHEARSE"
"""Set for a trainer that shall have a rehearsal."""

LEAST_THREADS = 8
"""The trainer, both scorers and the compiler's own processes want some at the same time."""

LEAST_GPU_BYTES = 64 * GIB
"""On a smaller GPU a batch is fitted to what is left beside the scorers, and a rehearsal takes some gigabytes more."""

ROWS = 2
"""In a batch of the rehearsal: kernels are compiled for the widths of a model, whatever the number of rows."""


def is_worth_it(*, threads: int, gpu_bytes: int, compiled: bool) -> bool:
    """Whether a run that may take so much shall have one; `compiled`: what an earlier run compiled is there."""
    return threads >= LEAST_THREADS and gpu_bytes >= LEAST_GPU_BYTES and not compiled


class Rehearsal:
    """A process that goes through `perform` silently, beside this one. Begin it before anything starts CUDA here."""

    def __init__(self, perform: Callable[[], None]) -> None:
        self._pid = os.fork()
        if self._pid == 0:
            _perform_and_exit(perform)

    def end(self) -> None:
        """Ends it wherever it is: what it compiles is written whole or not at all."""
        with contextlib.suppress(ProcessLookupError, ChildProcessError):  # train.py has collected it, or collects none
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)


def _perform_and_exit(perform: Callable[[], None]) -> NoReturn:
    """What goes wrong here goes wrong in the trainer, too, which says so."""
    with contextlib.suppress(BaseException):
        die_with_parent()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        leave_models_uncompiled()
        perform()
    os._exit(0)


def leave_models_uncompiled() -> None:
    """From here on torch.compile compiles functions alone, in this process."""
    compile_function = torch.compile

    def compile_or_leave(model: Any = None, **options: Any) -> Any:
        return model if isinstance(getattr(model, "__self__", model), nn.Module) else compile_function(model, **options)

    torch.compile = compile_or_leave


class RehearsalSession(Session):
    """A session of few rows, which ends the process where the clock would start."""

    def warmup(self, batch_size: int, batches: int) -> Iterator[tuple[Tensor, Tensor]]:
        """As in a real one, with ROWS rows at most."""
        return super().warmup(min(batch_size, ROWS), batches)

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Raises SystemExit."""
        raise SystemExit
