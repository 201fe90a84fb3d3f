"""What a finished search really found: the shrunk gain behind a results.tsv, and how many of its keeps and discards were wrong.

Every keep is a patch on the keeps before it, and every discard a patch that was tried on them once; the regression of
`results/effect_estimate.py` does the rest. Pure functions.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import ndtri

from research.formatting import counted, shortened
from results import effect_estimate as estimate
from results.effect_estimate import INTERVAL, Estimate, Look, NoiseModel
from results.effect_prior import first_prior
from results.foreign_tsv import ForeignFile, ForeignRow

SIGMAS = (0.00005, 0.02)
"""Between these in bpb the noise of a file is looked for."""

SIGMA_SPAN, SIGMA_STEPS = 20.0, 12
ANYTHING = 0.01
"""The share of ideas whose score may be anything, per bpb: a broken model says nothing of the noise."""

DOUBTFUL = (0.05, 0.95)
"""A keep is worth running again when the probability that it helps lies between these."""

MOST_RERUNS, MOST_SEEDS = 5, 20
NEVER = 10**9
"""A refit after so many runs: the sigma is taken as it is."""


@dataclass(frozen=True, kw_only=True)
class Rerun:
    """Runs that would settle a question."""

    what: str
    runs: int
    why: str


@dataclass(frozen=True, kw_only=True)
class Autopsy:
    """What a file tells; gains in bpb."""

    file: ForeignFile
    sigma: float | None
    """Standard deviation of a score between seeds; None if nothing can be estimated."""
    sigma_is_given: bool
    chain: tuple[ForeignRow, ...] = ()
    """The baseline and every keep after it."""
    helps: tuple[float, ...] = ()
    """For each keep after the baseline the probability that it helps."""
    expected_false_discards: float = 0.0
    reported_gain: float | None = None
    """The baseline's score minus that of the last keep."""
    estimated_gain: float | None = None
    low: float | None = None
    high: float | None = None
    reruns: tuple[Rerun, ...] = ()

    @property
    def expected_false_keeps(self) -> float:
        """How many keeps don't help, as far as can be told."""
        return sum(1 - p for p in self.helps)

    def to_json(self) -> dict[str, Any]:
        """The findings as plain data."""
        statuses = [row.status for row in self.file.rows]
        return {
            "rows": len(statuses),
            "keeps": statuses.count("keep"),
            "discards": statuses.count("discard"),
            "crashes": statuses.count("crash"),
            "duplicates": list(self.file.duplicates),
            "unreadable": [asdict(line) for line in self.file.unreadable],
            "sigma": self.sigma,
            "sigma_is_given": self.sigma_is_given,
            "kept_ideas": len(self.helps),
            "expected_false_keeps": self.expected_false_keeps,
            "expected_false_discards": self.expected_false_discards,
            "reported_gain": self.reported_gain,
            "estimated_gain": self.estimated_gain,
            "low": self.low,
            "high": self.high,
            "keep_chain": [
                {"line": row.line, "commit": row.commit, "score": row.score, "description": row.description, "helps": p}
                for row, p in zip(self.chain, (None, *self.helps), strict=True)
            ]
            if self.chain
            else [],
            "reruns": [asdict(rerun) for rerun in self.reruns],
        }


def examine(file: ForeignFile, sigma: float | None = None) -> Autopsy:
    """The autopsy of a file, with this sigma or one estimated from how its scores scatter."""
    repeated = set(file.duplicates)
    scored = [row for row in file.rows if row.score is not None and row.line not in repeated]
    start = next((index for index, row in enumerate(scored) if row.status == "keep"), None)
    if start is None:
        return Autopsy(file=file, sigma=sigma, sigma_is_given=sigma is not None)
    tried = scored[start:]
    used = sigma if sigma is not None else estimated_sigma(tried)
    keeps = [row for row in tried[1:] if row.status == "keep"]
    names = [patch_name(row) for row in keeps]
    model = NoiseModel(sigma=used, is_known=True, refit_every=NEVER)
    posterior = estimate.refitted(estimate.estimate_of_all(model, looks(tried), staying=names))
    mean, sd = estimate.gain(posterior, names)
    width = float(ndtri((1 + INTERVAL) / 2)) * sd
    chain = (tried[0], *keeps)
    return Autopsy(
        file=file,
        sigma=used if len(tried) > 1 else sigma,
        sigma_is_given=sigma is not None,
        chain=chain,
        helps=tuple(_helps(posterior, keeps)),
        expected_false_discards=sum(_helps(posterior, [row for row in tried if row.status == "discard"])),
        reported_gain=_score(chain[0]) - _score(chain[-1]),
        estimated_gain=mean,
        low=mean - width,
        high=mean + width,
        reruns=tuple(_reruns(posterior, chain)),
    )


def autopsy_lines(found: Autopsy) -> list[str]:
    """The autopsy for people."""
    told = found.to_json()
    counts = f"{counted(told['keeps'], 'keep')}, {counted(told['discards'], 'discard')}, "
    unreadable = f" and {counted(len(found.file.unreadable), 'unreadable line')}" if found.file.unreadable else ""
    lines = [f"{counted(told['rows'], 'row')}{unreadable}: {counts}{counted(told['crashes'], 'crash', 'crashes')}"]
    lines += [f"line {line.line} can't be read ({line.reason}): {shortened(line.text, 60)}" for line in found.file.unreadable]
    if found.file.duplicates:
        line = "line" if len(found.file.duplicates) == 1 else "lines"
        lines.append(f"repeated, and counted once: {line} {', '.join(map(str, found.file.duplicates))}")
    return lines + _gain_lines(found, discards=told["discards"])


