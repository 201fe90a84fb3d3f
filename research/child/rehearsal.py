"""The rehearsal: a second process that compiles ahead of time what the trainer will need, if nothing is compiled yet.

Tracing and compiling the model keeps one thread of the trainer busy for half a minute. Meanwhile a process forked off it
runs the warm-up of the same train.py with few rows and the model uncompiled, so it soon reaches the model's own kernels and
the functions that the optimizer compiles. The trainer then finds them compiled in its folder.
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

LEAST_THREADS = 8
"""Minimum CPU threads for a rehearsal to pay off: trainer, scorers and the compiler's processes run at the same time."""

LEAST_GPU_BYTES = 64 * GIB
"""Minimum GPU memory for a rehearsal: on a smaller GPU the batch takes all that the scorers leave."""

ROWS = 2
"""Rows per batch of the rehearsal: kernels depend on the model's widths, not on the number of rows."""


def is_worth_it(*, threads: int, gpu_bytes: int, compiled: bool) -> bool:
    """Whether a rehearsal pays off with these resources; not if the code that an earlier run `compiled` is available."""
    return threads >= LEAST_THREADS and gpu_bytes >= LEAST_GPU_BYTES and not compiled


class Rehearsal:
    """A process that calls `perform` silently, in parallel with this one. Start it before anything initialises CUDA here."""

    def __init__(self, perform: Callable[[], None]) -> None:
        self._pid = os.fork()
        if self._pid == 0:
            _perform_and_exit(perform)

    def end(self) -> None:
        """Kills the process. This is safe at any point: compiled files are written completely or not at all."""
        with contextlib.suppress(ProcessLookupError, ChildProcessError):  # train.py has reaped it, or ignores SIGCHLD
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)


def _perform_and_exit(perform: Callable[[], None]) -> NoReturn:
    """Ignores all errors: whatever fails here also fails in the trainer, which reports it."""
    with contextlib.suppress(BaseException):
        die_with_parent()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        leave_models_uncompiled()
        perform()
    os._exit(0)


def leave_models_uncompiled() -> None:
    """Makes torch.compile leave modules as they are from now on, in this process, and compile only functions."""
    compile_function = torch.compile

    def compile_or_leave(model: Any = None, **options: Any) -> Any:
        return model if isinstance(getattr(model, "__self__", model), nn.Module) else compile_function(model, **options)

    torch.compile = compile_or_leave


class RehearsalSession(Session):
    """A session with few rows, which ends the process when the clock would start."""

    def warmup(self, batch_size: int, batches: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The warm-up of a real session, with ROWS rows at most."""
        return super().warmup(min(batch_size, ROWS), batches)

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Ends the process: the rehearsal is over. Raises SystemExit."""
        raise SystemExit
