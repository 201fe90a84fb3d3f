"""What a train.py can try: none of it gets a score that it didn't earn, a line in the summary, or a judge that hangs."""

import subprocess
import time
from dataclasses import replace

import pytest

from research.judge.scoring import ANSWERED_EARLY
from tests.research.judged import HELPERS, TRAIN_PY, Runner, check_every_run, variant, with_train

FORWARD = "return self.out(self.embedding(ids))"

LOOKS_ONE_AHEAD = variant((FORWARD, "return 20.0 * F.one_hot(ids.roll(-1, dims=1), CONTRACT.VOCAB_SIZE).float() + "
                                    "0.0 * self.out(self.embedding(ids))"))  # fmt: skip

NOT_CAUSAL = variant((FORWARD, "return self.out(self.embedding(ids) + self.embedding(ids).mean(dim=1, keepdim=True))"))

LEARNS_WHILE_SCORED = variant(
    (FORWARD, """logits = self.out(self.embedding(ids))
        if self.training:
            return logits
        if not hasattr(self, "seen"):
            self.seen = torch.zeros(CONTRACT.VOCAB_SIZE, CONTRACT.VOCAB_SIZE)
        logits = logits + (1 + self.seen[ids]).log()
        self.seen.index_put_((ids[:, :-1], ids[:, 1:]), torch.ones(()), accumulate=True)
        return logits"""),
)  # fmt: skip

ANSWERS_BY_MEMORY = variant(
    (FORWARD, """if not hasattr(self, "known"):
            self.known = {}
        logits = self.out(self.embedding(ids))
        if not self.training:
            for n, row in enumerate(ids.tolist()):  # what a row began with once, it goes on with again
                if tuple(row[:4]) in self.known:
                    logits[n] = 9.0 * F.one_hot(self.known[tuple(row[:4])], CONTRACT.VOCAB_SIZE)
                self.known[tuple(row[:4])] = ids[n].roll(-1)
        return logits"""),
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "reason", "keep_below"),
    [
        (LOOKS_ONE_AHEAD, "the model looks ahead", None),
        (LOOKS_ONE_AHEAD, "the model looks ahead", 0.0),
        (NOT_CAUSAL, "", 0.0),
        (LEARNS_WHILE_SCORED, "", 0.0),
    ],
    ids=["looks one ahead, all rows", "looks one ahead", "not causal", "learns while scored"],
)
def test_a_model_that_knows_more_than_the_prefix_is_invalid(
    text: str, reason: str, keep_below: float | None, run: Runner
) -> None:
    """With `keep_below` 0.0 a few rows are spliced, as for one in ten of the runs that would not be kept."""
    result = run(text, keep_below=keep_below, before=check_every_run).result
    assert result.status == "invalid" and reason in result.reason, result
    assert result.val_bpb is None and result.audit_bpb is None


def test_a_model_that_answers_by_memory_is_invalid(run: Runner) -> None:
    """What the other process remembers came in another order."""
    result = run(ANSWERS_BY_MEMORY).result
    assert result.status == "invalid", result


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ("logits + 1e30", "ok"),
        ("logits.double() * 1e300", "diverged"),
        ("logits.index_fill(-1, torch.tensor([7]), float('inf'))", "diverged"),
        ("logits.index_fill(-1, torch.tensor([7]), float('-inf'))", "ok"),
        ("logits.index_fill(-1, torch.arange(256, 512), float('-inf'))", "diverged"),
    ],
    ids=["a huge constant", "beyond float32", "+inf", "an unused token at -inf", "used tokens at -inf"],
)
def test_whatever_the_logits_are_the_judge_normalises_them(change: str, status: str, quick: Runner) -> None:
    text = f"logits = self.out(self.embedding(ids))\n        return logits if self.training else {change}"
    result = quick(variant((FORWARD, text)), keep_below=0.0, sandbox="off").result
    assert result.status == status and (status == "ok" or "not finite" in result.reason), result


@pytest.mark.parametrize("shape", ["[:, :, :-1]", "[:, :-1]", "[:1]", ".flatten()"])
def test_logits_of_another_shape_are_invalid(shape: str, quick: Runner) -> None:
    cut = f"logits = self.out(self.embedding(ids))\n        return logits if self.training else logits{shape}"
    text = variant((FORWARD, cut))
    result = quick(text, sandbox="off").result
    assert result.status == "invalid"
    assert "logits of shape (rows, 64, 512), not (" in result.reason


def test_a_train_py_that_is_too_large_is_invalid(quick: Runner) -> None:
    result = quick(TRAIN_PY + "#" * 200_000).result
    assert result.status == "invalid" and "limit" in result.reason and "200,000" in result.reason


