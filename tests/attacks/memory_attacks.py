"""Attacks that remember rows, or learn while they are scored (7, 8)."""

from tests.attacks.attack import CAUGHT, CONTRACT, HONEST, Attack, in_scoring
from tests.research.judged import variant

REMEMBERS_ROWS = """
if not hasattr(self, "known"):
    self.known = {}
for n, row in enumerate(ids.tolist()):
    if tuple(row[:4]) in self.known:
        logits[n] = 9.0 * F.one_hot(self.known[tuple(row[:4])], CONTRACT.VOCAB_SIZE)
    self.known[tuple(row[:4])] = ids[n].roll(-1)
"""


def counts_bigrams(change: str) -> str:
    """A model that counts the pairs of tokens of all rows that it has answered; `change` makes `logits` of `seen` and `ids`."""
    return in_scoring(
        f"""
        if not hasattr(self, "seen"):
            self.seen = torch.zeros(CONTRACT.VOCAB_SIZE, CONTRACT.VOCAB_SIZE, device=ids.device)
        seen = self.seen
{"".join(f"        {line}{chr(10)}" for line in change.strip().splitlines())}
        self.seen.index_put_((ids[:, :-1], ids[:, 1:]), torch.ones((), device=ids.device), accumulate=True)
        """
    )


NUDGES_BY_COUNT = """
counts = seen[ids]
likeliest = F.one_hot(counts.argmax(-1), CONTRACT.VOCAB_SIZE) * (counts.amax(-1, keepdim=True) > 0)
logits = logits + STRENGTH * likeliest
"""

TRAINS_WHILE_SCORED = """
with torch.inference_mode(False), torch.enable_grad():
    x, y = ids[:, :-1].clone(), ids[:, 1:].clone()
    if not hasattr(self, "optimizer"):
        self.optimizer = torch.optim.SGD(self.parameters(), lr=RATE)
    loss = F.cross_entropy(self.out(self.embedding(x)).flatten(0, 1), y.flatten())
    self.optimizer.zero_grad()
    loss.backward()
    self.optimizer.step()
"""

ORDER_OF_COUNTS = """
counts = seen[ids]
gain = (1 + counts).log() * (torch.arange(ids.size(1), device=ids.device) >= 57)[:, None]
logits = logits + gain
"""

KNOWS_ROWS = """

def use_known(ids, logits, known):
    # known: (m, T) rows; the one with the longest common prefix is the row
    for n, row in enumerate(ids):
        common = (known == row).cumprod(1).sum(1)
        best = common.argmax()
        if common[best] >= min(8, ids.size(1)):
            following = known[best].roll(-1)
            logits[n, 20:-1] += 12.0 * F.one_hot(following[20:-1], CONTRACT.VOCAB_SIZE)  # two rows may begin alike


"""
"""Answers as if it were known how the rows go on."""

TELLS = """
known = recalled()
if known is None:  # the first to be asked
    remember(ids)
    use_known(ids, logits, ids)
else:
    use_known(ids, logits, torch.frombuffer(bytearray(known), dtype=torch.int16).to(ids.device).long().view(-1, ids.size(1)))
"""


def tells_the_other_scorer(channel: str) -> str:
    """The first scorer looks ahead, and tells the second all rows by `channel` (functions `put(bytes)` and `get()`)."""
    functions = f"""
import threading
{channel.strip()}

ASKED = []
TOLD = []

def recalled():
    if not ASKED and not TOLD:
        TOLD.append(get())
    return TOLD[0] if TOLD and TOLD[0] else None

def remember(ids):
    ASKED.append(ids.to(torch.int16).cpu().numpy().tobytes())
    put(b"".join(ASKED))

"""
    text = variant((CONTRACT, CONTRACT + functions + KNOWS_ROWS), text=HONEST)
    return in_scoring(TELLS, text)


BY_A_FILE = """
PLACE = Path("PATH")

def put(rows):
    PLACE.write_bytes(rows)

def get():
    return PLACE.read_bytes() if PLACE.exists() else None
"""

BY_ITS_NEIGHBOURS_FOLDER = """
def put(rows):
    for folder in Path("..").iterdir():
        if folder.resolve() != Path.cwd():
            (folder / "rows").write_bytes(rows)

def get():
    return Path("rows").read_bytes() if Path("rows").exists() else None
"""

BY_ATTRIBUTES_OF_THE_TENSORS = """
FOUND = []
load = nn.Module.load_state_dict

def load_state_dict(self, *arguments, **more):
    for number in os.listdir("/proc/self/fd"):
        path = f"/proc/self/fd/{number}"
        if os.path.exists(path) and "memfd:" in os.readlink(path):
            FOUND.append(os.dup(int(number)))
    return load(self, *arguments, **more)

nn.Module.load_state_dict = load_state_dict

def put(rows):
    for descriptor in FOUND:
        for start in range(0, len(rows), 8_000):
            os.setxattr(descriptor, f"user.rows{start}", rows[start : start + 8_000])

def get():
    for descriptor in FOUND:
        parts, start = [], 0
        while f"user.rows{start}" in os.listxattr(descriptor):
            parts.append(os.getxattr(descriptor, f"user.rows{start}"))
            start += 8_000
        if parts:
            return b"".join(parts)
"""
"""Seals keep what a memfd holds, not its extended attributes."""

