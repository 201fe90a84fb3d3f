"""`python -m MODULE ARGUMENTS` for modules of the farm, forked off a process that has imported them, torch, DuckDB and pandas.

The command is this file with a socket's path, `-m`, a module and its arguments. Run so, it hands its standard streams, folder
and environment to the process that listens there, which forks one that takes them over and runs the module, and lives as
long as that one. Whoever kills it kills that one, too; but a judge ends its tree itself, when its standard input closes.
"""

import json
import os
import socket
import sys
from pathlib import Path

JUDGE = "research.run"


def main(path: str, module: str, *arguments: str) -> int:
    """Runs in a Python that imports nothing else. Returns the module's exit status; 1 for one that was killed."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        order = {"folder": str(Path.cwd()), "environment": dict(os.environ), "module": module, "arguments": arguments}
        told = json.dumps(order).encode()
        connection.sendall(len(told).to_bytes(4, "big"))
        ends_with_this, _held = os.pipe()
        socket.send_fds(connection, [told[:1]], [0, 1, 2, ends_with_this])
        connection.sendall(told[1:])
        os.close(ends_with_this)
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in range(3):  # or the module's output would stay open after its end
            os.dup2(nothing, number)
        return int.from_bytes(connection.recv(1) or b"\x01", "big")


def serve(path: str, layers: object) -> None:
    """Forks a process for each that connects; never returns. Runs in a process of its own, which has imported the farm."""
    import signal

    from tests.cluster.forked_farm import make_judges_cheaper

    make_judges_cheaper(layers)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the processes here
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        while True:
            connection, _ = listening.accept()
            with connection:
                if os.fork() == 0:
                    listening.close()
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    _run(connection)


def _run(connection: socket.socket) -> None:
    """Runs in a process of its own, and never returns."""
    code = 1
    try:
        os.setsid()
        length = int.from_bytes(connection.recv(4, socket.MSG_WAITALL), "big")
        first, (*streams, ends), _, _ = socket.recv_fds(connection, 1, 4)
        told = json.loads(first + connection.recv(length - 1, socket.MSG_WAITALL))
        from tests.cluster.forked_farm import become

        become(told["folder"], told["environment"], *streams)
        for stream in streams:
            os.close(stream)
        sys.path[:0] = filter(None, told["environment"].get("PYTHONPATH", "").split(os.pathsep))  # as a new Python does
        if told["module"] != JUDGE:
            _end_with(ends)
        code = _status_of(told["module"], told["arguments"])
        sys.stdout.flush()
        connection.sendall(bytes([code]))
    finally:
        os._exit(code)


def _end_with(pipe: int) -> None:
    """Lets the kernel end this process when the pipe's other end is closed."""
    import fcntl

    fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(pipe, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)  # SIGIO, whose default is the end


def _status_of(module: str, arguments: list[str]) -> int:
    """What the module's `main` returns or exits with, as an exit status."""
    import importlib
    import traceback

    sys.argv = [module, *arguments]
    try:
        status = importlib.import_module(module).main()
    except SystemExit as ended:
        status = ended.code
    except BaseException:
        traceback.print_exc()
        return 1
    return status if isinstance(status, int) else int(status is not None)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], *sys.argv[3:]))
