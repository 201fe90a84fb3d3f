"""Once train.py has begun, nothing that it does is the machine's fault, and nothing ends the judge without a result."""

import os

import pytest

from research.ipc.memory import is_sealable_memory, map_shared, sealed_copy, shared_memory
from research.sandbox.layers import BROKEN
from tests.research.judged import HELPERS, TRAIN_PY, Runner, variant, with_train

FORWARD = "return self.out(self.embedding(ids))"

SCORED = f"if not self.training and ids.any():\n            {{}}\n        {FORWARD}"


@pytest.mark.parametrize(
    "train_py",
    [
        HELPERS + f"os._exit({BROKEN})\n" + TRAIN_PY,
        with_train(f"os._exit({BROKEN})"),
        HELPERS + f"if Path.cwd().name == 'scorer-a':\n    os._exit({BROKEN})\n" + TRAIN_PY,
        HELPERS + variant((FORWARD, SCORED.format(f"os._exit({BROKEN})"))),
        HELPERS + f"if Path.cwd().name == 'scorer-b':\n    os._exit({BROKEN})\n" + TRAIN_PY,
    ],
    ids=["at once", "in training", "a scorer at once", "while it is scored", "scorer B"],
)
def test_an_exit_status_that_stands_for_a_broken_machine_is_a_crash(train_py: str, quick: Runner) -> None:
    assert quick(train_py).result.status == "crash"


def test_a_machine_that_is_broken_before_train_py_begins_loses_the_run(quick: Runner) -> None:
    result = quick(TRAIN_PY, before=_no_device).result
    assert result.status == "lost" and "can't be used" in result.reason, result


def _no_device() -> None:
    from research.child import trainer

    def refuse(device: object, *, memory_limit: int | None) -> None:
        print("the device can't be used", flush=True)
        os._exit(BROKEN)

    trainer.require_device = refuse  # type: ignore[assignment]


CUTS_OFF_ALL_MEMORY = """for name in os.listdir("/proc/self/fd"):
                try:
                    os.ftruncate(int(name), 0)
                except OSError:
                    pass"""


def test_a_scorer_can_cut_off_none_of_the_judges_buffers(quick: Runner) -> None:
    """A judge that reads memory which is not there any more is killed."""
    text = HELPERS + variant((FORWARD, SCORED.format(CUTS_OFF_ALL_MEMORY)))
    assert quick(text).result.status == "ok"


def test_nobody_changes_the_size_of_shared_memory() -> None:
    descriptor = shared_memory(4096)
    map_shared(descriptor, 4096, writable=True)[:3] = b"abc"
    for size in (0, 1, 8192):
        with pytest.raises(OSError):
            os.ftruncate(descriptor, size)
    assert os.pread(descriptor, 3, 0) == b"abc"


def test_memory_in_huge_pages_is_refused() -> None:
    if not hasattr(os, "MFD_HUGETLB"):
        pytest.skip("this Python can't make memory in huge pages")
    try:
        huge = os.memfd_create("huge", os.MFD_ALLOW_SEALING | os.MFD_HUGETLB)
    except OSError as error:
        pytest.skip(f"this host has no huge pages: {error}")
    assert not is_sealable_memory(huge)
    assert is_sealable_memory(shared_memory(4096))


def test_a_copy_is_whole_however_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel copies less than 2 GiB at a time."""
    monkeypatch.setattr("research.ipc.memory.LARGEST_COPY", 1000)
    original = shared_memory(10_001)
    content = os.urandom(10_001)
    os.pwrite(original, content, 0)
    assert os.pread(sealed_copy(original, 10_001), 20_000, 0) == content
    with pytest.raises(OSError):
        sealed_copy(original, 10_002)


HANDS_OVER = """
import struct
from research.ipc.memory import memory_with
from research.ipc.messages import Finish
for x, y in session.batches(8):
    pass
{body}
session._channel.send(Finish(model_bytes=size, report_bytes=2, descriptors=(tensors, memory_with(b"{{}}"))))
time.sleep(60)
"""

SPARSE = """
header = b'{"w":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % (2**42, 2**42)
size = 8 + len(header) + 2**42
tensors = memory_with(struct.pack("<Q", len(header)) + header)
os.ftruncate(tensors, size)
"""

MORE_THAN_ITS_TENSORS = """
header = b'{"w":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}'
size = 8 + len(header) + 4 + 10**6
tensors = memory_with(struct.pack("<Q", len(header)) + header + bytes(4 + 10**6))
"""


@pytest.mark.parametrize(("body", "status"), [(SPARSE, "oom"), (MORE_THAN_ITS_TENSORS, "invalid")], ids=["sparse", "ballast"])
def test_what_is_handed_over_has_the_size_of_its_tensors(body: str, status: str, quick: Runner) -> None:
    result = quick(with_train(HANDS_OVER.format(body=body))).result
    assert result.status == status, result


def test_an_error_of_the_judge_while_train_py_runs_is_invalid_with_its_name(quick: Runner) -> None:
    result = quick(TRAIN_PY, before=_a_judge_that_fails).result
    assert (result.status, "ZeroDivisionError" in result.reason) == ("invalid", True), result


def _a_judge_that_fails() -> None:
    from research.judge import judge

    def failing(*arguments: object, **named: object) -> None:
        raise ZeroDivisionError

    judge.read_submission = failing  # type: ignore[assignment]


def test_an_error_of_the_judge_before_train_py_begins_is_its_own(quick: Runner) -> None:
    with pytest.raises(AssertionError, match="without a result"):
        quick(TRAIN_PY, before=_a_judge_without_processes)


def _a_judge_without_processes() -> None:
    from research.judge import judge

    def failing(*arguments: object, **named: object) -> None:
        raise ZeroDivisionError

    judge.Confinement = failing  # type: ignore[assignment, misc]
