"""train.py's side: rows and their order, the warm-up, the clock, what is handed over, and what a run can see and change."""

import hashlib
import json
import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import pytest
import torch
from safetensors.torch import load
from torch import nn

from research import session as sessions
from research.contract import Contract
from research.data.prepared import PreparedData
from research.feed import row_order
from research.ipc.channel import Channel, ChannelClosed, monotonic
from research.ipc.memory import sealed_memory
from research.ipc.messages import Data, DataRequested, Finish
from research.session import Session
from tests.research.judged import Runner, events, start_main, wait_for, with_train

ROWS, TOKENS = 10, 6
CONTRACT = Contract(profile="cpu", MAX_SEQ_LEN=TOKENS, TIME_BUDGET=60.0, EVAL_TOKENS=TOKENS, VOCAB_SIZE=60_000, source="stdlib")
ALL_ROWS = (np.arange(ROWS)[:, None] * 5000 + np.arange(TOKENS + 1)).astype(np.uint16)
"""Row n begins with n * 5000: beyond int16 for the last ones."""


@dataclass
class Handed:
    """What stands in for a judge: its end of the channel, and the thread that answers there."""

    channel: Channel
    of_session: Channel
    answering: threading.Thread


@pytest.fixture
def sessions_made(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Handed]]:
    """Ends all threads that stand in for a judge."""
    handed: list[Handed] = []
    yield handed
    for one in handed:
        one.of_session.close()  # ends the thread of a test that never asked for data
        one.answering.join()
        one.channel.close()


def make_session(handed: list[Handed], *, seed: int = 1, contract: Contract = CONTRACT) -> Session:
    """A session whose judge is a thread that hands over ALL_ROWS when it is asked."""
    ours, theirs = socket.socketpair()
    channel = Channel(ours)

    def answer() -> None:
        try:
            message = channel.receive()
        except ChannelClosed:  # a test that never asked for data
            return
        assert isinstance(message, DataRequested)
        deadline = monotonic() + contract.TIME_BUDGET
        memory = sealed_memory(ALL_ROWS.tobytes())
        channel.send(Data(rows=ROWS, width=TOKENS + 1, deadline=deadline, descriptors=(memory,)))

    judge = Handed(channel, Channel(theirs), threading.Thread(target=answer, daemon=True))
    judge.answering.start()
    handed.append(judge)
    return Session(channel=judge.of_session, contract=contract, device=torch.device("cpu"), seed=seed)


