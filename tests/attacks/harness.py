"""Carries attacks out with the real judge, and says what of them was not stopped."""

import re
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from research.contract import Contract
from research.data.prepare import prepare
from tests.attacks.attack import Attack
from tests.attacks.surroundings import Surroundings
from tests.research.judged import Run, Runner, write_documents

CAPS = {"startup": 20.0, "grace": 2.0, "late": 1.0, "answers": 30.0}
OWN_ERRORS = r"NameError|AttributeError|TypeError|SyntaxError|cannot import name|No module named 'research"
MISTAKES = re.compile(rf"(?:{OWN_ERRORS})[^\n]{{0,120}}")
"""What an attack prints that fails before it has tried anything: it was written for another farm."""

ALLOWED_GAIN = 1e-5
"""In bits per byte, beside the noise: sums in another order."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of an attack."""

    attack: Attack
    run: Run | None
    """None where the judge ended without a result."""
    gain: float | None
    """By how much its score is below that of the honest run with the same seed, in bits per byte."""
    sigma: float = 0.0
    """Of the honest run's score over seeds; measured where there is a gain to hold against it."""
    wrong: list[str] = field(default_factory=list)
    """What the attack achieved, in words; empty where it was stopped."""

    @property
    def stopped(self) -> bool:
        return not self.wrong


@dataclass(frozen=True, kw_only=True)
class Harness:
    """Runs attacks, and the honest runs that they are measured by."""

    runner: Runner
    surroundings: Surroundings
    before: Callable[[], None] | None = None
    """What each judge's process does first."""
    seeds: int = 3
    """Of the honest run, for its noise."""
    scores: dict[tuple[str, int], float] = field(default_factory=dict)

    @staticmethod
    def start(folder: Path, *, device: str = "cpu", **changes: Any) -> "Harness":
        """Everything that attacks on `device` need, in `folder`."""
        texts, runs = folder / "texts", folder / "judged"
        texts.mkdir(parents=True)
        runs.mkdir()
        write_documents(texts, documents=1000, seed=1)
        contract = Contract(
            profile="cpu", MAX_SEQ_LEN=64, TIME_BUDGET=1.0, EVAL_TOKENS=64 * 400, VOCAB_SIZE=512, source=f"files:{texts}"
        )
        data = replace(prepare(contract, cache=folder / "cache", say=lambda line: None), source="packages")
        data.save_manifest()  # so that a run may not read the packages' files; those would take longer to prepare
        runner = Runner(contract=contract, data_folder=data.folder, runs_folder=runs, device=device)
        return Harness(runner=runner, surroundings=Surroundings(folder / "outside", data.folder), **changes)

    def close(self) -> None:
        self.surroundings.close()

    def run(self, text: str, **settings: Any) -> Run:
        filled = self.surroundings.fill(text)
        settings = {"environment": self.surroundings.environment, "before": self.before, "patience": 90.0, **settings}
        caps = CAPS | dict(settings.get("caps", {}))
        if self.runner.device != "cpu":  # CUDA starts, and models are compiled
            settings["patience"] = 4 * settings["patience"]
            caps |= {name: max(caps[name], 120.0) for name in ("startup", "answers")}
        return self.runner(filled, **{**settings, "caps": caps})

    def honest_score(self, text: str, seed: int = 1) -> float:
        if (text, seed) not in self.scores:
            result = self.run(text, seed=seed).result
            assert result.status == "ok" and result.val_bpb is not None, result
            self.scores[text, seed] = result.val_bpb
        return self.scores[text, seed]

    def sigma(self, text: str) -> float:
        """Standard deviation of the honest score over seeds."""
        return statistics.stdev(self.honest_score(text, seed) for seed in range(1, self.seeds + 1))

    def execute(self, attack: Attack, *, seed: int = 1) -> Outcome:
        """Carries an attack out, and makes good what it has changed."""
        outcome = Outcome(attack=attack, run=None, gain=None)
        try:
            try:
                if attack.first is not None:
                    self.run(attack.first, caps=attack.caps, seed=seed)
                run = self.run(attack.train_py, caps=attack.caps, seed=seed, **attack.spec)
            except AssertionError:
                wrong = ["the judge ended without a result", *self.surroundings.changes()]
                return replace(outcome, wrong=wrong)
            outcome = replace(outcome, run=run)
            if run.result.val_bpb is not None:
                gain = self.honest_score(attack.honest, seed) - run.result.val_bpb
                outcome = replace(outcome, gain=gain, sigma=self.sigma(attack.honest) if gain > ALLOWED_GAIN else 0.0)
            return replace(outcome, wrong=list(self._what_is_wrong(outcome, run)))
        finally:
            self.surroundings.restore()

    def _what_is_wrong(self, outcome: Outcome, run: Run) -> list[str]:
        attack, result = outcome.attack, run.result
        wrong = []
        if result.status not in attack.statuses:
            wrong.append(f"it ended as {result.status}, not as {' or '.join(attack.statuses)}")
        elif result.status != "ok" and not re.search(attack.reason, result.reason):
            wrong.append(f"the reason is {result.reason!r}, not {attack.reason!r}")
        if mistake := MISTAKES.search(f"{result.reason}\n{run.log}"):
            wrong.append(f"it has a mistake of its own, and was not tried: {mistake[0]}")
        if not attack.residue and outcome.gain is not None and outcome.gain > 3 * outcome.sigma + ALLOWED_GAIN:
            wrong.append(f"its score is {outcome.gain:.4f} better than an honest one (sigma {outcome.sigma:.4f})")
        if run.left_alive:
            wrong.append(f"{len(run.left_alive)} of its processes outlived the run")
        wrong += self.surroundings.leaks(run)
        wrong += self.surroundings.changes()
        if attack.proof is not None and (found := attack.proof(run, self.surroundings)):
            wrong.append(found)
        return wrong


def temporary_harness(**changes: Any) -> Harness:
    return Harness.start(Path(tempfile.mkdtemp(prefix="attacks-")), **changes)
