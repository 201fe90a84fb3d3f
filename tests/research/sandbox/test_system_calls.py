"""Calls by which processes could tell each other something through files that both only read: a child tries each of them."""

import errno
import json
import subprocess
import sys

import pytest

from research.sandbox.linux import machine
from research.sandbox.system_calls import CHANGES_OF_ATTRIBUTES, IDLE, NUMBERS, RULES, UNSUPPORTED

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or machine() not in ("x86_64", "aarch64"), reason="needs Linux on a processor that it knows"
)

ANSWERS = """
import ctypes, fcntl, json, mmap, os, signal, struct, subprocess, sys, tempfile, threading
from research.sandbox import seccomp
from research.sandbox.linux import machine
from research.sandbox.system_calls import IDLE, NUMBERS, UNSUPPORTED

LIBC = ctypes.CDLL(None, use_errno=True)
TABLES = {**NUMBERS, **UNSUPPORTED, **IDLE, "madvise": (28, 233),
          "preadv2": (327, 286), "pwritev2": (328, 287),
          "get_mempolicy": (239, 236), "mbind": (237, 235), "prctl": (157, 167), "ioctl": (16, 29), "fcntl": (72, 25)}
COLUMN = ("x86_64", "aarch64").index(machine())

def call(name, *arguments):
    # the errno that a system call fails with; 0 if it succeeds, None if this processor has no such call
    number = TABLES[name][COLUMN]
    if number is None:
        return None
    values = [a if isinstance(a, (bytes, ctypes.Array)) else ctypes.c_long(a) for a in arguments]
    ctypes.set_errno(0)
    return ctypes.get_errno() if LIBC.syscall(ctypes.c_long(number), *values) < 0 else 0

signal.signal(signal.SIGIO, signal.SIG_IGN)  # F_NOTIFY asks for it where the folder changes
FILE = os.open(os.__file__, os.O_RDONLY)
FOLDER = os.open("/", os.O_RDONLY)
MAPPED = mmap.mmap(FILE, 4096, prot=mmap.PROT_READ, flags=mmap.MAP_SHARED)
LIBC.mmap.restype = ctypes.c_void_p
PLACE = LIBC.mmap(None, ctypes.c_size_t(4096), 1, 2, FILE, ctypes.c_long(0))
OWN = tempfile.TemporaryFile()
OWN.write(b"x" * 4096)
OWN.flush()
BUFFER = ctypes.create_string_buffer(4096)
VECTOR = ctypes.create_string_buffer(struct.pack("QQ", ctypes.addressof(BUFFER), 16), 16)
LOCK = ctypes.create_string_buffer(struct.pack("hhqqixxxx", fcntl.F_RDLCK, 0, 10, 5, 0), 32)
HINT = ctypes.create_string_buffer(8)

def tries():
    return {
        "F_SETLK": call("fcntl", FILE, 6, LOCK), "F_SETLKW": call("fcntl", FILE, 7, LOCK),
        "F_OFD_SETLK": call("fcntl", FILE, 37, LOCK), "F_OFD_SETLKW": call("fcntl", FILE, 38, LOCK),
        "F_GETLK": call("fcntl", FILE, 5, LOCK), "F_OFD_GETLK": call("fcntl", FILE, 36, LOCK),
        "F_SETLEASE": call("fcntl", OWN.fileno(), 1024, 2), "F_GETLEASE": call("fcntl", OWN.fileno(), 1025, 0),
        "F_NOTIFY": call("fcntl", FOLDER, 1026, 1), "F_GET_RW_HINT": call("fcntl", OWN.fileno(), 1035, HINT),
        "F_SET_RW_HINT": call("fcntl", OWN.fileno(), 1036, HINT),
        "F_GETFD": call("fcntl", FILE, 1, 0),
        "F_DUPFD_CLOEXEC": call("fcntl", FILE, 1030, 0), "F_GETFL": call("fcntl", FILE, 3, 0),
        "lockf": fcntl.lockf(OWN, fcntl.LOCK_EX | fcntl.LOCK_NB) or 0,
        "flock": call("flock", FILE, 6),
        "inotify_init": call("inotify_init"), "inotify_init1": call("inotify_init1", 0),
        "mincore": call("mincore", PLACE, 4096, BUFFER), "cachestat": call("cachestat", FILE, bytes(16), BUFFER, 0),
        "openat2": call("openat2", -100, b"/", struct.pack("QQQ", 0, 0, 0x20), 24), "io_setup": call("io_setup", 1, HINT),
        "fadvise64": call("fadvise64", FILE, 0, 0, 4), "readahead": call("readahead", FILE, 0, 4096), "sync": call("sync"),
        "preadv2": call("preadv2", FILE, VECTOR, 1, 0, 0, 0), "RWF_NOWAIT": call("preadv2", FILE, VECTOR, 1, 0, 0, 8),
        "RWF_DONTCACHE": call("preadv2", FILE, VECTOR, 1, 0, 0, 0x80),
        "pwritev2": call("pwritev2", OWN.fileno(), VECTOR, 1, 0, 0, 0),
        "RWF_SYNC": call("pwritev2", OWN.fileno(), VECTOR, 1, 0, 0, 4),
        "MADV_WILLNEED": call("madvise", PLACE, 4096, 3), "MADV_PAGEOUT": call("madvise", PLACE, 4096, 21),
        "MADV_COLLAPSE": call("madvise", PLACE, 4096, 25),
        "move_pages": call("move_pages", 0, 1, struct.pack("Q", PLACE), 0, BUFFER, 0),
        "get_mempolicy": call("get_mempolicy", BUFFER, 0, 0, 0, 0),
        "MPOL_F_NODE": call("get_mempolicy", BUFFER, 0, 0, PLACE, 3),
        "mbind": call("mbind", PLACE, 4096, 0, 0, 0, 0), "MPOL_MF_MOVE": call("mbind", PLACE, 4096, 0, 0, 0, 2),
        "FS_IOC_GETFLAGS": call("ioctl", FILE, 0x80086601, BUFFER),
        "EXT4_IOC_GETSTATE": call("ioctl", FILE, 0x40046629, BUFFER),
        "FS_IOC_FSGETXATTR": call("ioctl", FILE, 0x801C581F, BUFFER), "FIONREAD": call("ioctl", FILE, 0x541B, BUFFER),
        "PR_SET_MEMORY_MERGE": call("prctl", 67, 1, 0, 0, 0), "PR_GET_DUMPABLE": call("prctl", 3, 0, 0, 0, 0),
    }

free = tries() if sys.argv[1] == "free" else None
seccomp.install(seccomp.run_program())
filtered = tries()
thread = threading.Thread(target=int)
thread.start()
thread.join()
program = subprocess.run(["/bin/sh", "-c", "echo x | cat"], capture_output=True, text=True).stdout
print(json.dumps({"free": free, "filtered": filtered, "program": program}))
"""

