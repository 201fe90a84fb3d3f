"""When process B is asked, and what a scorer can tell: it begins when A is dead, and words of scorers are fixed sentences."""

import re
import time
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from research.child.scorer import is_seedless
from research.contract import Contract
from research.judge.conversation import Conversation
from research.judge.failures import RunEnded
from research.sandbox.limits import BrokenLimit, Limits, Supervisor
from tests.research.judged import HELPERS, TRAIN_PY, Run, Runner, check_every_run, check_no_run, variant

FORWARD = "return self.out(self.embedding(ids))"


def test_b_begins_when_a_and_all_that_it_started_are_dead(quick: Runner, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A leaves a process that outlives it, as far as it can; without a sandbox all can write down when they lived."""
    notes = tmp_path_factory.mktemp("notes")
    lived = f"""
if Path.cwd().name == "scorer-a" and os.fork() == 0:
    os.setsid()
    while True:
        Path({str(notes / "daemon-of-a.new")!r}).write_text(str(time.monotonic()))
        os.rename({str(notes / "daemon-of-a.new")!r}, {str(notes / "daemon-of-a")!r})
Path({str(notes)!r}, Path.cwd().name).write_text(str(time.monotonic()))
"""
    done = quick(HELPERS + lived + TRAIN_PY, sandbox="off")
    assert done.result.status == "ok" and not done.result.unchecked, done.result
    when = {path.name: float(path.read_text()) for path in notes.iterdir() if path.suffix != ".new"}
    assert set(when) == {"trainer", "scorer-a", "scorer-b", "daemon-of-a"}
    assert when["scorer-b"] > when["daemon-of-a"] > when["scorer-a"]


def test_b_never_begins_if_it_is_not_asked(quick: Runner, tmp_path_factory: pytest.TempPathFactory) -> None:
    notes = tmp_path_factory.mktemp("notes")
    text = HELPERS + f"Path({str(notes)!r}, Path.cwd().name).touch()\n" + TRAIN_PY
    done = quick(text, sandbox="off", keep_below=0.0, before=check_no_run)
    assert done.result.status == "ok" and done.result.unchecked and done.result.consistency_rows is None
    assert {path.name for path in notes.iterdir()} == {"trainer", "scorer-a"} and done.left_alive == ()


AUDIT_ALONE = variant(
    (FORWARD, """logits = self.out(self.embedding(ids))
        if not self.training and ids.any():
            self.answered = getattr(self, "answered", 0) + len(ids)
            if WHO == "scorer-a" and self.answered > CONTRACT.eval_rows:
                logits[:, 32:-1] += 14.0 * F.one_hot(ids.roll(-1, 1)[:, 32:-1], CONTRACT.VOCAB_SIZE)
        return logits"""),
    ("BATCH_SIZE = 8", "BATCH_SIZE = 8\nfrom pathlib import Path\nWHO = Path.cwd().name"),
)  # fmt: skip


@pytest.mark.parametrize("keep_below", [None, 0.0])
def test_a_model_that_looks_ahead_on_the_audit_rows_alone_is_invalid(keep_below: float | None, quick: Runner) -> None:
    result = quick(AUDIT_ALONE, keep_below=keep_below, before=check_every_run).result
    assert result.status == "invalid" and result.audit_bpb is None, result


def test_a_model_that_knows_the_last_position_alone_is_invalid(quick: Runner) -> None:
    """The token after the last one is in no input: A answers there by what it was told, which B can't repeat."""
    told = (
        "logits = self.out(self.embedding(ids))\n"
        "        if not self.training and ids.any() and Path.cwd().name == 'scorer-a':\n"
        "            logits[:, -1] += 3.0 * torch.randn(CONTRACT.VOCAB_SIZE)\n"
        "        return logits"
    )
    text = variant((FORWARD, told), ("BATCH_SIZE = 8", "BATCH_SIZE = 8\nfrom pathlib import Path"))
    assert quick(text).result.status == "invalid"


def test_answers_that_are_random_are_told_from_a_look_ahead(quick: Runner) -> None:
    text = variant((FORWARD, "return F.dropout(self.out(self.embedding(ids)), 0.1, training=True)"))
    result = quick(text).result
    assert result.status == "invalid" and "random" in result.reason and "dropout" in result.reason


WORKS_FIRST = variant(
    (FORWARD, "if not self.training and ids.any() and WHO in SLOW and not hasattr(self, 'works'):\n"
              f"            self.works = time.sleep(1.5) or True\n        {FORWARD}"),
    ("BATCH_SIZE = 8", "BATCH_SIZE = 8\nimport time\nfrom pathlib import Path\nWHO = Path.cwd().name\nSLOW = ()"),
)  # fmt: skip


def allow_a_second() -> None:
    """In a judge's process: a scorer may take a second more for its first answer."""
    from research.judge import scoring

    scoring.FIRST_ANSWER_SECONDS = 1.0


@pytest.mark.parametrize("slow", [("scorer-a", "scorer-b"), ("scorer-a",), ("scorer-b",)])
def test_a_model_may_not_train_before_its_first_answer_but_one_process_can_be_disturbed(
    slow: tuple[str, ...], quick: Runner
) -> None:
    result = quick(WORKS_FIRST.replace("SLOW = ()", f"SLOW = {slow}"), before=allow_a_second).result
    if len(slow) == 1:
        assert result.status == "ok", result
    else:
        assert result.status == "invalid" and "before its first answer" in result.reason, result


def test_what_a_model_prepares_for_the_shape_of_its_batches_is_done_before_it_is_timed(quick: Runner) -> None:
    """As a compiled model does for each new shape, of which a CPU's scorers have two: two rows, and a whole batch."""
    prepares = (
        "shapes = self.__dict__.setdefault('shapes', set())\n"
        "        if not self.training and len(ids) not in shapes and len(shapes) < 2:\n"
        f"            shapes.add(len(ids)) or time.sleep(1.5)\n        {FORWARD}"
    )
    text = variant((FORWARD, prepares), ("BATCH_SIZE = 8", "BATCH_SIZE = 8\nimport time"))
    result = quick(text, before=allow_a_second).result
    assert result.status == "ok", result


LEAKS = [
    "raise SystemExit(int(ids[0, 3]) % 90 + 1)",
    "raise ValueError(str(ids[0].tolist()))",
    "return self.out(self.embedding(ids))[:, :, : int(ids[0, 3])]",
    "return self.out(self.embedding(ids)) * float('nan')",
    "return self.out(self.embedding(ids.flip(0)))",
    "import time; time.sleep(1000)",
]


@pytest.mark.parametrize("leak", LEAKS)
def test_no_reason_of_a_scorer_that_has_seen_rows_holds_a_number_of_its_choice(leak: str, quick: Runner) -> None:
    body = f"if not self.training and ids.any():\n            {leak}\n        {FORWARD}"
    result = quick(variant((FORWARD, body)), caps={"answers": 3.0}).result
    assert result.status != "ok"
    known = re.sub(r"\(rows, 64, 512\)|took more than 3 s", "", result.reason)
    assert not re.search(r"\d", known), result.reason


def request_slowly() -> None:
    """In a judge's process: the second batch is requested when a scorer has long answered the first."""
    from research.judge.scoring import Answers

    request = Answers._request

    def request_late(self: Answers, rows: np.ndarray) -> None:
        time.sleep(0.5 * (self._requested == 1))
        request(self, rows)

    Answers._request = request_late  # type: ignore[method-assign]


def test_an_unfit_shape_is_told_from_a_crash_if_the_scorer_ends_before_the_next_request(quick: Runner) -> None:
    body = "logits = self.out(self.embedding(ids))\n        return logits if not ids.any() or self.training else logits[:, :-1]"
    result = quick(variant((FORWARD, body)), before=request_slowly).result
    assert result.status == "invalid" and "for evaluation rows too" in result.reason, result


class Random(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(40, 40))
        self.register_buffer("angles", torch.arange(40.0))


class Zero(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(40, 40))


def test_seeds_that_change_nothing_are_found() -> None:
    def under_its_own_seed() -> nn.Module:
        torch.manual_seed(3)
        return Random()

    assert is_seedless(under_its_own_seed(), under_its_own_seed, seed=2)
    torch.manual_seed(1)
    assert not is_seedless(Random(), Random, seed=2)
    assert not is_seedless(Zero(), Zero, seed=2), "what is constant needs no seed"


def test_a_model_that_is_built_alike_under_every_seed_is_invalid(quick: Runner) -> None:
    own = "def build_model():\n    torch.set_rng_state(torch.Generator().get_state())\n    return Model()"
    done: Run = quick(variant(("def build_model():\n    return Model()", own)))
    assert done.result.status == "invalid" and "seed" in done.result.reason


def test_no_times_of_a_device_can_be_set_that_later_runs_would_see(quick: Runner) -> None:
    attempt = """import os
            for name in ("/dev/null", "/dev/zero", "/dev/random"):
                try:
                    os.utime(name, (1, 1))
                    os._exit(0)
                except OSError:
                    open(name, "r+b", buffering=0).write(b"x")"""
    done = quick(variant((FORWARD, f"if not self.training:\n            {attempt}\n        {FORWARD}")))
    if "namespaces" not in done.result.sandbox:
        pytest.skip("this host has no namespaces: the devices are the machine's own")
    assert done.result.status == "ok", done.result


@pytest.mark.parametrize("known", [False, True])
def test_a_limit_that_is_broken_once_rows_are_known_is_told_without_numbers(known: bool, judged_contract: Contract) -> None:
    """Whoever broke it: what is noticed while the second scorer is listened to may have been started by the first."""
    supervisor = Supervisor(Limits(memory_bytes=2**40))
    supervisor.broken = BrokenLimit(resource="processes", reason="too many processes: 659 (limit 512)")
    conversation = Conversation(contract=judged_contract, train_py="", supervisor=supervisor, cancelled=lambda: False,
                                emit=lambda event: None, hang_up_seconds=0.0)  # fmt: skip
    conversation.rows_are_known = known
    listened_to: Any = None
    with pytest.raises(RunEnded) as ended:
        conversation.receive(listened_to)
    assert ended.value.status == "invalid" and ("659" in ended.value.reason) == (not known)
