"""Every command line of the tutorial, of README.md and of the cookbook, typed one after the other into a fresh checkout.

They are run, not only parsed, by one rule for all:

- A word in capitals, or an ellipsis, is replaced by what it stands for: a file, an experiment, the branch that runs, a query.
  Before `farm try` the edit is made that the page asks for.
- A command ends by itself with status 0. Time is no obstacle: the judge claims its whole time budget at once.
- One that has no end (`farm run` without --experiments, `farm dashboard`) is stopped by Ctrl-C once it has begun. The first
  such farm goes on to a verdict, and those that steer a farm are typed while it runs.
- Lines that differ in numbers alone are one, and of those of `farm run` with options one is left out whose options another has.
- One that needs what isn't here (a GPU, a Ray cluster, a key, an agent, a saved model, near-misses) is refused by one line
  that names it. What may be refused follows from the command and its options, and everything else may not.
"""

import argparse
import os
import re
import shlex
import signal
import tomllib
from dataclasses import dataclass, field, replace

import pytest

from cluster.command_parser import make_parser
from cluster.home import Home
from cluster.local_api import connect
from results.history import read_history
from tests.cluster.forked_farm import Cheaper, ForkedFarm
from tests.cluster.test_farm import wait_for
from tests.cluster.tiny_checkout import Checkout
from tests.test_docs import BLOCK, ROOT, command_lines

PAGES = ("docs/tutorial.md", "README.md", "docs/cookbook.md")

BEGUN = re.compile(r"^home: |^The dashboard of .*http://127\.0\.0\.1:\d+/\?token=", re.M)
"""What a command prints that has no end, once it has begun."""

VERDICT = re.compile(r"#\d+ +(keep|discard) ")
"""What a farm prints of an experiment that has ended."""

NEEDS = {"submit": "No Ray", "fetch": "No Ray", "sample": "--samples", "combine": "near-misses", "abandon": "interrupted",
         "sql": "SELECT"}  # fmt: skip
"""Commands that need what a new machine lacks -> what their refusal names. `farm sql` alone needs a terminal."""


@pytest.fixture
def checkout(checkout: Checkout) -> Checkout:
    checkout.edit("SLEEP = 0.0", "DEPTH = 2\nSLEEP = 0.0")
    checkout.edit("LR = 0.000001", "LR = 0.001")
    checkout.git("commit", "--quiet", "--all", "-m", "a depth")
    return replace(checkout, cheaper=Cheaper(has_quick_judge=True, judge_seconds=0.02))


@dataclass(kw_only=True)
class Typist:
    """Types a page's commands into one checkout."""

    checkout: Checkout
    steering: list[list[str]] = field(default_factory=list)
    """What waits for a farm that runs."""
    rate: float = 0.02
    refused: set[str] = field(default_factory=set)

    def type(self, words: list[str]) -> None:
        options = make_parser().parse_args(words)
        if options.command == "try" and not options.again:
            self.rate *= 1.5
            text = self.checkout.train_py.read_text()
            self.checkout.train_py.write_text(re.sub(r"(?m)^LR = .*", f"LR = {self.rate:g}", text))
        farm = self.checkout.start(*(self.meant(options, word) for word in words))
        assert isinstance(farm, ForkedFarm)
        if is_endless(options):
            self.stop(farm, words)
        output, _ = farm.communicate(timeout=120)
        told = f"farm {shlex.join(words)} ended with {farm.returncode}:\n{output}"
        if farm.returncode == 2:
            needed = refusal(options)
            assert needed and re.fullmatch(rf"farm: [^\n]*({needed})[^\n]*\n", output), told
            self.refused.add(options.command)
        else:
            assert farm.returncode in (0, 130 if is_endless(options) else 0) and "Traceback" not in output, told

    def stop(self, farm: ForkedFarm, words: list[str]) -> None:
        """Presses Ctrl-C once a command that has no end works; before, others are typed that steer it."""
        sign = VERDICT if words[0] == "run" and self.steering else BEGUN
        what = f"{sign.pattern} of farm {shlex.join(words)}"
        wait_for(what, lambda: farm.returncode is not None or sign.search(farm.printed()))
        while farm.returncode is None and words[0] == "run" and self.steering:
            self.type(self.steering.pop(0))
        if farm.returncode is None:
            os.kill(farm.pid, signal.SIGINT)

    def meant(self, options: argparse.Namespace, word: str) -> str:
        """What a word of a page stands for."""
        folder, home = self.checkout.folder.parent, Home(self.checkout.home)
        if word == "ID":
            ideas = [record for history in read_history(home.journal) for record in history.keeps if record.is_idea]
            return ideas[0].experiment.id
        if word == "BRANCH":
            client = connect(home)
            assert client is not None, "a farm is running"
            return str(next(iter(client.status()["loops"])))
        if word == "FILE" and options.command in ("autopsy", "import"):
            return str(self.checkout.folder / "results.tsv")
        file = "night.html" if options.command == "report" else "night.packed"
        if word == "...":
            return "FROM history"
        known = {"FILE": file, "FILE.png": "card.png", "FOLDER": "exported"}
        return str(folder / known[word]) if word in known else "true" if word == "COMMAND" else word