def first_rows(session: Session, batch_size: int, count: int) -> list[int]:
    """The numbers of the first `count` rows that come."""
    numbers: list[int] = []
    for x, _ in islice(session.batches(batch_size), -(-count // batch_size)):
        numbers += (x[:, 0] // 5000).tolist()
    return numbers[:count]


@pytest.mark.parametrize("batch_size", [1, 3, 8, 25])
def test_the_rows_come_in_the_same_order_for_every_batch_size(batch_size: int, sessions_made: list[Handed]) -> None:
    expected = [int(n) for epoch in (1, 2, 3) for n in row_order(ROWS, 1, epoch)]
    assert first_rows(make_session(sessions_made), batch_size, 3 * ROWS) == expected


def test_every_epoch_is_a_permutation_of_its_own() -> None:
    orders = [row_order(ROWS, 1, epoch).tolist() for epoch in range(1, 6)]
    assert all(sorted(order) == list(range(ROWS)) for order in orders)
    assert len({tuple(order) for order in orders}) == 5


def test_the_order_is_the_seeds() -> None:
    assert row_order(ROWS, 7, 2).tolist() == row_order(ROWS, 7, 2).tolist()
    assert row_order(ROWS, 7, 2).tolist() != row_order(ROWS, 8, 2).tolist()


def test_epochs_and_tokens_are_counted(sessions_made: list[Handed]) -> None:
    session = make_session(sessions_made)
    batches = session.batches(5)
    seen = []
    for _ in range(5):
        next(batches)
        seen.append((session.epoch, session.tokens))
    assert seen == [(1, 0), (1, 30), (2, 60), (2, 90), (3, 120)]


def test_x_and_y_are_a_row_and_the_row_one_later(sessions_made: list[Handed]) -> None:
    x, y = next(make_session(sessions_made).batches(ROWS))
    order = row_order(ROWS, 1, 1)
    assert np.array_equal(x.numpy(), ALL_ROWS[order][:, :-1]) and np.array_equal(y.numpy(), ALL_ROWS[order][:, 1:])
    assert x.max() >= 45_000, "above what 16 bits with a sign can hold"


def test_the_warm_up_comes_the_way_the_data_does(sessions_made: list[Handed]) -> None:
    session = make_session(sessions_made)
    warm = list(session.warmup(4, batches=2))
    assert len(warm) == 2 and session.progress == 0.0 and session.tokens == 0
    real = next(session.batches(4))
    for a, b in zip(warm[0], real, strict=True):
        assert (a.dtype, a.shape, a.stride(), a.device, a.is_contiguous()) == (b.dtype, b.shape, b.stride(), b.device, True)
    assert not torch.equal(warm[0][0], warm[1][0]) and warm[0][0].max() < CONTRACT.VOCAB_SIZE
    assert torch.equal(warm[0][0][:, 1:], warm[0][1][:, :-1])


def test_the_seed_makes_initialisation_and_warm_up_repeat(sessions_made: list[Handed]) -> None:
    session, other = make_session(sessions_made), make_session(sessions_made, seed=2)

    def drawn(one: Session) -> tuple[list[float], list[int]]:
        one.reseed()
        return torch.rand(3).tolist(), next(one.warmup(1, batches=1))[0].flatten().tolist()

    assert drawn(session) == drawn(session) != drawn(other)


def test_batches_end_with_the_budget(sessions_made: list[Handed]) -> None:
    session = make_session(sessions_made, contract=replace(CONTRACT, TIME_BUDGET=0.2))
    batches = session.batches(2)
    next(batches)
    began = monotonic()
    assert 0.0 < session.progress < 1.0
    for _ in batches:
        assert monotonic() - began < 5.0
    assert session.progress == 1.0 and monotonic() - began > 0.1
    assert list(session.batches(2)) == []


def test_step_lines_tell_of_the_step_before(sessions_made: list[Handed], capsys: pytest.CaptureFixture[str]) -> None:
    session = make_session(sessions_made)
    next(session.batches(2))
    session.log(step=0, loss=torch.tensor(3.0), tokens_per_step=12)
    assert capsys.readouterr().out == "", "nothing waits for the device"
    session.log(step=1, loss=torch.tensor(2.0), lrm=0.5, tokens_per_step=12)
    assert capsys.readouterr().out.startswith("step 00000 (0.0%) | loss: 3.000000 | lrm: 0.50 | dt: ")


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), 100.1])
def test_a_loss_that_explodes_ends_the_process(
    loss: float, sessions_made: list[Handed], capsys: pytest.CaptureFixture[str]
) -> None:
    session = make_session(sessions_made)
    session.log(step=0, loss=torch.tensor(loss), tokens_per_step=1)
    with pytest.raises(SystemExit) as end:
        session.log(step=1, loss=torch.tensor(1.0), tokens_per_step=1)
    assert end.value.code == sessions.DIVERGED
    assert capsys.readouterr().out.startswith("FAIL: the training loss is ")


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 3, bias=False)
        self.b = nn.Linear(3, 3, bias=False)
        self.b.weight = self.a.weight
        self.register_buffer("kept", torch.arange(3))
        self.register_buffer("derived", torch.zeros(3), persistent=False)


@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
def test_a_model_is_handed_over_as_named_tensors(
    compiled: bool, sessions_made: list[Handed], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions.signal, "pause", lambda: None)
    session = make_session(sessions_made)
    next(session.batches(2))
    model = Tied()
    session.finish(torch.compile(model, backend="eager") if compiled else model, depth=3)  # type: ignore[arg-type]
    message = sessions_made[0].channel.receive(5)
    assert isinstance(message, Finish)
    tensors = load(os.pread(message.descriptors[0], message.model_bytes, 0))
    assert set(tensors) == {"a.weight", "b.weight", "kept"}
    assert torch.equal(tensors["b.weight"], model.a.weight)
    report = json.loads(os.pread(message.descriptors[1], message.report_bytes, 0))
    assert report["depth"] == 3 and report["recompiles"] == 0


# --- through the judge ----------------------------------------------------------------------------------------------

FIRST_ROWS = """
import hashlib
seen = []
for x, y in session.batches({batch_size}):
    seen += [row.tobytes() for row in torch.cat([x, y[:, -1:]], dim=1).numpy().astype("uint16")]
    if len(seen) >= 24:
        break
print("rows", hashlib.sha256(b"".join(seen[:24])).hexdigest())
"""
"""It hands nothing over, so that nothing is scored."""


