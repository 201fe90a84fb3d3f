"""What an attack is, and how the texts of train.py that try one are made."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from textwrap import dedent, indent
from typing import Any

from research.result import RunStatus
from tests.attacks.surroundings import Surroundings
from tests.research.judged import HELPERS, Run, variant

STEPS = 60

HONEST = HELPERS + variant(
    ("CONTRACT = active_contract()", "from itertools import islice\n\nCONTRACT = active_contract()"),
    ("for x, y in batches:", f"for x, y in islice(batches, {STEPS}):"),
)
"""What the attacks are made of: a fixed number of steps, so that its score depends on the seed alone."""

TIMED = HELPERS + variant(("optimizer.step()\n", "optimizer.step()\n            time.sleep(0.02)\n"))
"""Trains until the budget ends, in steps that take about as long on a busy machine as on an idle one."""

LOGITS = "logits = self.out(self.embedding(ids))"
FORWARD = "return self.out(self.embedding(ids))"
LAYERS = "        self.out = nn"
FINISH = "    session.finish("
BUILD = "def build_model():\n"
TRAIN = "def train(session):\n"
CONTRACT = "CONTRACT = active_contract()\n"

SILENT: tuple[RunStatus, ...] = ("ok", "invalid", "crash")
"""The attempt fails, and whether the run goes on depends on the attack; a score is no better than an honest one."""

CAUGHT: tuple[RunStatus, ...] = ("invalid",)


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One train.py that tries what it must not.

    In its texts `$name` stands for a target of Surroundings. Where it gets at something that it should not have, it prints a
    line that begins with LEAK (a scorer, which has no log, ends with it as its last words).
    """

    number: int
    name: str
    tries: str
    train_py: str
    statuses: tuple[RunStatus, ...] = SILENT
    reason: str = ""
    """A pattern of the reason of a run that got no score."""
    first: str | None = None
    """A run before, by the same author."""
    honest: str = HONEST
    """Whose score it must not beat."""
    caps: Mapping[str, float] = field(default_factory=dict)
    spec: Mapping[str, Any] = field(default_factory=dict)
    proof: Callable[[Run, Surroundings], str | None] | None = None
    """What else went wrong, in words; None where all is well."""
    residue: str = ""
    """Why a better score is not stopped: docs/threat-model.md says what it is worth."""
    residue_without_namespaces: str = ""
    """The same, where a host has no namespaces."""
    residue_without_seccomp: str = ""
    """The same, where a host has no seccomp."""
    by_its_text: bool = False
    """Its text is refused before anything runs. That of any other attack is not: else nothing would be tried."""
    needs_gpus: int = 0
    sample: bool = False
    """Part of every run of the tests."""


def lines(code: str, spaces: int) -> str:
    return indent(dedent(code).strip("\n"), " " * spaces) + "\n"


def attempt(code: str, *, name: str = "attempt") -> str:
    """A function that tries `code` and says why it failed."""
    return (
        f"\n\ndef {name}():\n    try:\n{lines(code, 8)}    except Exception as error:\n"
        '        print("attempt failed:", repr(error)[:200])\n\n\n'
    )


def at_import(code: str, text: str = HONEST) -> str:
    """`text` in which all three processes try `code` when they load it."""
    return variant((CONTRACT, CONTRACT + attempt(code) + "attempt()\n"), text=text)


def before_training(code: str, text: str = HONEST) -> str:
    """`text` in which the trainer tries `code` before it asks for data."""
    function = attempt(code).replace("def attempt():", "def attempt(session):")
    return variant((TRAIN, f"{function}{TRAIN}    attempt(session)\n"), text=text)


def before_the_end(code: str, text: str = HONEST) -> str:
    """`text` in which the trainer tries `code` when it has trained, before it hands its model over."""
    return variant((FINISH, lines(code, 4) + FINISH), text=text)


def in_scoring(code: str, text: str = HONEST, *, zeros: bool = False) -> str:
    """`text` whose scorers do `code`, which may change `logits`, for each batch of `ids`.

    With `zeros` they do so for the rows of zeros as well that they try before they see any: their output is still read then.
    """
    honest = "self.training" if zeros else "self.training or not ids.any()"
    return variant((FORWARD, f"{LOGITS}\n        if {honest}:\n            return logits\n{lines(code, 8)}"
                    "        return logits"), text=text)  # fmt: skip


def while_scored(code: str, text: str = HONEST) -> str:
    """`text` whose scorers try `code` once, before their first answer; a line that it returns are their last words."""
    once = """
    if not hasattr(self, "tried"):
        self.tried = True
        if words := attempt():
            raise SystemExit(words)
    """
    return variant((CONTRACT, CONTRACT + attempt(code)), text=in_scoring(once, text, zeros=True))


def in_forward(code: str, text: str = HONEST) -> str:
    """`text` whose model computes `code` instead, both while it trains and while it is scored."""
    return variant((FORWARD, lines(code, 8).strip()), text=text)
