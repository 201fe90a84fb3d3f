"""Attacks on the clock, before it, after it and by who lives on; and on the seed (13 to 16, 23)."""

from tests.attacks.attack import (
    BUILD,
    CONTRACT,
    FINISH,
    HONEST,
    LAYERS,
    SILENT,
    TIMED,
    TRAIN,
    Attack,
    at_import,
    before_training,
    in_scoring,
    lines,
    while_scored,
)
from tests.research.judged import variant


def goes_on(seconds: float) -> str:
    """Trains for `seconds` beyond the budget."""
    more = f"""
def longer(session):
    yield from session.batches(BATCH_SIZE)
    while time.monotonic() < session._deadline + {seconds}:
        yield session._feed.take(BATCH_SIZE)


"""
    return variant((TRAIN, more + TRAIN), ("run(session.batches(BATCH_SIZE))", "run(longer(session))"), text=TIMED)


PATCHED_TIME = """
import research.ipc.channel, research.session
real = time.monotonic
time.monotonic = lambda: real() - min(2.0, max(0.0, real() - STARTED))
"""

DAEMON = """
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    for number in range(1, 65):
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            pass
    while True:
        time.sleep(0.01)
        ACTION
"""

KEEPS_WRITING = """
import mmap
from research import session as sessions
kept = sessions.memory_with_tensors
def memory_with_tensors(tensors):
    descriptor, size = kept(tensors)
    view = mmap.mmap(descriptor, size)
    if os.fork() == 0:
        os.setsid()
        while True:
            view[-64:] = os.urandom(64)
    return descriptor, size
sessions.memory_with_tensors = memory_with_tensors
"""

KEEPS_ROWS = """
self.register_buffer("rows", torch.zeros(512, CONTRACT.MAX_SEQ_LEN + 1, dtype=torch.int16))
"""

TRAINS_BEFORE_ITS_FIRST_ANSWER = """
if ids.any() and not hasattr(self, "went_on"):
    with torch.inference_mode(False), torch.enable_grad():
        optimizer, rows = torch.optim.AdamW(self.parameters(), lr=0.02), self.rows.long()
        self.went_on, until = 0, time.monotonic() + SECONDS
        while self.went_on < 2000:
            part = rows[self.went_on * 8 % len(rows) :][:8]
            loss = F.cross_entropy(self.out(self.embedding(part[:, :-1])).flatten(0, 1), part[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            self.went_on += 1
        time.sleep(max(0.0, until - time.monotonic()))  # a fast machine trains more in these seconds
    logits = self.out(self.embedding(ids))
"""


def goes_on_in_the_scorers(seconds: float) -> str:
    """Hands training rows over in its tensors, and trains with them for `seconds` in both scorers, alike."""
    return variant(
        (LAYERS, lines(KEEPS_ROWS, 8) + LAYERS),
        (FINISH, "    model.rows.copy_(torch.from_numpy(session._feed._rows[:512].astype('int16')))\n" + FINISH),
        text=in_scoring(TRAINS_BEFORE_ITS_FIRST_ANSWER.replace("SECONDS", str(seconds))),
    )


CLOCK_ATTACKS: list[Attack] = [
    Attack(
        number=13,
        name="patches time",
        tries="have the clock stand still",
        train_py=variant((CONTRACT, "STARTED = time.monotonic()\n" + PATCHED_TIME + CONTRACT), text=TIMED),
        honest=TIMED,
        statuses=("invalid", "ok"),
        caps={"grace": 0.5, "late": 3.0},
    ),
    Attack(
        number=14,
        name="trains on data of its own before the clock starts",
        tries="learn before it has data",
        train_py=at_import(
            """
            if any("memfd:rows" in os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")
                   if os.path.exists(f"/proc/self/fd/{n}")):
                print("LEAK the data is there before the clock", flush=True)
            layer = nn.Linear(64, 64)
            until = time.monotonic() + 0.5
            while time.monotonic() < until:
                layer(torch.randn(64, 64)).square().mean().backward()
            """,
            variant((TRAIN, TRAIN + "    session.reseed()\n"), text=HONEST),
        ),
        statuses=("ok",),
    ),
    Attack(
        number=14,
        name="never ends its preparations",
        tries="work for ever before the clock",
        train_py=before_training("time.sleep(1000)"),
        statuses=("timeout",),
        reason="startup took more than",
        caps={"startup": 2.0},
    ),
    Attack(
        number=15,
        name="goes on after the deadline",
        tries="train for longer",
        train_py=goes_on(2.0),
        honest=TIMED,
        statuses=("invalid",),
        reason="over the time budget",
        caps={"grace": 0.5, "late": 3.0},
    ),
    Attack(
        number=15,
        name="goes on within the grace",
        tries="train for 1.8 s more while the hand-over may take 2 s",
        train_py=goes_on(1.8),
        honest=TIMED,
        statuses=("invalid", "ok"),
        caps={"grace": 2.0},
        residue="the grace is the attacker's: 1% of a long budget",
    ),
    Attack(
        number=15,
        name="goes on in the scorers",
        tries="train for 14 s more, alike in both, with rows that it hands over in its tensors",
        train_py=goes_on_in_the_scorers(14.0),
        statuses=("invalid", "timeout"),
        reason="before its first answer|took more than",
    ),
    Attack(
        number=15,
        name="never hands over",
        tries="hold the device for ever",
        train_py=goes_on(1000.0),
        statuses=("timeout",),
        caps={"grace": 0.3, "late": 0.3},
    ),
    Attack(
        number=16,
        name="a daemon lives on",
        tries="go on when the run is over",
        train_py=before_training(DAEMON.replace("ACTION", "Path('$outside/farm/alive').write_text('x')")),
        sample=True,
    ),
    Attack(
        number=16,
        name="a scorer's daemon lives on",
        tries="go on when the run is over",
        train_py=while_scored(DAEMON.replace("ACTION", "pass")),
        statuses=("ok", "crash"),
    ),
    Attack(
        number=16,
        name="a daemon goes on writing to the tensors",
        tries="train after the hand-over",
        train_py=before_training(KEEPS_WRITING),
        statuses=(*SILENT, "diverged"),  # what it has written before its end may be no number
    ),
    Attack(
        number=23,
        name="fixes the seed",
        by_its_text=True,
        tries="have each run be the same one",
        train_py=variant((BUILD, BUILD + "    torch.manual_seed(1337)\n"), text=HONEST),
        statuses=("invalid",),
        reason="sets its own seed",
    ),
]
