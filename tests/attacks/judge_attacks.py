"""Attacks on the judge's functions, the summary and the logits (1 to 3)."""

from tests.attacks.attack import CAUGHT, CONTRACT, HONEST, Attack, attempt, before_the_end, in_scoring
from tests.attacks.surroundings import Surroundings
from tests.research.judged import Run, variant

PATCHES = """
import gc, types
import research.judge.cross_entropy, research.judge.consistency, research.ipc.channel, research.session, research.contract
try:
    import research.judge.scoring, research.judge.row_scores, research.child.scorer
    research.judge.scoring.cross_entropy = lambda *a, **k: 0.1
    research.judge.row_scores.RowScores.bits_per_byte = 0.1
    research.child.scorer.write_logits = lambda slot, logits: slot.zero_()
except ImportError:
    pass
research.judge.cross_entropy.cross_entropy = lambda logits, targets, **k: torch.zeros(targets.shape)
research.judge.consistency.compare_prefixes = lambda *a, **k: None
research.contract.judge_sha256 = lambda: "0" * 64
F.cross_entropy_kept, F.cross_entropy = F.cross_entropy, lambda *a, **k: F.cross_entropy_kept(*a, **k)
for thing in [thing for thing in gc.get_objects() if isinstance(thing, types.FunctionType)]:
    if "score" in (thing.__module__ or "") and thing.__name__.startswith(("bits", "cross")):
        thing.__code__ = (lambda *a, **k: 0.1).__code__
"""

REPLACED_CHANNEL = """
from research.ipc.channel import Channel
from research.ipc.messages import Answered
sent = Channel.send
def send(self, message):
    sent(self, message)
    if isinstance(message, Answered):
        sent(self, message)
Channel.send = send
"""

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


SHAPES = ("[:, :, :-1]", "[:, :-1]", "[:1]", ".flatten()", "[:, :, None]", "[..., :1].expand_as(logits)[:, 1:]")

CHANGES_THE_BUFFER = """
if not hasattr(Model, "writer"):
    import sys, threading
    frame = sys._getframe()
    while "slots" not in frame.f_locals:
        frame = frame.f_back
    shared, slots = frame.f_locals["ids"], frame.f_locals["slots"]
    def write():
        while True:
            known = shared.long().clamp(0, CONTRACT.VOCAB_SIZE - 1).roll(-1, dims=2)
            slots.scatter_(3, known[..., None], 20.0)
            time.sleep(0.001)
    Model.writer = threading.Thread(target=write, daemon=True)
    Model.writer.start()
"""

ANSWERS_EARLY = """
import sys
from research.ipc.messages import Answered
frame = sys._getframe()
while "request" not in frame.f_locals:
    frame = frame.f_back
for n in range(3):
    frame.f_locals["channel"].send(Answered(rows=len(ids), batch=frame.f_locals["request"].batch + n))
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

JUDGE_ATTACKS: list[Attack] = [
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
            from research.ipc.memory import memory_with
            from research.ipc.messages import Finish
            from safetensors.torch import save
            payload = save({name: tensor.detach().cpu() for name, tensor in model.state_dict().items()})
            report = b'{"val_bpb": 0.1, "num_params": 1, "status": "ok", "score_fingerprint": "0", "seed": 5}'
            memories = (memory_with(payload), memory_with(report))
            session._channel.send(Finish(model_bytes=len(payload), report_bytes=len(report), descriptors=memories))
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
            reason="must return logits of shape",
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
]