def is_endless(options: argparse.Namespace) -> bool:
    return options.command in ("run", "dashboard") and not getattr(options, "experiments", None)


def refusal(options: argparse.Namespace) -> str:
    """What the refusal of a command names that needs what isn't here; empty if it may not be refused."""
    if options.command == "sql" and options.query:
        return ""
    if re.search(r"\d", str(getattr(options, "devices", None) or "")):
        return "--devices"
    researcher = str(getattr(options, "researcher", None) or "search")
    return NEEDS.get(options.command, "" if researcher == "search" else "not found|isn't installed|ANTHROPIC_API_KEY")


def distinct_lines() -> list[list[str]]:
    """The distinct command lines of the pages, as words: those of the tutorial first, which have an order."""
    found: dict[str, list[str]] = {}
    for line in (line for page in PAGES for line in command_lines(ROOT / page)):
        words = shlex.split(line, comments=True)
        found.setdefault(re.sub(r"\d+", "N", shlex.join(words)), words)
    named = [words for words in found.values() if not words[0].endswith("--help")]
    return [words for words in named if words == ["run"] or words[0] != "run" or not any(is_part(words, one) for one in named)]


def is_part(words: list[str], other: list[str]) -> bool:
    """Whether another line has all of a line's options, and more."""
    return words[0] == other[0] and set(words) < set(other)


def test_every_command_of_the_pages_does_what_it_can_here(checkout: Checkout) -> None:
    lines = distinct_lines()
    steers = [words for words in lines if "BRANCH" in words or make_parser().parse_args(words).module.endswith(".steer")]
    typist = Typist(checkout=checkout, steering=list(steers))
    for words in lines:
        if words not in steers:
            typist.type(words)
    assert not typist.steering and len(lines) > 50 and typist.refused <= {*NEEDS, "run"}


def test_other_commands_of_the_pages_name_what_is_there() -> None:
    """Extras that uv is asked for exist, and what uv runs is a file or an installed program."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    text = "\n".join((ROOT / page).read_text(encoding="utf-8") for page in (*PAGES, "docs/results.md"))
    named = set(re.findall(r"uv sync --extra (\w+)", text))
    assert {"hopper", "flash", "wandb"} <= named <= set(extras)
    blocks = [line for block in BLOCK.findall(text) for line in block.splitlines()]
    programs = {match[1] for line in blocks if (match := re.match(r"uv run (?:--\S+ )?(\S+)", line))}
    assert programs >= {"farm", "pytest", "ray", "research/train.py"}
    from importlib.metadata import entry_points

    scripts = {script.name for script in entry_points(group="console_scripts")}
    assert all((ROOT / name).is_file() or name in scripts for name in programs)
