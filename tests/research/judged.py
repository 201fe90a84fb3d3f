"""Runs the real judge on small train.py files, without importing torch anew for each.

A fork server imports the judge once; every run is a process forked off it, which is what a judge is in real use: alone in
its process, with torch imported and no thread started.
"""

import json
import os
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

import psutil

from research.contract import Contract
from research.result import Placement, RunResult, RunSpec
from research.sandbox.layers import Layers

CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(["research.run", "tests.research.huge_pages"])

TRAIN_PY = '''
import torch
import torch.nn.functional as F
from torch import nn

from research.profiles import active_contract

CONTRACT = active_contract()
BATCH_SIZE = 8


class Model(nn.Module):
    """Predicts a token from the one before it."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(CONTRACT.VOCAB_SIZE, 16)
        self.out = nn.Linear(16, CONTRACT.VOCAB_SIZE)

    def forward(self, ids):
        return self.out(self.embedding(ids))


def build_model():
    return Model()


def train(session):
    model = build_model().to(session.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    step = 0

    def run(batches):
        nonlocal step
        for x, y in batches:
            loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            session.log(step=step, loss=loss, tokens_per_step=x.numel())
            step += 1

    run(session.warmup(BATCH_SIZE, batches=2))
    step = 0
    run(session.batches(BATCH_SIZE))
    session.finish(model, depth=1, kernel="none")
'''
"""The smallest honest train.py. Tests replace parts of it."""

HELPERS = """
import os
import signal
import sys
import time
from pathlib import Path
"""


def write_documents(folder: Path, *, documents: int, words: int = 400, seed: int) -> None:
    """Text in which a word says something about the next: documents of words, each followed by one of its four successors."""
    chance = random.Random(seed)
    vocabulary = ["".join(chance.choices("abcdefghijklmnoprstuvwyz", k=chance.randint(2, 8))) for _ in range(words)]
    followers = {word: chance.sample(vocabulary, 4) for word in vocabulary}
    for start in range(0, documents, 50):
        texts = []
        for _ in range(min(50, documents - start)):
            word = chance.choice(vocabulary)
            text = [word]
            for _ in range(chance.randint(20, 300)):
                word = chance.choice(followers[word])
                text.append(word)
            texts.append(" ".join(text))
        lines = [f'{{"text": "{text}"}}\n' for text in texts]
        (folder / f"{start}.jsonl").write_text("".join(lines))


def variant(*changes: tuple[str, str], text: str = TRAIN_PY) -> str:
    """TRAIN_PY with each (old, new) replaced. Every old text must be there."""
    for old, new in changes:
        assert old in text, f"{old!r} is not in the text"
        text = text.replace(old, new)
    return text


def with_train(body: str) -> str:
    """TRAIN_PY whose train(session) is `body` (lines without indentation)."""
    kept = TRAIN_PY[: TRAIN_PY.index("def train(session)")]
    return HELPERS + kept + "def train(session):\n" + "".join(f"    {line}\n" for line in body.strip().splitlines())


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run left."""

    result: RunResult
    folder: Path
    left_alive: tuple[int, ...]
    """Descendants of the judge that were alive when it returned."""

    @property
    def log(self) -> str:
        return (self.folder / "run.log").read_text()

    def lines(self, start: str) -> list[str]:
        """The rest of the log's lines that begin with `start`."""
        return [line.removeprefix(start) for line in self.log.split("\n") if line.startswith(start)]


@dataclass(frozen=True, kw_only=True)
class Runner:
    """Makes specs on prepared data, and runs them."""

    contract: Contract
    data_folder: Path
    runs_folder: Path
    device: str = "cpu"

    def spec(self, **changes: Any) -> RunSpec:
        """A spec whose run has a folder of its own."""
        run_id = f"run-{len(list(self.runs_folder.iterdir()))}"
        (self.runs_folder / run_id).mkdir()
        values: dict[str, Any] = {"run_id": run_id, "contract": self.contract, "seed": 1}
        return RunSpec(**{**values, **changes})

    def placement(self, spec: RunSpec, **changes: Any) -> Placement:
        """The place of a spec's run: this device, with one thread."""
        values: dict[str, Any] = {
            "device": self.device,
            "data_folder": str(self.data_folder),
            "run_folder": str(self.folder(spec)),
            "threads": 1,
        }
        return Placement(**{**values, **changes})

    def folder(self, spec: RunSpec) -> Path:
        """The folder of a spec's run."""
        return self.runs_folder / spec.run_id

    def request(self, spec: RunSpec, train_py: str, **changes: Any) -> bytes:
        """The line by which a worker asks for a run, whose train.py it puts into its folder; `changes` are further keys."""
        placement = self.placement(spec)
        placement.write_train_py(train_py)
        parts = {"spec": asdict(spec), "placement": asdict(placement)}
        return json.dumps({**parts, **changes}).encode() + b"\n"

    def __call__(self, train_py: str, *, caps: Mapping[str, float] | None = None, environment: Mapping[str, str] | None = None,
                 before: Callable[[], None] | None = None, patience: float = 120.0, **changes: Any) -> Run:  # fmt: skip
        """Runs `train_py` to its end. `caps` are seconds that replace those of research.judge.clock.Caps; `changes` the spec's
        and the placement's.

        The judge's process adds `environment` to its own and calls `before` before anything else; it takes the layers that
        this host gives from a probe that all runs share, unless `before` may have changed them.
        """
        of_spec = {name: value for name, value in changes.items() if name in RunSpec.__dataclass_fields__}
        spec = self.spec(**of_spec)
        placement = self.placement(spec, **{name: value for name, value in changes.items() if name not in of_spec})
        layers = layers_here() if before is None else None
        ours, theirs = CONTEXT.Pipe(duplex=False)
        order = (spec.to_json(), placement.to_json(), train_py)
        process = CONTEXT.Process(target=_judge, args=(*order, caps or {}, environment or {}, before, layers, theirs))
        process.start()
        theirs.close()
        try:
            answer = ours.recv() if ours.poll(patience) else None
        except EOFError:
            answer = None
        finally:
            process.join(5)
            process.kill()
        assert answer is not None, "the judge ended without a result"
        result = RunResult.from_json(answer["result"])
        return Run(result=result, folder=Path(placement.run_folder), left_alive=tuple(answer["left_alive"]))


