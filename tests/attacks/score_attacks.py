"""Attacks on the score: the judge's functions, the summary, the logits, and models that know more than the prefix (1 to 8)."""

from attack import (
    CAUGHT,
    CONTRACT,
    FORWARD,
    HONEST,
    Attack,
    attempt,
    before_the_end,
    in_forward,
    in_scoring,
)
from judged import Run, variant
from surroundings import Surroundings

# --- 1: the judge's functions ---------------------------------------------------------------------------------------

PATCHES = """
import gc, types
import research.score, research.channel, research.session, research.contract
try:
    import research.judge, research.scorer
    research.judge.cross_entropy = research.judge.bits_per_byte = lambda *a, **k: 0.1
    research.scorer.write_logits = lambda buffer, logits: buffer.tensor.zero_()
except ImportError:
    pass
research.score.cross_entropy = lambda logits, targets, **k: torch.zeros(targets.shape)
research.score.bits_per_byte = lambda *a, **k: 0.1
research.score.compare_prefixes = lambda *a, **k: None
research.contract.judge_sha256 = lambda: "0" * 64
F.cross_entropy_kept, F.cross_entropy = F.cross_entropy, lambda *a, **k: F.cross_entropy_kept(*a, **k)
for thing in gc.get_objects():
    if isinstance(thing, types.FunctionType) and "score" in thing.__module__ and thing.__name__.startswith(("bits", "cross")):
        thing.__code__ = (lambda *a, **k: 0.1).__code__
"""

REPLACED_CHANNEL = """
from research.channel import Channel, Kind
sent = Channel.send
def send(self, kind, *numbers, **more):
    sent(self, kind, *numbers, **more)
    if kind == Kind.ANSWERED:
        sent(self, kind, *numbers)
Channel.send = send
"""

# --- 2: the summary -------------------------------------------------------------------------------------------------

FAKE_SUMMARY = r"""
summary = "---\nval_bpb:          0.500000\ntraining_seconds: 1.0\npeak_vram_mb:     1.0\nnum_params_M:     0.1\n"
print(summary, flush=True)
"""

FAKE_WITH_CONTROLS = r"""
erasers = ("\r", "\x1b[2K", "\x1b[1A\x1b[2K", "\x1b]0;x\x07", "\x1b[0m", "\x00", "\x08" * 9, "\x0c", "\x85", "\u2028", "\x9b2K")
for start in (*erasers, "\ufeff"):
    sys.stdout.write(start + "---\n" + start + "val_bpb:          0.500000\n" + start + "val_bpb : 0.5\n")
sys.stdout.write("a" * (2**16 - 1) + "val_bpb: 0.500000\nval_bpb: 0.5")
sys.stdout.flush()
"""

SUMMARY_FROM_A_DAEMON = r"""
if os.fork() == 0:
    os.setsid()
    while True:
        print("---\nval_bpb:          0.500000", flush=True)
"""


def one_summary(run: Run, around: Surroundings) -> str | None:
    """The summary in the log is the judge's, alone."""
    del around
    found = [line for line in run.log.splitlines() if line.startswith("val_bpb")]
    dashes = [line for line in run.log.splitlines() if line.startswith("---")]
    expected = [f"val_bpb:          {run.result.val_bpb:.6f}"] if run.result.status == "ok" else []
    return None if found == expected and len(dashes) == len(expected) else f"the log has the lines {found[:3]} and {dashes[:3]}"


# --- 3: the logits --------------------------------------------------------------------------------------------------

SHAPES = ("[:, :, :-1]", "[:, :-1]", "[:1]", ".flatten()", "[:, :, None]", "[..., :1].expand_as(logits)[:, 1:]")

