"""Attacks that take all there is, and system calls that nobody needs (25, 26)."""

import tempfile
from pathlib import Path

import psutil

from research.result import RunStatus
from tests.attacks.attack import Attack, before_training
from tests.attacks.surroundings import Surroundings
from tests.research.judged import Run

ENDS: tuple[RunStatus, ...] = ("ok", "invalid", "crash", "oom", "timeout")

SYSTEM_CALLS = """
import ctypes, socket
libc = ctypes.CDLL(None, use_errno=True)
zero = ctypes.create_string_buffer(256)
for name, number, arguments in (
    ("bpf", 321, (0, zero, 128)), ("perf_event_open", 298, (zero, 0, -1, -1, 0)), ("userfaultfd", 323, (1,)),
    ("io_uring_setup", 425, (4, zero)), ("keyctl", 250, (0, -3, 1)), ("mount", 165, (b"none", b"/mnt", b"tmpfs", 0, None)),
    ("open_by_handle_at", 304, (-100, zero, 0)), ("init_module", 175, (zero, 0, b"")), ("fanotify_init", 300, (0, 0)),
    ("personality", 135, (0x0040000,)), ("acct", 163, (None,)), ("sethostname", 170, (b"localhost", 0)),
):
    ctypes.set_errno(0)
    answer = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in arguments])
    allowed = answer >= 0 or (name == "open_by_handle_at" and ctypes.get_errno() not in (1, 13, 38))
    if name == "mount" and answer == 0:
        libc.umount(b"/mnt")
    if allowed:
        print("LEAK the system call", name, flush=True)
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_PACKET, 40, 38):
    try:
        kinds = {16: socket.SOCK_RAW, 17: socket.SOCK_RAW, 38: socket.SOCK_SEQPACKET}
        socket.socket(family, kinds.get(int(family), socket.SOCK_STREAM))
        print("LEAK a socket of family", int(family), flush=True)
    except OSError:
        pass
"""


def log_is_bounded(run: Run, around: Surroundings) -> str | None:
    del around
    size = sum(path.stat().st_size for path in run.folder.iterdir())
    return None if size < 2**24 else f"the run left {size:,} bytes"


def no_folder_is_left(run: Run, around: Surroundings) -> str | None:
    del run, around
    left = list(Path(tempfile.gettempdir()).glob("autoresearch-run-*"))
    alive = [folder for folder in left if psutil.pid_exists(int(folder.name.split("-")[2]))]
    return None if left == alive else f"{len(left) - len(alive)} folders of ended judges are left"


def fitted(name: str, tries: str, code: str, *, number: int = 25, **more: object) -> Attack:
    return Attack(number=number, name=name, tries=tries, train_py=before_training(code), statuses=ENDS, **more)  # type: ignore[arg-type]


FORK_BOMB = """
import resource
count = 0
try:
    while count < 1500:
        pid = os.fork()
        if pid == 0:
            if count % 3 == 0:
                os.setsid()
            time.sleep(60)
            os._exit(0)
        count += 1
except OSError as error:
    print("no more processes", error, flush=True)
print(count, "processes", flush=True)
"""

SELF_COPYING = """
started = time.monotonic()
for n in range(8):
    if os.fork() == 0:
        os.setsid()
        while time.monotonic() < started + 8:
            if os.fork():
                os._exit(0)
            time.sleep(0.001)
        os._exit(0)
"""

NESTED = """
here = os.open(".", os.O_RDONLY)
for n in range(LEVELS):
    os.mkdir("d", MODE, dir_fd=here)
    below = os.open("d", os.O_PATH, dir_fd=here)
    os.close(here)
    here = below
os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=here))
time.sleep(1)
"""


def nested(levels: int, mode: int = 0o755) -> str:
    return NESTED.replace("LEVELS", str(levels)).replace("MODE", oct(mode))


EXHAUSTION_ATTACKS: list[Attack] = [
    fitted("endless output", "fill the disk by the log", "for n in range(4000):\n    print('x' * 8192)", proof=log_is_bounded),
    fitted(
        "fills the disk",
        "write 1.5 GB, which the run's end should take away",
        "with open('big', 'wb') as file:\n    for n in range(24):\n        file.write(bytes(2**26))",
    ),
    fitted(
        "many small files",
        "use up the inodes",
        "for n in range(20_000):\n    os.close(os.open(f'f{n}', os.O_CREAT | os.O_WRONLY))",
    ),
    fitted("1,500 nested folders", "end whoever counts or removes them", nested(1500), proof=no_folder_is_left),
    fitted("5,000 nested folders", "end whoever counts or removes them", nested(5000), proof=no_folder_is_left),
    fitted("nested folders that can't be listed", "hide what it writes", nested(10, 0o300), proof=no_folder_is_left),
    fitted("a fork bomb of 1,500 processes", "use up the processes", FORK_BOMB),
    fitted("processes that replace each other", "outrun whoever kills them", SELF_COPYING),
    fitted(
        "threads",
        "use up the threads",
        "import threading\nfor n in range(800):\n    threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()",
    ),
    fitted(
        "takes 3 GB of memory", "starve the machine", "kept = [bytearray(b'x') * 2**28 for n in range(12)]\nprint(len(kept))"
    ),
    fitted("descriptors", "use up the open files", "while True:\n    os.dup(0)"),
    fitted(
        "system calls that nobody needs",
        "reach for weak parts of the kernel",
        SYSTEM_CALLS,
        number=26,
        residue_without_seccomp="without the filter, some of them can be made",
    ),
]
