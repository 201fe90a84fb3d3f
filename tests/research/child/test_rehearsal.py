"""The rehearsal: who has one, what it does, and that it is over when the clock starts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from research.child.rehearsal import LEAST_THREADS, ROWS, RehearsalSession, leave_models_uncompiled
from research.contract import Contract
from research.data.prepared import PreparedData
from research.gpu_memory import GIB
from research.ipc.channel import Channel
from research.judge.confinement import Confinement
from research.kernels import attention_choice, compile_cache
from tests.research.judged import TRAIN_PY, Runner, variant
from tests.research.pynvml_played import play_pynvml


def everybody_rehearses() -> None:
    """In a judge's process: its trainer has a rehearsal, though it is on a CPU."""
    made = Confinement.__init__

    def with_rehearsal(self: Confinement, *arguments: Any, **named: Any) -> None:
        made(self, *arguments, **named)
        self.rehearses = True

    Confinement.__init__ = with_rehearsal  # type: ignore[method-assign]


NOTES = variant(
    ("import torch\n", "import os, time\nimport torch\n"),
    (
        "    run(session.warmup(BATCH_SIZE, batches=2))\n",
        """    for x, y in session.warmup(BATCH_SIZE, batches=2):
        name = type(session).__name__
        with open(name, "a") as file:
            file.write(f"{len(x)} ")
    print("printed by", name, flush=True)
    while name == "RehearsalSession":
        time.sleep(1)
    while not os.path.exists("RehearsalSession") or len(open("RehearsalSession").read().split()) < 2:
        time.sleep(0.01)
    print("rehearsed", open("RehearsalSession").read(), flush=True)
    print("warmed up", open("Session").read(), flush=True)
    print("processes", sum(entry.isdigit() for entry in os.listdir("/proc")), flush=True)
""",
    ),
    (
        "    session.finish(",
        """    print("processes", sum(entry.isdigit() for entry in os.listdir("/proc")), flush=True)\n    session.finish(""",
    ),
)


def test_it_goes_through_the_warm_up_and_ends_before_the_clock(quick: Runner) -> None:
    done = quick(NOTES, before=everybody_rehearses)
    assert done.result.status == "ok" and done.left_alive == ()
    assert done.lines("rehearsed ") == [f"{ROWS} {ROWS}"] and done.lines("warmed up ") == ["8 8"]
    assert done.lines("printed by ") == ["Session"]
    if "namespaces" in done.result.sandbox:
        warm, trained = map(int, done.lines("processes "))
        assert trained == warm - 1


@pytest.mark.parametrize(
    "collect",
    ["os.wait()", "signal.signal(signal.SIGCHLD, signal.SIG_IGN); time.sleep(0.5)"],
    ids=["collects it", "collects none"],
)
def test_a_trainer_may_have_collected_it(quick: Runner, collect: str) -> None:
    text = variant(
        ("import torch\n", "import os, signal, time\nimport torch\n"),
        (
            "def train(session):\n",
            f"""def train(session):
    if type(session).__name__ == "RehearsalSession":
        time.sleep(0.1)
        raise SystemExit
    {collect}
""",
        ),
    )
    done = quick(text, before=everybody_rehearses)
    assert done.result.status == "ok" and done.left_alive == ()


@pytest.mark.parametrize("end", ["raise SystemExit", "1 / 0", "import os; os.kill(os.getpid(), 9)"])
def test_one_that_ends_early_is_none_of_the_runs_business(quick: Runner, end: str) -> None:
    text = variant(("    step = 0\n", f"    if type(session).__name__ == 'RehearsalSession':\n        {end}\n    step = 0\n"))
    assert text != TRAIN_PY
    done = quick(text, before=everybody_rehearses)
    assert done.result.status == "ok" and done.left_alive == () and "Traceback" not in done.log


SAYS_WHETHER = """    import os, json
    print("told", json.loads(os.environ["AUTORESEARCH_SETTINGS"])["rehearse"])
    step = 0
"""


def test_without_a_rehearsal_there_is_none(quick: Runner) -> None:
    assert quick(variant(("    step = 0\n", SAYS_WHETHER))).lines("told ")[0] == "False"


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What torch.compile was given, where it does nothing else."""
    given: list[Any] = []

    def compile_nothing(model: Callable[..., Any] | None = None, **options: Any) -> Any:
        given.append(model)
        return model

    monkeypatch.setattr(torch, "compile", compile_nothing)
    leave_models_uncompiled()
    return given


def test_models_are_left_as_they_are(compiled: list[Any]) -> None:
    model = nn.Linear(2, 2)
    assert torch.compile(model, dynamic=False) is model
    assert torch.compile(model.forward) == model.forward
    model.compile()
    assert compiled == [] and model(torch.ones(2)).shape == (2,)


def test_functions_are_compiled(compiled: list[Any]) -> None:
    def update() -> None: ...

    torch.compile(update, dynamic=False)
    torch.compile(dynamic=False)
    assert compiled == [update, None]


def test_its_session_has_few_rows_and_no_clock(judged_contract: Contract) -> None:
    channel, theirs = Channel.pair()
    session = RehearsalSession(channel=channel, contract=judged_contract, device=torch.device("cpu"), seed=1)
    assert [len(x) for x, _ in session.warmup(8, batches=2)] == [ROWS, ROWS]
    assert [len(x) for x, _ in session.warmup(1, batches=1)] == [1]
    with pytest.raises(SystemExit):
        session.batches(8)
    channel.close()
    assert theirs.recv(1) == b""


@pytest.mark.parametrize(
    ("gigabytes", "changes", "of_a_run", "expected"),
    [
        (80, {"threads": LEAST_THREADS}, False, True),
        (80, {"threads": LEAST_THREADS}, True, False),
        (80, {"threads": LEAST_THREADS - 1}, False, False),
        (80, {"threads": LEAST_THREADS, "gpu_memory_bytes": 72 * GIB}, False, False),
        (24, {"threads": LEAST_THREADS}, False, False),
        (80, {"threads": LEAST_THREADS, "device": "cpu"}, False, False),
    ],
    ids=["nothing compiled", "a run was compiled", "few threads", "a limit of memory", "a small GPU", "cpu"],
)
def test_a_trainer_has_one_where_nothing_is_compiled(
    run: Runner, judged_data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gigabytes: int,
    changes: dict[str, Any], of_a_run: bool, expected: bool,
) -> None:  # fmt: skip
    play_pynvml(monkeypatch, total=gigabytes * GIB)
    shared = tmp_path / "shared"
    monkeypatch.setattr(compile_cache, "shared_folder", lambda cache, device: shared)
    stored = attention_choice.measured_file(run.contract, shared)
    shared.mkdir()
    stored.write_text(json.dumps({"milliseconds": {"sdpa": 1.0}}))
    if of_a_run:
        compile_cache.add_run_to_shared([], shared)
    spec = run.spec()
    placement = run.placement(spec, **{"device": "cuda:0", **changes})
    assert Confinement(spec, placement, judged_data, TRAIN_PY, tmp_path, disk_bytes=GIB).rehearses is expected