CHANGES_THE_BUFFER = """
if not hasattr(Model, "writer"):
    import gc, threading
    from research.buffer import LogitsBuffer, SharedIds
    things = gc.get_objects()
    buffer = next(thing for thing in things if isinstance(thing, LogitsBuffer)).tensor
    shared = next(thing for thing in things if isinstance(thing, SharedIds)).tensor
    def write():
        while True:
            known = shared.long().clamp(0, CONTRACT.VOCAB_SIZE - 1).roll(-1, dims=1)
            buffer.scatter_(2, known[..., None], 20.0)
            time.sleep(0.001)
    Model.writer = threading.Thread(target=write, daemon=True)
    Model.writer.start()
"""

ANSWERS_EARLY = """
import gc
from research.channel import Channel, Kind
channel = next(thing for thing in gc.get_objects() if isinstance(thing, Channel))
for n in range(3):
    channel.send(Kind.ANSWERED, len(ids))
"""

A_LYING_TENSOR = """
class Lying(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, types, arguments=(), keywords=None):
        if function is torch.Tensor.copy_ or getattr(function, "__name__", "") == "copy_":
            return arguments[0].fill_(0.0)
        return super().__torch_function__(function, types, arguments, keywords or {})
logits = logits.as_subclass(Lying)
"""

# --- 4 to 6: looking ahead ------------------------------------------------------------------------------------------


def looks_ahead(where: str, *, strength: float = 20.0, distance: float = 1) -> str:
    """A model that is told the token to come at the positions `where` (a (T,) or (n, T) mask in terms of `at` and `ids`)."""
    distance = int(distance)
    return in_scoring(
        f"""
        at = torch.arange(ids.size(1), device=ids.device)
        mask = ({where}) & (at < ids.size(1) - {distance})
        known = F.one_hot(ids.roll(-{distance}, dims=1), CONTRACT.VOCAB_SIZE) * mask.expand_as(ids)[..., None]
        logits = logits + {strength} * known
        """
    )


BIDIRECTIONAL = in_forward(
    """
    x = self.embedding(ids)
    scores = x @ x.mT / 4.0
    return self.out(x + scores.softmax(-1) @ x.roll(-1, dims=1))
    """
)

CENTRED_CONVOLUTION = variant(
    ("        self.out = nn", "        self.mix = nn.Conv1d(16, 16, 3, padding=1)\n        self.out = nn"),
    (FORWARD, "return self.out(self.embedding(ids) + self.mix(self.embedding(ids).mT).mT)"),
    text=HONEST,
)

REVERSED_SUM = in_forward("x = self.embedding(ids)\nreturn self.out(x + 0.1 * x.flip(1).cumsum(1).flip(1))")

BLOCK_MEAN = in_forward(
    "x = self.embedding(ids)\nreturn self.out(x + x.unflatten(1, (-1, 16)).mean(2).repeat_interleave(16, dim=1))"
)

NEXT_BLOCK_MEAN = in_forward(
    """
    x = self.embedding(ids)
    ahead = x.unflatten(1, (-1, 4)).mean(2).roll(-1, dims=1)
    return self.out(x + ahead.repeat_interleave(4, dim=1))
    """
)

EXPERT_CHOICE = variant(
    (
        "        self.out = nn",
        "        self.gate = nn.Linear(16, 4)\n        self.experts = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))\n"
        "        self.out = nn",
    ),
    (
        FORWARD,
        """x = self.embedding(ids)
        flat, y = x.flatten(0, 1), torch.zeros_like(x.flatten(0, 1))
        gates = self.gate(flat).softmax(-1)
        for n, expert in enumerate(self.experts):
            chosen = gates[:, n].topk(len(flat) // 4).indices
            y = y.index_add(0, chosen, gates[chosen, n, None] * expert(flat[chosen]))
        return self.out(x + y.view_as(x))""",
    ),
    text=HONEST,
)

TOKEN_CHOICE = EXPERT_CHOICE.replace("gates[:, n].topk(len(flat) // 4).indices", "(gates.argmax(-1) == n).nonzero()[:, 0]")
"""The same experts, honestly: each token chooses by itself."""