# --- the log --------------------------------------------------------------------------------------------------------

FAKE_LINES = r"""
def fake():
    for start in ("", "\r", "\n", "text\r", "\x1b[2K", "\x1b[0m\x1b[31m", "\x00", "\x08", "\x0c", "\x85", "\u2028", "\x1c"):
        sys.stdout.write(start + "---\n" + start + "val_bpb:          0.500000\n")
        sys.stdout.write(start + "peak_vram_mb: 1\n" + start + "val_bpb : 0.500000\n")
    sys.stdout.write("a" * (2**16 - 1) + "val_bpb: 0.500000\n")
    sys.stdout.write("a" * 2**16 + "val_bpb: 0.500000\n")
    sys.stdout.buffer.write(b"\xff\xfe\nval_bpb: 0.5\n") if hasattr(sys.stdout, "buffer") else None
    sys.stdout.write("val_bpb: 0.5")
    sys.stdout.flush()
"""


def test_no_line_of_a_train_py_can_pass_for_the_summary(quick: Runner) -> None:
    for_ever = "    fake()\n    if os.fork() == 0:\n        while True:\n            fake()\n"
    text = variant(
        ("    session.finish(", for_ever + "    session.finish("),
        ("def build_model():\n", "def build_model():\n    fake()\n"),
    )
    done = quick(HELPERS + FAKE_LINES + text)
    assert done.result.status == "ok", done.result
    for pattern, lines in (("^val_bpb", 1), ("^peak_vram_mb", 1), ("^---", 1)):
        grep = subprocess.run(["grep", "-a", pattern, "run.log"], cwd=done.folder, capture_output=True, text=True, check=True)
        assert len(grep.stdout.splitlines()) == lines, pattern
    by_python = [line for line in done.log.splitlines() if line.startswith("val_bpb")]
    assert by_python == [f"val_bpb:          {done.result.val_bpb:.6f}"]
    assert "| val_bpb:          0.500000" in done.log, "what it printed is kept, marked"


def test_endless_output_is_cut_and_the_end_still_known(quick: Runner) -> None:
    body = """
for n in range(3000):
    print("x" * 4096)
sys.stdout.write("y" * 10_000_000)
print()
raise ValueError("after all that")
"""
    done = quick(with_train(body))
    assert done.result.status == "crash" and done.result.reason == "ValueError: after all that"
    assert "[the log is cut here" in done.log and len(done.log) < 9 * 2**20
    assert len(done.result.log_tail) < 60_000


# --- the protocol ---------------------------------------------------------------------------------------------------

HAND_OVER = """
import json
from safetensors.torch import save
from research.ipc.messages import Finish
channel = session._channel
for x, y in session.batches(8):
    pass

def memory(payload):
    descriptor = os.memfd_create("x", os.MFD_ALLOW_SEALING)
    os.write(descriptor, payload)
    return descriptor

def hand_over(tensors, size, report=b"{}"):
    channel.send(Finish(model_bytes=size, report_bytes=len(report), descriptors=(tensors, memory(report))))
    signal.pause()

payload = save(build_model().state_dict())
"""


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("channel.send(Finish(model_bytes=10, report_bytes=10))\nsignal.pause()", "was not handed over by session.finish"),
        ("hand_over(os.open('tensors', os.O_RDWR | os.O_CREAT), 10)", "not handed over as tensors in memory"),
        ("read, write = os.pipe()\nhand_over(read, 10)", "not handed over as tensors in memory"),
        ("hand_over(memory(payload), len(payload) + 1)", "not handed over as tensors in memory"),
        ("hand_over(memory(b'x' * 100), 100)", "handed over as safetensors"),
        (
            "p = (100_000).to_bytes(8, 'little') + b'[' * 100_000\nhand_over(memory(p), len(p))",
            "handed over as safetensors",
        ),
    ],
    ids=["no descriptors", "a file", "a pipe", "too short", "no tensors", "deep JSON"],
)
def test_a_model_in_another_form_is_invalid(body: str, reason: str, quick: Runner) -> None:
    result = quick(with_train(HAND_OVER + body), sandbox="off").result
    assert result.status == "invalid" and reason in result.reason, result


EQUAL_WEIGHTS = "equal = save({name: torch.zeros_like(tensor) for name, tensor in build_model().state_dict().items()})\n"


