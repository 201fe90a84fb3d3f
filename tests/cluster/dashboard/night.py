"""A home with a night of two loops, recorded without running anything: a little of everything that pages show."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from research.result import RunResult
from results.experiment import Decision, Experiment, ExperimentKind, Head, Usage, Verdict
from results.group_entries import GAIN
from results.groups import head_event
from results.head_gain import ExpectedGain, gain_event
from results.steering import add_suggestion, set_paused
from results.store import Store
from tests.results.new_home import with_tables
from tests.results.result_samples import make_branch

GROUP, OTHER = "autoresearch/mar8", "autoresearch/mar8-gpu1"

IDEAS = (
    ("normalise queries and keys before RoPE", "keep", 0.0068),
    ("warm up the learning rate over 5% of the steps", "discard", 0.0001),
    ("tie the embedding to the output head", "discard", -0.0121),
    ("Muon for matrices, AdamW for the rest", "keep", 0.0112),
    ("softcap the logits at 15", "discard", 0.0015),
    ("depth 8 to 12 at the same width", "oom", 0.0),
    ("relu squared in the MLP", "keep", 0.0041),
    ("value embeddings in every second layer", "discard", 0.0016),
    ("batch 2^19 to 2^18 tokens", "discard", -0.0032),
    ("decay the learning rate to zero, not to a tenth", "keep", 0.0053),
    ("sliding windows of 512 in three layers of four", "discard", 0.0012),
    ("clip gradients at 0.3", "discard", -0.0006),
    ("train on the evaluation rows", "invalid", 0.0),
    ("beta2 0.95 to 0.98", "discard", 0.0004),
    ("learned residual scales, zero-initialised", "keep", 0.0024),
    ("a shape that does not multiply", "crash", 0.0),
    ("group-query attention with two key heads", "discard", -0.0041),
    ("longer rotary base", "discard", 0.0009),
)
"""Title, outcome and gain of each idea."""

DIFF = """\
--- a/research/train.py
+++ b/research/train.py
@@ -12,7 +12,8 @@
 DEPTH = 8
 WIDTH = 512
-MATRIX_LR = 0.02  # per element
+MATRIX_LR = {value}  # per element
+WARMUP = 0.05{hostile}
 HEAD_DIM = 128

 def train(session):
@@ -41,5 +42,6 @@ class Attention(nn.Module):
     def forward(self, x):
         q, k, v = self.project(x)
+        q, k = norm(q), norm(k)
         return self.out(attention(rope(q), rope(k), v))