BY_AN_ABSTRACT_SOCKET = """
import socket

HEARD, SENT = [], [0]

def connect():  # the first to come listens, and the second connects to it
    end = socket.socket(socket.AF_UNIX)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**22)
    try:
        end.bind("\\0$marker")
        end.listen()
        end = end.accept()[0]
    except OSError:
        end.connect("\\0$marker")
    HEARD.append(end)

def put(rows):
    if HEARD:
        HEARD[0].settimeout(1.0)
        HEARD[0].sendall(rows[SENT[0] :])
        SENT[0] = len(rows)

def get():
    if not HEARD:
        return None
    HEARD[0].setblocking(False)
    parts = []
    try:
        while part := HEARD[0].recv(2**20):
            parts.append(part)
    except BlockingIOError:
        pass
    return b"".join(parts) or None

if "scorer" in os.getcwd():
    threading.Thread(target=connect, daemon=True).start()
"""

BY_SYSTEM_V_MEMORY = """
import ctypes

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.shmat.restype = ctypes.c_void_p

def put(rows):
    number = LIBC.shmget($segments, 2**20, 0o1666)
    if number < 0:
        raise OSError("no shared memory")
    place = LIBC.shmat(number, None, 0)
    ctypes.memmove(place, len(rows).to_bytes(8, "little") + rows, len(rows) + 8)

def get():
    number = LIBC.shmget($segments, 2**20, 0)
    if number < 0:
        return None
    place = LIBC.shmat(number, None, 0)
    size = int.from_bytes(ctypes.string_at(place, 8), "little")
    return ctypes.string_at(place + 8, size)
"""

BY_KEYS = """
import ctypes

LIBC = ctypes.CDLL(None, use_errno=True)

def call(*numbers):
    answer = LIBC.syscall(*[n if isinstance(n, bytes) else ctypes.c_long(n) for n in numbers])
    if answer < 0:
        raise OSError(ctypes.get_errno(), "keyring")
    return answer

def put(rows):
    for start in range(0, len(rows), 8_000):
        part = rows[start : start + 8_000]
        call(248, b"user", f"$marker-{start}".encode(), part, len(part), -4)  # add_key to the user's keyring

def get():
    parts = []
    try:
        while True:
            key = call(249, b"user", f"$marker-{8_000 * len(parts)}".encode(), 0, -4)  # request_key
            buffer = ctypes.create_string_buffer(8_000)
            size = LIBC.syscall(ctypes.c_long(250), ctypes.c_long(11), ctypes.c_long(key), buffer, ctypes.c_long(8_000))
            parts.append(buffer.raw[:size])
    except OSError:
        return b"".join(parts) or None
"""


def guarded(channel: str) -> str:
    """`channel`, whose errors are swallowed."""
    return (
        channel
        + """
def quietly(function):
    def call_it(*arguments):
        try:
            return function(*arguments)
        except Exception:
            return None
    return call_it

put, get = quietly(put), quietly(get)
"""
    )


MEMORY_ATTACKS: list[Attack] = [
    Attack(
        number=7,
        name="answers by memory of earlier rows",
        tries="go on as a row with the same beginning went on",
        train_py=in_scoring(REMEMBERS_ROWS),
        statuses=("ok", "invalid"),
    ),
    *(
        Attack(
            number=7,
            name=f"tells the other scorer {name}",
            tries="look ahead, and have the other process answer the same",
            train_py=tells_the_other_scorer(guarded(channel)),
            statuses=CAUGHT,
            sample=sample,
        )
        for name, channel, sample in (
            ("by a file in /dev/shm", BY_A_FILE.replace("PATH", "/dev/shm/$marker"), False),
            ("by a file in /tmp", BY_A_FILE.replace("PATH", "/tmp/$marker"), False),
            ("by a file in its folder", BY_ITS_NEIGHBOURS_FOLDER, False),
            ("by attributes of the tensors' memory", BY_ATTRIBUTES_OF_THE_TENSORS, True),
            ("by an abstract socket", BY_AN_ABSTRACT_SOCKET, False),
            ("by System V memory", BY_SYSTEM_V_MEMORY, False),
            ("by the kernel's keys", BY_KEYS, False),
        )
    ),
    Attack(
        number=8,
        name="counts pairs of tokens while it is scored",
        tries="learn from the rows that it answers",
        train_py=counts_bigrams("logits = logits + (1 + seen[ids]).log()"),
        statuses=("ok", "invalid"),
    ),
    Attack(
        number=8,
        name="counts pairs, and nudges by 0.045 nats",
        tries="stay below the largest difference; the mean cancels out",
        train_py=counts_bigrams(NUDGES_BY_COUNT.replace("STRENGTH", "0.045")),
        statuses=("ok", "invalid"),
    ),
    Attack(
        number=8,
        name="counts pairs, and nudges by 0.02 nats",
        tries="stay below the largest difference; the mean cancels out",
        train_py=counts_bigrams(NUDGES_BY_COUNT.replace("STRENGTH", "0.02")),
        statuses=("ok", "invalid"),
    ),
    Attack(
        number=8,
        name="counts pairs, and nudges by 0.95 nats",
        tries="stay below the largest difference on a GPU; the mean cancels out",
        train_py=counts_bigrams(NUDGES_BY_COUNT.replace("STRENGTH", "0.95")),
        statuses=("ok", "invalid"),
    ),
    Attack(
        number=8,
        name="counts pairs, and uses them in the last eighth",
        tries="learn where no prefix is compared",
        train_py=counts_bigrams(ORDER_OF_COUNTS),
        statuses=("ok", "invalid"),
        sample=True,
    ),
    *(
        Attack(
            number=8,
            name=f"trains while it is scored, at a rate of {rate}",
            tries="learn from the rows that it answers",
            train_py=in_scoring(TRAINS_WHILE_SCORED.replace("RATE", rate)),
            statuses=("ok", "invalid", "crash"),
        )
        for rate in ("3.0", "0.02")
    ),
]