def check_every_run() -> None:
    """In a judge's process: process B is asked about every run that would not be kept, too."""
    _check_anyway(1.0)


def check_no_run() -> None:
    """In a judge's process: process B is asked about no run that would not be kept."""
    _check_anyway(0.0)


def _check_anyway(share: float) -> None:
    from research.judge import scoring

    scoring.CHECKED_ANYWAY = share


@cache
def layers_here() -> Layers:
    """The layers of the sandbox that work on this host; a judge asks for each run, which takes a fifth of a second."""
    layers: Layers = in_a_fork(_probe)
    return layers


def _probe() -> Layers:
    from research.sandbox.layers import probe
    from research.sandbox.visible import view_of_run

    return probe(view_of_run(private=(), gpu_minor=None))


def in_a_fork(work: Callable[[], Any], *, patience: float = 60.0) -> Any:
    """What `work`, a module's function, returns in a process of its own that need not import torch anew."""
    ours, theirs = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_work, args=(work, theirs))
    process.start()
    theirs.close()
    try:
        assert ours.poll(patience), "it takes too long"
        return ours.recv()
    finally:
        process.join(5)
        process.kill()


def _work(work: Callable[[], Any], answer: Connection) -> None:
    """Runs in a process of its own."""
    answer.send(work())


def _judge(spec: str, placement: str, train_py: str, caps: Mapping[str, float], environment: Mapping[str, str],
           before: Callable[[], None] | None, layers: Layers | None, answer: Connection) -> None:  # fmt: skip
    """Runs in a process of its own."""
    os.environ.update(environment)
    if before is not None:
        before()
    if layers is not None:
        from research.judge import confinement

        confinement.probe = lambda view: layers  # type: ignore[assignment, attr-defined]
    from research.judge.clock import Caps
    from research.judge.judge import Judge
    from research.sandbox.linux import become_subreaper, keep_freed_memory

    become_subreaper()
    keep_freed_memory()
    patient: dict[str, float] = {"startup": 60.0, "grace": 10.0, "late": 10.0, "answers": 60.0, "hang_up": 1.0, **caps}
    what, where = RunSpec.from_json(spec), Placement.from_json(placement)
    judge = Judge(what, where, train_py, emit=lambda event: None, cancelled=lambda: False, forget=lambda: None,
                  caps=Caps(**patient))  # fmt: skip
    result = judge.execute()
    alive = [child.pid for child in psutil.Process().children(recursive=True)]
    answer.send({"result": result.to_json(), "left_alive": alive})


def read_result(run_folder: str | Path) -> RunResult:
    """The result that a judge left in `run_folder`."""
    return RunResult.from_json((Path(run_folder) / "result.json").read_text())


def start_main(
    arguments: Sequence[str], *, output: Path, stdin: int | None = None, environment: Mapping[str, str] | None = None
) -> BaseProcess:
    """`python -m research.run` with `arguments`, as a process of the fork server; `environment` is added to its own."""
    read, write = os.pipe()
    process = CONTEXT.Process(
        target=_main, args=(list(arguments), DupFd(read if stdin is None else stdin), str(output), dict(environment or {}))
    )
    process.start()
    os.close(read)
    os.close(write)
    return process


def _main(arguments: list[str], stdin: Any, output: str, environment: dict[str, str]) -> None:
    """Runs in a process of its own."""
    os.environ.update(environment)
    os.dup2(stdin.detach(), 0)
    with Path(output).open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    from research.run import main

    code = main(arguments)
    sys.stdout.flush()
    os._exit(code)


def events(output: Path) -> list[dict[str, Any]]:
    """The whole lines of JSON that `--serve` has printed so far."""
    text = output.read_text() if output.exists() else ""
    return [json.loads(line) for line in text.split("\n")[:-1] if line.startswith("{")]


def wait_for(condition: Callable[[], Any], seconds: float = 120.0) -> Any:
    """What `condition` gives once it is true."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)
    return value


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