DO_NOTHING = {"F_SETLK", "F_SETLKW", "F_OFD_SETLK", "F_OFD_SETLKW", "lockf", "flock", "fadvise64", "readahead", "sync",
              "MADV_PAGEOUT"}  # fmt: skip
STAY = {"F_GETFD", "F_DUPFD_CLOEXEC", "F_GETFL", "preadv2", "pwritev2", "MADV_WILLNEED", "mbind", "get_mempolicy", "FIONREAD",
        "PR_GET_DUMPABLE"}  # fmt: skip
NEEDS_A_KERNEL_WITH = {"get_mempolicy": errno.ENOSYS, "mbind": errno.ENOSYS}


@pytest.fixture(scope="module")
def answers() -> dict[str, dict[str, int | None]]:
    """What each call answers in a process without the filter, and then with it."""
    done = subprocess.run([sys.executable, "-c", ANSWERS, "free"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, int | None]] = json.loads(done.stdout)
    return found


def test_locks_and_advice_do_nothing_and_do_not_fail(answers: dict[str, dict[str, int | None]]) -> None:
    assert {name: answers["filtered"][name] for name in DO_NOTHING} == dict.fromkeys(DO_NOTHING, 0)


def test_what_programs_need_works_as_before(answers: dict[str, dict[str, int | None]]) -> None:
    for name in STAY:
        assert answers["filtered"][name] in (0, NEEDS_A_KERNEL_WITH.get(name)), name
    assert answers["program"] == "x\n"