"""

SEED_NOISE = 0.0006

BEGAN = datetime(2026, 3, 8, 20, tzinfo=UTC)

REASONS = {
    "oom": "Out of memory: lower DEVICE_BATCH",
    "crash": "RuntimeError: mat1 and mat2 shapes cannot be multiplied",
    "invalid": "the second process scored 0.31 nats per token less on the prefix",
}
"""Why a run without a score ended."""


def record_night(home: Path, *, hostile: str = "", ideas: Sequence[tuple[str, str, float]] = IDEAS) -> None:
    """Records a night in a new home; `hostile` is appended to every text that a researcher or a train.py writes."""
    with Store.open(with_tables(home)) as store:
        Night(store, hostile).record(ideas)


class Night:
    """What is recorded, in order. `hostile` is appended to every text that a researcher or a train.py writes."""

    def __init__(self, store: Store, hostile: str) -> None:
        self._store, self._hostile, self._random = store, hostile, random.Random(7)
        self._numbers = {GROUP: 0, OTHER: 0}
        self._patches: tuple[str, ...] = ()
        self._near: list[str] = []
        self._head = ""
        self._expected = 1.0421

    def record(self, ideas: Sequence[tuple[str, str, float]]) -> None:
        """Records two baselines, ideas, a wave, a control, a confirmation, steering, and an experiment that still runs."""
        for name in (GROUP, OTHER):
            self._store.add_branch(make_branch(name, tag="mar8", group=GROUP, loop=int(name == OTHER)))
        baselines = [self._run_one(name, "baseline", "baseline", "keep", 0.0, runs=2) for name in (GROUP, OTHER)]
        for at, (title, outcome, gain) in enumerate(ideas):
            self._run_one((GROUP, OTHER)[at % 2], "explore", title, outcome, gain)
        self._run_one(GROUP, "wave", "wave of 4 near-misses", "discard", 0.0012, beyond=-0.0019)
        self._run_one(OTHER, "control", "the baseline again", "discard", -0.0270, beyond=-0.0004)
        for gain, commit in ((0.0008, self._head), (-0.0295, baselines[0].commit)):
            self._run_one(GROUP, "confirm", "fresh seeds", "discard", gain, runs=5, commit=commit)
        add_suggestion(self._store, GROUP, f"try a smaller vocabulary{self._hostile}")
        set_paused(self._store, OTHER, True)
        self._record_gain()
        self._store.add_experiment(self._experiment(GROUP, "explore", "QK gain per head"))
        for state in ("waiting", "running"):
            self._work("mar8-run", self._last.id, GROUP, state)

    def _run_one(self, branch: str, kind: ExperimentKind, title: str, outcome: str, gain: float, *, runs: int = 1,
                 commit: str | None = None, beyond: float | None = None) -> Experiment:  # fmt: skip
        experiment = self._experiment(branch, kind, title, commit)
        self._store.add_experiment(experiment)
        for index in range(runs):
            score = self._expected - gain + self._random.gauss(0, SEED_NOISE)
            run = self._run(f"{experiment.id}-r{index}", outcome, score, seed=1 + index + (100 if kind == "confirm" else 0))
            for state in ("waiting", "running", "done"):
                self._work(run.run_id, experiment.id, branch, state)
            self._store.add_run(experiment.id, run)
        self._store.add_verdict(experiment.id, self._verdict(outcome, gain, kind, beyond))
        if outcome == "discard" and kind == "explore" and gain > 0.001:
            self._near.append(experiment.id)
        if outcome == "keep" and kind == "explore":
            self._patches, self._expected = (*self._patches, experiment.id), self._expected - gain
            self._head = experiment.commit
            head = Head(commit=experiment.commit, experiment_id=experiment.id, scores=(), expected=self._expected,
                        patches=self._patches)  # fmt: skip
            self._store.add_event("head", head_event(GROUP, head, f"the idea is kept{self._hostile}"))
        return experiment

    def _experiment(self, branch: str, kind: ExperimentKind, title: str, commit: str | None = None) -> Experiment:
        number, hostile = self._numbers[branch], self._hostile
        self._numbers[branch] += 1
        id, minutes = f"{branch.rpartition('/')[2]}-{number:04d}", 6 * sum(self._numbers.values())
        common: dict[str, Any] = {
            "id": id,
            "branch": branch,
            "number": number,
            "kind": kind,
            "commit": commit or f"{number:02x}{len(branch):02x}".ljust(40, "a"),
            "parent_commit": "b" * 40,
            "title": f"{title}{hostile}",
            "hypothesis": f"It should learn faster:\nless noise.{hostile}",
            "researcher": "farm",
            "patches": self._patches,
            "created": (BEGAN + timedelta(minutes=minutes)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        if kind == "wave":
            common |= {"patches": (*self._patches, *self._near[:2]), "parent_commit": self._head}
        if kind == "explore":
            common |= {
                "researcher": f"{'claude' if number % 2 else 'search'}{hostile}",
                "parents": self._patches[-1:],
                "changes": {f"MATRIX_LR{hostile}": (0.02, 0.035)},
                "diff": DIFF.format(hostile=hostile, value=0.02 + minutes / 1e4),
                "patches": (*self._patches, id),
                "slots": (f"MATRIX_LR{hostile}", "Attention.forward"),
                "lines_added": 3,
                "lines_removed": 1,
                "price": 0.0002,
            }
        if kind == "explore" and number % 2:
            common["usage"] = Usage(researcher="claude", model=f"some-model{hostile}", input_tokens=9000, output_tokens=1800,
                                    cost_usd=0.12, cost_basis="native-reported")  # fmt: skip
        self._last = Experiment(**common)
        return self._last

    def _run(self, id: str, outcome: str, score: float, *, seed: int) -> RunResult:
        common: dict[str, Any] = {
            "run_id": id,
            "seed": seed,
            "device": f"cuda:{seed % 2}",
            "startup_seconds": 21.4,
            "peak_memory_mb": 45_120.0,
            "num_params": 124_000_000,
            "gpu_tflops": 712.0 + self._random.gauss(0, 3),
            "sandbox": ("user", "namespaces", "landlock", "seccomp"),
            "software": {"torch": "2.11"},
            "reported_kernel": f"flash{self._hostile}",
            "log_tail": "".join(f"step {1700 + x:05d} | loss 3.1{x} | 300 s\n" for x in range(6)) + self._hostile,
        }
        if outcome in REASONS:
            reason = f"{REASONS[outcome]}{self._hostile}"
            return RunResult(**common, status=outcome, reason=reason, training_seconds=41.0, total_seconds=63.0)  # type: ignore[arg-type]
        curve = tuple((5.0 * x, 10 * x, 3.0 + 7.0 / (1 + x) + self._random.gauss(0, 0.02)) for x in range(60))
        return RunResult(**common, status="ok", reason="", val_bpb=score, audit_bpb=score + 0.021, audit_rows=512,
                         training_seconds=300.2, scoring_seconds=14.9, total_seconds=338.0, reported_steps=1712,
                         reported_tokens=448_000_000, reported_curve=curve)  # fmt: skip

    def _verdict(self, outcome: str, gain: float, kind: ExperimentKind, beyond: float | None = None) -> Verdict:
        hostile = self._hostile
        if outcome in REASONS:
            decision: Decision = "invalid" if outcome == "invalid" else "crash"
            return Verdict(decision=decision, reason=f"{decision}: {REASONS[outcome]}{hostile}")
        decided: Decision = "keep" if outcome == "keep" else "discard"
        if kind != "explore":
            return Verdict(decision=decided, reason=f"{kind}: measured as asked{hostile}", gain=beyond, sigma=SEED_NOISE)
        helps = 0.97 if outcome == "keep" else 0.62 if gain > 0.001 else 0.08
        words = (
            "it probably helps by more than its price" if outcome == "keep" else "it may help, but not by more than its price"
        )
        return Verdict(
            decision=decided,
            reason=f"{outcome}: effect {gain:+.4f}, P(helps) {helps:.2f}: {words}{hostile}",
            gain=gain,
            needed=0.0009,
            sigma=SEED_NOISE,
            effect=0.8 * gain,
            low=0.8 * gain - 0.0011,
            high=0.8 * gain + 0.0011,
            helps=helps,
        )

    def _record_gain(self) -> None:
        gain = ExpectedGain(baseline=1.0421, gain=0.0281, low=0.0262, high=0.0301, sigma=SEED_NOISE)
        head = self._store.groups.head(GROUP)
        assert head is not None
        entries = len(self._store.groups.entries(GROUP))
        self._store.add_event(GAIN, gain_event(GROUP, head.commit, entries, gain))

    def _work(self, run: str, experiment: str, branch: str, state: str) -> None:
        work = {"run": run, "work": "explore", "branch": branch, "experiment": experiment, "platform": "p", "repeats": 0}
        self._store.add_event("work", {**work, "state": state, **({"worker": "cuda:0"} if state != "waiting" else {})})