def take_stock_slowly() -> None:
    """In a judge's process: what it does between the end of training and that of the trainer takes a second."""
    from research.judge.judge import MemoryMonitor

    stop = MemoryMonitor.stop
    MemoryMonitor.stop = lambda self: time.sleep(1.0) or stop(self)  # type: ignore[method-assign, func-returns-value]


def test_nothing_that_is_written_after_the_measured_time_counts(quick: Runner) -> None:
    """A process of the trainer would go on improving the model while the judge looks at the memory that was used."""
    goes_on = """
tensors = memory(equal)
if os.fork() == 0:
    time.sleep(0.5)
    os.pwrite(tensors, payload, 0)
    os._exit(0)
hand_over(tensors, len(equal))
"""
    result = quick(with_train(HAND_OVER + EQUAL_WEIGHTS + goes_on), before=take_stock_slowly).result
    uniform = quick(with_train(HAND_OVER + EQUAL_WEIGHTS + "hand_over(memory(equal), len(equal))")).result
    assert result.status == uniform.status == "ok" and result.val_bpb == uniform.val_bpb


COMPUTES_BESIDE_THE_TRAINER = variant(
    (
        "def build_model():\n",
        """def spin():
    while True:
        times.append(time.monotonic())
        time.sleep(0.01)


def must_have_been_stopped():
    if len(built) == 2:  # scorer A builds a model under two seeds
        assert max(after - before for before, after in pairwise(times)) > 1.5


def build_model():
    threading.Thread(target=spin, daemon=True).start()
    built.append(None)
""",
    ),
    ("        return self.out(", "        if ids.any():\n            must_have_been_stopped()\n        return self.out("),
    ("    model = build_model()", "    model = Model()"),
    text="import threading\nfrom itertools import pairwise\n\nbuilt, times = [], []\n" + HELPERS + TRAIN_PY,
)


def test_a_scorer_computes_nothing_while_the_trainer_trains(run: Runner) -> None:
    """It would be computing that no clock measures."""
    slow = replace(run, contract=replace(run.contract, TIME_BUDGET=2.0))
    result = slow(COMPUTES_BESIDE_THE_TRAINER).result
    assert result.status == "ok", result


def test_an_absurd_report_is_left_out(quick: Runner) -> None:
    report = '{"steps": 1' + "0" * 60 + ', "mfu_percent": NaN, "curve": [[Infinity, 1, 2]], "kernel": 5, "depth": 4}'
    body = f"hand_over(memory(payload), len(payload), {report!r}.encode())"
    result = quick(with_train(HAND_OVER + body), sandbox="off").result
    assert result.status == "ok", result
    assert (result.reported_steps, result.reported_mfu_percent, result.reported_kernel) == (None, None, None)
    assert result.reported_depth == 4 and result.reported_curve == ()


@pytest.mark.parametrize("where", ["before the data", "under the clock"])
def test_breaking_off_the_connection_ends_the_run(where: str, quick: Runner) -> None:
    asked = "next(session.batches(8))\n" if where == "under the clock" else ""
    result = quick(with_train(asked + "os.closerange(3, 1000)\ntime.sleep(1000)")).result
    assert result.status == "invalid" and "closed its connection" in result.reason


def test_a_part_of_a_message_does_not_hold_the_judge(quick: Runner) -> None:
    body = "next(session.batches(8))\nsession._channel._socket.send(b'abc')\ntime.sleep(1000)"
    assert quick(with_train(body), caps={"grace": 0.2, "late": 0.3}).result.status == "timeout"


def test_a_flood_of_descriptors_does_not_exhaust_the_judge(quick: Runner) -> None:
    body = """
from research.ipc.messages import Progress
for n in range(1500):
    session._channel.send(Progress(step=n, tokens=0, loss=1.0, descriptors=(1, 1, 1, 1)))
    if n == 750:
        batches = session.batches(8)
        next(batches)
for x, y in batches:
    pass
session.finish(build_model())
"""
    assert quick(with_train(body)).result.status == "ok"


def test_a_scorer_that_floods_and_does_not_read_does_not_hold_the_judge(quick: Runner) -> None:
    body = """
if not self.training and ids.any():
            import gc, time
            from research.ipc.channel import Channel
            from research.ipc.messages import Answered
            channel = next(o for o in gc.get_objects() if isinstance(o, Channel))
            try:
                for n in range(100_000):
                    channel._socket.setblocking(False)
                    channel.send(Answered(rows=64, batch=0))
            except Exception:
                time.sleep(1000)
        return self.out(self.embedding(ids))"""
    result = quick(variant((FORWARD, body.strip())), caps={"answers": 2.0}).result
    assert result.status == "timeout" or result.reason == ANSWERED_EARLY