def _gain_lines(found: Autopsy, *, discards: int) -> list[str]:
    """The noise, the gain, and what is expected to be wrong; or what can't be estimated, and why."""
    if found.estimated_gain is None or found.reported_gain is None:
        return ["no keep has a score: nothing can be estimated"]
    baseline = f"line {found.chain[0].line} is the only keep, and counts as the baseline"
    if found.sigma is None:
        return [f"{baseline}; no other row after it has a score: neither noise nor a gain can be estimated"]
    source = "given" if found.sigma_is_given else "estimated from how the scores scatter"
    wrong = f"{found.expected_false_discards:.1f} of {counted(discards, 'discard')}"
    lines = [f"sigma {found.sigma:.5f} ({source})"]
    if len(found.chain) == 1:
        return [*lines, f"{baseline}: no gain can be estimated, since no idea was kept", f"expected to be wrong: {wrong}"]
    gain = f"estimated {found.estimated_gain:.4f} [{found.low:.4f}, {found.high:.4f}]"
    lines += [
        f"reported gain {found.reported_gain:.4f}; {gain}",
        f"expected to be wrong: {found.expected_false_keeps:.1f} of {counted(len(found.helps), 'keep')} after the baseline, "
        f"{wrong}",
    ]
    reruns = ((counted(rerun.runs, "run"), rerun) for rerun in found.reruns)
    return lines + [f"to settle it: {runs} of {rerun.what} ({rerun.why})" for runs, rerun in reruns]


def looks(tried: Sequence[ForeignRow]) -> list[Look]:
    """The runs of a file for the regression: the baseline, then each idea on the keeps before it."""
    head = frozenset[str]()
    runs = [Look(score=_score(tried[0]), patches=head)]
    for row in tried[1:]:
        patches = head | {patch_name(row)}
        runs.append(Look(score=_score(row), patches=patches))
        if row.status == "keep":
            head = patches
    return runs


def patch_name(row: ForeignRow) -> str:
    """The name of a row's idea in the regression."""
    return f"line {row.line}"


def estimated_sigma(tried: Sequence[ForeignRow]) -> float:
    """The sigma under which the ideas' scores are most likely, given how ideas' effects are spread in sigmas."""
    runs = looks(tried)
    if len(runs) < 2:
        return SIGMAS[0]
    middle = float(np.clip(np.median(np.abs(np.diff([run.score for run in runs]))), *SIGMAS))
    low, high = math.log(middle / SIGMA_SPAN), math.log(2 * middle)
    coarse = np.linspace(low, high, SIGMA_STEPS)
    best = max(coarse, key=lambda sigma: _likelihood(runs, math.exp(sigma)))
    fine = np.linspace(best - (high - low) / SIGMA_STEPS, best + (high - low) / SIGMA_STEPS, SIGMA_STEPS // 2)
    return math.exp(max(fine, key=lambda sigma: _likelihood(runs, math.exp(sigma))))


def _likelihood(runs: Sequence[Look], sigma: float) -> float:
    """Logarithm of the density of ideas' scores above their predictions, in bpb, under this sigma."""
    posterior = estimate.estimate_of_all(NoiseModel(sigma=sigma, is_known=True, refit_every=NEVER), runs)
    residuals, variances = np.array(posterior.first_looks).T
    prior = first_prior()
    spread = prior.variances + variances[:, None] + 1
    densities = np.exp(-0.5 * (residuals[:, None] - prior.means) ** 2 / spread) / np.sqrt(2 * math.pi * spread)
    return float(np.log((1 - ANYTHING) * (densities @ prior.shares) / sigma + ANYTHING).sum())


def _helps(posterior: Estimate, rows: Sequence[ForeignRow]) -> list[float]:
    """For each row the probability that its idea helps."""
    if not rows:
        return []
    effects = estimate.effects_of(posterior, [patch_name(row) for row in rows])
    return [float(p) for p in effects.above(np.zeros(len(rows)))]


def _reruns(posterior: Estimate, chain: Sequence[ForeignRow]) -> list[Rerun]:
    """The cheapest runs that would settle the gain, and the keeps that are in doubt: the most doubtful first."""
    if len(chain) < 2:
        return []
    total = Rerun(what="the baseline and the final train.py", runs=10, why="5 fresh seeds of each give the gain without luck")
    probabilities = zip(_helps(posterior, chain[1:]), chain[1:], strict=True)
    doubts = [(p, row) for p, row in probabilities if DOUBTFUL[0] < p < DOUBTFUL[1]]
    doubts.sort(key=lambda doubt: abs(doubt[0] - 0.5))
    found = [total]
    for p, row in doubts[: MOST_RERUNS - 1]:
        size = max(abs(estimate.effect(posterior, patch_name(row)).mean), posterior.scale / 2)
        seeds = min(MOST_SEEDS, math.ceil(2 * (1.65 * posterior.scale / size) ** 2))
        name = f"{row.commit} {row.description}".strip()
        found.append(
            Rerun(what=f"the final train.py without {name}", runs=seeds, why=f"it helps with probability {p:.2f} only")
        )
    return found


def _score(row: ForeignRow) -> float:
    assert row.score is not None, "only rows with a score are examined"
    return row.score
