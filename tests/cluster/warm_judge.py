"""Real judges for workers in other process trees, forked off a process that has imported torch.

A judge's command is this file with a socket's path. Run so, it hands its standard streams, folder and environment to the
process that listens there, which forks a judge that takes them over, and it lives as long as that judge.
"""

import json
import os
import socket
import sys
from pathlib import Path


def main(path: str) -> int:
    """Runs in a Python that imports nothing else. Returns the judge's exit status; 1 for one that was killed."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        told = json.dumps({"folder": str(Path.cwd()), "environment": dict(os.environ)}).encode()
        connection.sendall(len(told).to_bytes(4, "big"))
        socket.send_fds(connection, [told[:1]], [0, 1, 2])
        connection.sendall(told[1:])
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in range(3):  # or the judge's output would stay open after its end
            os.dup2(nothing, number)
        return int.from_bytes(connection.recv(1) or b"\x01", "big")


def serve(path: str, layers: object) -> None:
    """Forks a judge for each that connects; never returns. Runs in a process of its own, which has imported the judge."""
    import signal

    from tests.cluster.forked_farm import make_judges_cheaper

    make_judges_cheaper(layers)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the judges here
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        while True:
            connection, _ = listening.accept()
            with connection:
                if os.fork() == 0:
                    listening.close()
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    _judge(connection)


def _judge(connection: socket.socket) -> None:
    """Runs in a process of its own, and never returns."""
    code = 1
    try:
        os.setsid()
        length = int.from_bytes(connection.recv(4, socket.MSG_WAITALL), "big")
        first, streams, _, _ = socket.recv_fds(connection, 1, 3)
        told = json.loads(first + connection.recv(length - 1, socket.MSG_WAITALL))
        from tests.cluster.forked_farm import become

        become(told["folder"], told["environment"], *streams)
        for stream in streams:
            os.close(stream)
        from research.run import main as judge

        code = judge(["--serve"])
        sys.stdout.flush()
        connection.sendall(bytes([code]))
    finally:
        os._exit(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