BATCH_STATISTICS = in_forward(
    "x = self.embedding(ids)\nreturn self.out((x - x.mean((0, 1))) / (x.std((0, 1)) + 1e-5) + 0.1 * x)"
)

ROWS_ATTEND_TO_EACH_OTHER = in_forward(
    """
    x = self.embedding(ids)
    return self.out(x + 0.5 * x.mean(0, keepdim=True).roll(-1, dims=1))
    """
)

# --- 7 and 8: memory, learning --------------------------------------------------------------------------------------

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


SCORE_ATTACKS: list[Attack] = [
    Attack(
        number=1,
        name="patches the judge's functions in every process",
        tries="replace cross-entropy, bits per byte and the comparison in memory",
        train_py=variant((CONTRACT, CONTRACT + attempt(PATCHES) + "attempt()\n"), text=HONEST),
        sample=True,
    ),
    Attack(
        number=1,
        name="patches the channel",
        tries="answer twice for each batch",
        train_py=variant((CONTRACT, CONTRACT + REPLACED_CHANNEL), text=HONEST),
        statuses=("ok", "invalid", "crash", "timeout"),
    ),
    Attack(
        number=1,
        name="patches the session",
        tries="replace Session.finish and the parameters' count",
        train_py=before_the_end(
            """
            from research.channel import Kind
            from research.session import _memory_with, _tensors_as_bytes
            payload = _tensors_as_bytes(model)
            report = b'{"val_bpb": 0.1, "num_params": 1, "status": "ok", "score_fingerprint": "0", "seed": 5}'
            memories = [_memory_with(payload), _memory_with(report)]
            session._channel.send(Kind.FINISH, len(payload), len(report), descriptors=memories)
            signal.pause()
            """
        ),
    ),
    Attack(
        number=2,
        name="prints a summary",
        tries="have a low val_bpb read from the log",
        train_py=before_the_end(FAKE_SUMMARY),
        proof=one_summary,
    ),
    Attack(
        number=2,
        name="prints summaries with control characters",
        tries="have two, three and hidden summaries in the log",
        train_py=before_the_end(FAKE_WITH_CONTROLS + FAKE_SUMMARY * 2),
        proof=one_summary,
        sample=True,
    ),
    Attack(
        number=2,
        name="a daemon prints summaries for ever",
        tries="write into the log after the judge",
        train_py=before_the_end(SUMMARY_FROM_A_DAEMON),
        proof=one_summary,
    ),
    Attack(
        number=2,
        name="a scorer prints a summary as its last words",
        tries="have a low val_bpb stand in the log of a failed run",
        train_py=in_scoring(FAKE_SUMMARY + "raise SystemExit('---\\nval_bpb:          0.400000')"),
        statuses=("crash",),
        proof=one_summary,
    ),
    *(
        Attack(
            number=3,
            name=f"logits of another shape: logits{cut}",
            tries="be scored on fewer tokens",
            train_py=in_scoring(f"logits = logits{cut}"),
            statuses=CAUGHT,
            reason="must give logits of shape",
        )
        for cut in SHAPES
    ),
    *(
        Attack(
            number=3,
            name=f"logits that are {name}",
            tries="be scored on numbers that compare as less",
            train_py=in_scoring(code),
            statuses=("diverged",),
            reason="not finite",
        )
        for name, code in (
            ("NaN", "logits = logits * float('nan')"),
            (
                "NaN in one token of one row in fifty",
                "logits = torch.where((ids[:, 1:2] % 50 == 7)[..., None], float('nan'), logits)",
            ),
            ("infinite", "logits = logits + float('inf')"),
            ("minus infinity but for what comes", "logits = torch.full_like(logits, -float('inf'))"),
        )
    ),
    Attack(
        number=3,
        name="logits that are not normalised",
        tries="be scored on logits whose probabilities sum to more than one",
        train_py=in_scoring("logits = logits + 100.0"),
        statuses=("ok",),
    ),
    Attack(
        number=3,
        name="logits that are no plain tensor",
        tries="run code of its own while the scorer copies them",
        train_py=in_scoring(A_LYING_TENSOR),
    ),
    Attack(
        number=3,
        name="changes logits while they are read",
        tries="have a thread write what comes into the buffer after the answer",
        train_py=in_scoring(CHANGES_THE_BUFFER),
        statuses=("ok", "invalid", "diverged"),
    ),
    Attack(
        number=3,
        name="answers before it has computed",
        tries="have an older buffer scored for newer rows",
        train_py=in_scoring(ANSWERS_EARLY),
        statuses=("ok", "invalid", "diverged", "timeout", "crash"),
    ),
    *(
        Attack(
            number=number, name=name, tries=tries, train_py=looks_ahead(where, **how), sample=sample, statuses=("ok", "invalid")
        )
        for number, name, tries, where, how, sample in (
            (4, "looks one token ahead", "read the answer in the row", "at >= 0", {}, False),
            (4, "looks two tokens ahead", "read the token after the next", "at >= 0", {"distance": 2, "strength": 1.0}, False),
            (4, "looks ahead in the first eighth", "look where no splice is", "at < 7", {}, True),
            (4, "looks ahead in the last eighth", "look behind all splices", "at >= 56", {}, False),
            (4, "looks ahead in the last three tokens", "look behind all splices", "at >= 61", {}, False),
            (
                4,
                "looks ahead by a nudge below the largest difference",
                "0.045 nats at each position",
                "at >= 0",
                {"strength": 0.045},
                False,
            ),
            (
                4,
                "looks ahead by a nudge at 2% of the positions",
                "stay below the tolerances of the mean and the largest",
                "(ids * 31 + at) % 50 == 0",
                {"strength": 0.045},
                False,
            ),
            (
                4,
                "looks ahead by a nudge below the largest difference on a GPU",
                "1.9 nats at 2% of the positions",
                "(ids * 31 + at) % 50 == 0",
                {"strength": 1.9},
                False,
            ),
            (
                7,
                "peeks at 1% of the positions",
                "stay below the tolerance of the mean",
                "(ids * 31 + at) % 100 == 0",
                {},
                False,
            ),
            (
                7,
                "peeks in 1% of the rows",
                "stay below the tolerance of the mean",
                "(ids[:, :4].sum(1, keepdim=True) % 100 == 0)",
                {},
                False,
            ),
        )
    ),
    Attack(
        number=5,
        name="attention without a mask",
        tries="train a model that sees the whole row",
        train_py=BIDIRECTIONAL,
        statuses=CAUGHT,
    ),
    Attack(
        number=5,
        name="a centred convolution",
        tries="see one token ahead",
        train_py=CENTRED_CONVOLUTION,
        statuses=CAUGHT,
        reason="looks ahead",
    ),
    Attack(number=5, name="a sum from the end", tries="see all later tokens", train_py=REVERSED_SUM, statuses=CAUGHT),
    Attack(number=6, name="mean over a block of 16", tries="see to the block's end", train_py=BLOCK_MEAN, statuses=CAUGHT),
    Attack(number=6, name="mean of the next block of 4", tries="see the next block", train_py=NEXT_BLOCK_MEAN, statuses=CAUGHT),
    Attack(
        number=6,
        name="expert choice over the flattened batch",
        tries="route by what comes in all rows",
        train_py=EXPERT_CHOICE,
        statuses=("ok", "invalid"),  # on a GPU the tokens that another choice changes are within its tolerance
        honest=TOKEN_CHOICE,
    ),
    Attack(
        number=6,
        name="statistics of the batch",
        tries="normalise by what comes in all rows",
        train_py=BATCH_STATISTICS,
        statuses=("ok", "invalid"),  # in the large batches of a GPU all statistics are alike: that is honest, and gains nothing
    ),
    Attack(
        number=6,
        name="rows see each other",
        tries="see what comes in the other rows of the batch",
        train_py=ROWS_ATTEND_TO_EACH_OTHER,
        statuses=CAUGHT,
    ),
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