def test_every_other_call_fails_that_worked_before(answers: dict[str, dict[str, int | None]]) -> None:
    others = answers["filtered"].keys() - DO_NOTHING - STAY
    assert not [name for name in others if answers["filtered"][name] == 0]
    worked = {name for name in others if answers["free"][name] == 0}
    assert worked >= {"F_GETLK", "F_OFD_GETLK", "F_NOTIFY", "inotify_init1", "mincore", "RWF_SYNC"}, answers["free"]


LOCKS = """
import fcntl, os, struct, sys, time
from research.sandbox import seccomp

if sys.argv[1] == "filtered":
    seccomp.install(seccomp.run_program())
ready, told = os.pipe()
pid = os.fork()
if pid == 0:
    for set_lock, kind in ((fcntl.F_SETLK, fcntl.F_RDLCK), (37, fcntl.F_RDLCK)):
        with open(os.__file__) as file:
            fcntl.fcntl(file, set_lock, struct.pack("hhqqixxxx", kind, 0, 10, 5, 0))
            fcntl.flock(file, fcntl.LOCK_EX)
            os.write(told, b"x")
            time.sleep(0.3)
    os._exit(0)
seen = []
for get_lock in (fcntl.F_GETLK, 36):
    os.read(ready, 1)
    with open(os.__file__) as file:
        try:
            answer = fcntl.fcntl(file, get_lock, struct.pack("hhqqixxxx", fcntl.F_WRLCK, 0, 0, 0, 0))
            seen.append(struct.unpack("hhqqixxxx", answer)[2])
        except PermissionError:
            seen.append("refused")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            seen.append("free")
        except BlockingIOError:
            seen.append("locked")
os.waitpid(pid, 0)
print(*seen)
"""


@pytest.mark.parametrize(
    ("filtered", "seen"), [("free", "10 locked 10 locked"), ("filtered", "refused free refused free")], ids=["free", "filtered"]
)
def test_a_lock_of_one_process_is_seen_by_another_only_without_the_filter(filtered: str, seen: str) -> None:
    done = subprocess.run([sys.executable, "-c", LOCKS, filtered], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == seen, done.stderr


def test_a_call_has_one_answer() -> None:
    tables = (NUMBERS, UNSUPPORTED, IDLE, CHANGES_OF_ATTRIBUTES)
    for column in (0, 1):
        numbers = [pair[column] for table in tables for pair in table.values() if pair[column] is not None]
        assert len(numbers) == len(set(numbers))
        assert not {rule.numbers[column] for rule in RULES} & set(numbers)


def test_the_numbers_of_this_processor_are_those_of_its_kernel_headers() -> None:
    """A wrong number would refuse another call, silently."""
    compiled = subprocess.run(["cc", "-E", "-dM", "-x", "c", "-include", "sys/syscall.h", "/dev/null"], capture_output=True,
                              text=True, check=False)  # fmt: skip
    if compiled.returncode:
        pytest.skip("there is no C compiler here")
    words = [line.split() for line in compiled.stdout.splitlines() if line.startswith("#define __NR_")]
    known = {line[1].removeprefix("__NR_"): int(line[2]) for line in words if line[2].isdigit()}
    column = ("x86_64", "aarch64").index(machine())
    tables = {**NUMBERS, **UNSUPPORTED, **IDLE, **CHANGES_OF_ATTRIBUTES}
    wrong = {
        name: (pair[column], known[name]) for name, pair in tables.items() if name in known and pair[column] != known[name]
    }
    assert not wrong and len(tables.keys() & known.keys()) > 80
