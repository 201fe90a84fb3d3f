"""How runs without a score end: each in exactly one status, with a reason, and with nothing left alive."""

import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.in_time import in_time
from tests.research.judged import HELPERS, TRAIN_PY, Run, Runner, is_alive, variant, wait_for, with_train

GONE_SECONDS = 2.0

TRAINED = """
model = build_model()
for x, y in session.batches(8):
    pass
"""


def assert_gone(pids: list[int]) -> None:
    """All of `pids` end within what is promised."""
    began = time.monotonic()
    wait_for(lambda: not any(map(is_alive, pids)))
    assert in_time(began, GONE_SECONDS)


def assert_ended(done: Run, status: str, reason: str) -> None:
    assert (done.result.status, reason in done.result.reason) == (status, True), done.result
    assert done.result.val_bpb is None and done.result.audit_bpb is None
    assert "\n" not in done.result.reason and len(done.result.reason) <= 300
    assert done.left_alive == ()
    assert done.log.endswith(f"{status}: {done.result.reason}\n")
    assert "\nval_bpb:" not in done.log


# --- crash ----------------------------------------------------------------------------------------------------------


def test_an_exception_is_a_crash_with_the_tracebacks_tail(quick: Runner) -> None:
    done = quick(with_train("session.batches(8)\nraise ValueError('boom')"))
    assert_ended(done, "crash", "ValueError: boom")
    assert "Traceback (most recent call last)" in done.result.log_tail
    assert 'train.py", line' in done.result.log_tail and "raise ValueError('boom')" in done.result.log_tail
    assert "raise ValueError('boom')" in done.log


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("def build_model(:\n", "line 1: invalid syntax"),
        ("x = " + " + ".join(["x"] * 1500), "nested more than 100 deep"),
        ("x = " + "-" * 90_000 + "1\n", "does not parse"),
    ],
    ids=["syntax", "a deep sum", "deep signs"],
)
def test_what_is_no_python_is_a_crash(text: str, reason: str, quick: Runner) -> None:
    assert_ended(quick(text), "crash", reason)


@pytest.mark.parametrize("name", ["build_model", "train"])
def test_a_missing_function_is_a_crash(name: str, quick: Runner) -> None:
    done = quick(variant((f"def {name}(", f"def other_{name}("), ("    model = build_model()", "    model = Model()")))
    assert_ended(done, "crash", f"{name}()")


def test_a_model_that_is_never_handed_over_is_a_crash(quick: Runner) -> None:
    assert_ended(quick(with_train("return")), "crash", "without session.finish(model)")


def test_a_model_with_other_tensors_than_build_models_is_a_crash(quick: Runner) -> None:
    done = quick(with_train(TRAINED + "session.finish(nn.Linear(4, 4))"))
    assert_ended(done, "crash", "")
    for text in (done.result.log_tail, done.log):
        assert "Error(s) in loading state_dict for Model" in text and 'Missing key(s) in state_dict: "embedding.weight"' in text


def test_a_model_with_other_shapes_than_build_models_is_a_crash(quick: Runner) -> None:
    done = quick(variant(("    session.finish(", "    model.out = nn.Linear(16, 8)\n    session.finish(")))
    assert_ended(done, "crash", "size mismatch for out.bias")


@pytest.mark.parametrize("sandbox", ["auto", "off"])
def test_a_train_py_that_kills_itself_has_crashed(sandbox: str, quick: Runner) -> None:
    """Neither lost, which would be tried again, nor oom, which nothing says."""
    assert_ended(quick(with_train("os.kill(os.getpid(), 9)"), sandbox=sandbox), "crash", "SIGKILL")
    assert_ended(quick(with_train("os.kill(0, 9)"), sandbox=sandbox), "crash", "SIGKILL")


def test_a_trainer_that_somebody_else_kills_is_lost(quick: Runner) -> None:
    """What waits outside of a run's namespaces is out of the run's reach. Without namespaces nobody can tell who it was."""
    done = quick(with_train("for x, y in session.batches(8):\n    time.sleep(60)"), before=_somebody_kills_the_trainer)
    assert_ended(done, "lost" if "namespaces" in done.result.sandbox else "crash", "9" if done.result.status == "lost" else "")


def _somebody_kills_the_trainer() -> None:
    from research.judge.clock import Clock

    wait = Clock.wait_for_model

    def killing(self: Clock, trainer: Any, conversation: Any) -> Any:
        os.kill(trainer.pid, 9)
        return wait(self, trainer, conversation)

    Clock.wait_for_model = killing  # type: ignore[method-assign]


