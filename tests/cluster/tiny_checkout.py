"""A checkout with a train.py so small that a run takes seconds, and the farm's commands in it."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.cluster.forked_farm import CHEAPER, Cheaper, ForkedFarm

TRAIN_PY = '''\
"""Predicts a token from the one before it."""

import time

import torch
import torch.nn.functional as F
from torch import nn

from research.profiles import active_contract

LR = 0.000001
WEIGHT_STD = 0.5  # so that there is much to learn: more than what unequal shares of the machine are worth
SLEEP = 0.0  # seconds that a step wastes
UPDATES = 30  # after these it waits for the end, so that a busy machine trains the same model

VOCAB_SIZE = active_contract().VOCAB_SIZE


def build_model():
    model = nn.Sequential(nn.Embedding(VOCAB_SIZE, 16), nn.Linear(16, VOCAB_SIZE, bias=False))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=WEIGHT_STD)
    return model


def train(session):
    model = build_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    for x, y in session.warmup(2, batches=1):
        F.cross_entropy(model(x).flatten(0, 1), y.flatten()).backward()
    for step, (x, y) in enumerate(session.batches(2)):
        if step < UPDATES:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
            loss.backward()
            optimizer.step()
        time.sleep(SLEEP if step < UPDATES else 0.02)
        session.log(step=step, loss=loss, tokens_per_step=x.numel())
    session.finish(model)
'''

GOOD_LR, BAD_LR = 0.03, 0.0000001
"""Well below the untrained model's score after some updates, and no better than it."""


def hear_ctrl_c() -> None:
    """Tests that run in the background ignore Ctrl-C, and so would whatever they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass(frozen=True, kw_only=True)
class Checkout:
    """A git repository with train.py, and a home and a cache for the farm."""

    folder: Path
    cache: Path
    forked: bool = True
    """Whether commands are forked off a process that has imported the farm; else each is a Python of its own."""

    cheaper: Cheaper = CHEAPER
    """What forked commands do otherwise than a user's."""

    def plain(self) -> "Checkout":
        """The same one, whose commands are Pythons of their own, as a user starts them."""
        return replace(self, forked=False)

    @property
    def train_py(self) -> Path:
        return self.folder / "research" / "train.py"

    @property
    def home(self) -> Path:
        return self.folder / "results" / "data"

    def edit(self, old: str, new: str) -> None:
        text = self.train_py.read_text()
        assert old in text
        self.train_py.write_text(text.replace(old, new))

    def git(self, *arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=self.folder, check=True, capture_output=True, text=True).stdout

    def start(self, *arguments: str) -> "subprocess.Popen[str] | ForkedFarm":
        """A command of the farm, running. It leads a process group of its own, as a command in a shell does."""
        if self.forked:
            output = Path(tempfile.mkstemp(dir=self.folder.parent, prefix="printed-")[1])
            environment = self._environment()
            return ForkedFarm(arguments, folder=self.folder, environment=environment, output=output, cheaper=self.cheaper)
        command = [sys.executable, "-m", "cluster.cli", *arguments]
        return subprocess.Popen(command, cwd=self.folder, env=self._environment(), stdout=subprocess.PIPE, text=True,
                                stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=hear_ctrl_c)  # fmt: skip

    def farm(self, *arguments: str, status: int = 0) -> str:
        """What a command of the farm prints; it must end with `status`."""
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=240)
        assert process.returncode == status, output
        return output

    def rows(self, sql: str) -> list[list[Any]]:
        """The rows of a query."""
        answer: list[list[Any]] = json.loads(replace(self, forked=True).farm("sql", "--json", sql))["rows"]
        return answer

    def script(self, *steps: dict[str, Any]) -> str:
        """A file of steps, as the name of a researcher."""
        path = self.folder / "script.json"
        path.write_text(json.dumps(steps))
        return f"scripted:{path}"

    def _environment(self) -> dict[str, str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "FARM_"))}
        ours = {"AUTORESEARCH_CACHE": str(self.cache), "CUDA_VISIBLE_DEVICES": ""}
        return environment | ours | {"RAY_TMPDIR": str(self.folder)}  # whatever Ray cluster this machine has is not ours


def make_checkout(folder: Path, cache: Path) -> Checkout:
    """A fresh repository with one commit."""
    (folder / "research").mkdir(parents=True)
    (folder / "research" / "train.py").write_text(TRAIN_PY)
    (folder / "program.md").write_text("Lower val_bpb.\n")
    (folder / "other.txt").write_text("not the farm's\n")
    (folder / ".gitignore").write_text("results/data/\nresults.tsv\nprogress.png\nrun.log\nscript.json\n")
    checkout = Checkout(folder=folder, cache=cache)
    checkout.git("init", "--quiet", "--initial-branch", "main")
    checkout.git("config", "user.name", "tester")
    checkout.git("config", "user.email", "tester@localhost")
    checkout.git("add", ".")
    checkout.git("commit", "--quiet", "-m", "start")
    return checkout


def decision_of(output: str) -> str:
    """The last decision in the output of `farm try`."""
    return re.findall(r"#\d+ +(\w+)", output)[-1]