@pytest.mark.parametrize(("batch_size", "seed"), [(1, 1), (3, 1), (8, 1), (8, 5)])
def test_the_judges_rows_are_those_of_the_data_in_the_seeds_order(
    batch_size: int, seed: int, run: Runner, judged_data: PreparedData
) -> None:
    done = run(with_train(FIRST_ROWS.format(batch_size=batch_size)), seed=seed)
    rows = judged_data.load_rows("train")
    expected = rows[row_order(len(rows), seed, 1)[:24]]
    assert done.lines("rows ") == [hashlib.sha256(np.ascontiguousarray(expected).tobytes()).hexdigest()]


TRIES_TO_WRITE = """
import ctypes, mmap
def memfds():
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found += [int(name)] if "memfd" in os.readlink("/proc/self/fd/" + name) else []
        except OSError:
            pass  # the listing's own descriptor
    return found

def attempt(name, act):
    try:
        print("attempt", name, "done", act())
    except (OSError, ValueError) as error:
        print("attempt", name, "refused")

print("before the clock:", len(memfds()), session._feed is None)
batches = session.batches(1)
next(batches)
print("under the clock:", len(memfds()))
before = session._feed._rows.tobytes()
for fd in memfds():
    attempt("write", lambda: os.pwrite(fd, b"x", 0))
    attempt("reopen", lambda: os.pwrite(os.open(f"/proc/self/fd/{fd}", os.O_RDWR), b"x", 0))
    attempt("truncate", lambda: os.ftruncate(fd, 0))
    attempt("map", lambda: mmap.mmap(fd, 100, mmap.MAP_SHARED, mmap.PROT_WRITE)[:1])
    page = session._feed._rows.ctypes.data
    if ctypes.CDLL(None).mprotect(ctypes.c_void_p(page), ctypes.c_size_t(4096), 3):
        print("attempt mprotect refused")
attempt("numpy", lambda: session._feed._rows.__setitem__((0, 0), 1))
print("unchanged:", session._feed._rows.tobytes() == before)
session.finish(build_model())
"""


def test_rows_come_with_the_clock_and_cannot_be_written_to(run: Runner) -> None:
    done = run(with_train(TRIES_TO_WRITE))
    assert done.result.status == "ok", done.result
    assert done.lines("before the clock: ") == ["0 True"] and done.lines("under the clock: ") != ["0"]
    attempts = {"write", "reopen", "truncate", "map", "mprotect", "numpy"}
    assert set(done.lines("attempt ")) == {f"{name} refused" for name in attempts}
    assert done.lines("unchanged: ") == ["True"]


UNTRAINED = "next(session.batches(1))\nsession.finish(build_model())"

SHOWS_ENVIRONMENT = """
print("environment", sorted(os.environ))
print("values", "sk-hidden" in " ".join(os.environ.values()))
print("stdin", repr(sys.stdin.read()), os.readlink("/proc/self/fd/0"))
print("folder", os.listdir("."), os.environ["TMPDIR"] == os.getcwd())
"""


def test_a_run_sees_no_keys_and_no_input(run: Runner, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("keys")
    spec = run.spec()
    request = run.request(spec, with_train(SHOWS_ENVIRONMENT + UNTRAINED))
    read, write = os.pipe()
    secrets = {name: "sk-hidden" for name in ("ANTHROPIC_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "AUTORESEARCH_SECRET")}
    process = start_main(["--serve"], stdin=read, output=folder / "out", environment=secrets)
    os.write(write, request)
    wait_for(lambda: any(event["event"] == "result" for event in events(folder / "out")), 60)
    os.close(write)
    process.join(10)
    os.close(read)
    log = (run.folder(spec) / "run.log").read_text()
    assert process.exitcode == 0 and "val_bpb:" in log, log
    shown = next(line for line in log.splitlines() if line.startswith("environment"))
    assert "'PATH'" in shown and "'AUTORESEARCH_SETTINGS'" in shown
    assert not any(name in shown for name in secrets) and "values False" in log
    assert "stdin '' /dev/null" in log
    assert "folder ['train.py'] True" in log


def test_threads_are_the_specs(run: Runner) -> None:
    for threads in (1, 2):
        text = with_train("print('threads', torch.get_num_threads())")
        assert run(text, threads=threads).lines("threads ") == [str(threads)]


def test_the_same_seed_starts_the_same_model(run: Runner) -> None:
    text = with_train("print('weights', build_model().out.weight.sum().item())")
    first, again, other = (run(text, seed=seed).lines("weights ") for seed in (1, 1, 2))
    assert first == again != other