# --- oom ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raising",
    ["raise MemoryError", "raise torch.OutOfMemoryError('CUDA out of memory.')", "torch.empty(2**60)"],
)
def test_running_out_of_memory_is_told_from_a_crash(raising: str, quick: Runner) -> None:
    assert_ended(quick(with_train(raising)), "oom", "")


@pytest.mark.parametrize(
    "raising", ["raise MemoryError", "raise RuntimeError('CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`')"]
)
def test_a_model_that_runs_out_of_memory_while_it_is_scored(raising: str, quick: Runner) -> None:
    text = variant(
        (
            "        return self.out",
            f"        if not self.training and ids.any():\n            {raising}\n        return self.out",
        )
    )
    assert_ended(quick(text), "oom", "out of memory while the model was scored")


# --- diverged -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "reason"),
    [("loss * float('nan')", "FAIL: the training loss is nan at step"), ("loss * 100", "FAIL: the training loss is 6")],
)
def test_a_loss_that_explodes_is_diverged(loss: str, reason: str, quick: Runner) -> None:
    done = quick(variant(("loss=loss,", f"loss={loss},")))
    assert_ended(done, "diverged", reason)
    assert done.lines("FAIL: ")


def test_a_model_of_nans_that_nobody_checked_is_diverged(quick: Runner) -> None:
    done = quick(with_train(TRAINED + "model.out.bias.data.fill_(float('nan'))\nsession.finish(model)"))
    assert_ended(done, "diverged", "the model's logits are not finite on some")


def test_a_model_that_breaks_on_some_rows_is_diverged(quick: Runner) -> None:
    """The scored rows are fine, the spliced ones, which only the second process sees, are not."""
    text = variant(
        ("return self.out(self.embedding(ids))", "return self.out(self.embedding(ids)) * (float('nan') if SPLICED else 1)"),
        ("BATCH_SIZE = 8", "BATCH_SIZE = 8\nfrom pathlib import Path\nSPLICED = Path.cwd().name == 'scorer-b'"),
    )
    assert_ended(quick(text), "diverged", "not finite on some")


# --- timeout --------------------------------------------------------------------------------------------------------


def test_start_up_has_a_cap(quick: Runner) -> None:
    done = quick(HELPERS + "time.sleep(1000)\n" + TRAIN_PY, caps={"startup": 1.0})
    assert_ended(done, "timeout", "startup took more than 1 s")


def test_a_train_py_that_sleeps_under_the_clock_times_out(quick: Runner) -> None:
    done = quick(with_train("for x, y in session.batches(8):\n    time.sleep(1000)"), caps={"grace": 0.2, "late": 0.3})
    assert_ended(done, "timeout", "never called session.finish(model)")


def test_a_model_that_hangs_while_it_is_scored_times_out(quick: Runner) -> None:
    hang = "        if not self.training and ids.any():\n            import time; time.sleep(1000)\n"
    text = variant(("        return self.out", hang + "        return self.out"))
    assert_ended(quick(text, caps={"answers": 1.0}), "timeout", "scoring took more than it may")


# --- the clock ------------------------------------------------------------------------------------------------------


def test_a_model_that_comes_after_the_grace_is_invalid(quick: Runner) -> None:
    done = quick(with_train(TRAINED + "time.sleep(1.0)\nsession.finish(model)"), caps={"grace": 0.3})
    assert_ended(done, "invalid", "over the time budget: the model came 1.")


# --- processes ------------------------------------------------------------------------------------------------------

FORKING = """
Path({pids!r}).write_text("")

def note():
    with open({pids!r}, "a") as file:
        file.write(f"{{os.getpid()}} ")

def hide():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            note()
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            while True:
                time.sleep(1000)
        os._exit(0)

note()
hide()
if os.fork() == 0:
    hide()
    note()
    time.sleep(1000)
while len(Path({pids!r}).read_text().split()) < 4:
    time.sleep(0.01)
"""


@pytest.mark.parametrize("ending", ["hangs", "finishes", "raises"])
def test_nothing_that_a_run_started_outlives_it(ending: str, quick: Runner, tmp_path: Path) -> None:
    ends = {
        "hangs": "for x, y in session.batches(8):\n    time.sleep(1000)",
        "finishes": TRAINED + "session.finish(model)",
        "raises": "raise ValueError",
    }
    pids = tmp_path / "pids"
    text = with_train(FORKING.format(pids=str(pids)) + ends[ending])
    done = quick(text, caps={"grace": 1.0, "late": 0.5}, sandbox="off")  # inside one it could not note its ids out here
    assert done.result.status == {"hangs": "timeout", "finishes": "ok", "raises": "crash"}[ending], done.result
    started = [int(pid) for pid in pids.read_text().split()]
    assert len(started) == 4 and done.left_alive == ()
    assert_gone(started)
