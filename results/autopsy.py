"""What a finished search really found: the shrunk gain behind a results.tsv, and how many of its keeps and discards were wrong.

Every keep is a patch on the keeps before it, and every discard a patch that was tried on them once; a known program's further
runs tell of the noise. The regression of `results/effect_estimate.py` does the rest. Pure functions.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np

from research.formatting import counted, shortened
from results import effect_estimate as estimate
from results.effect_estimate import INTERVAL, Estimate
from results.effect_prior import Floats, first_prior
from results.foreign_tsv import ForeignFile, ForeignRow
from results.observations import NoiseModel, Observation

SIGMAS = (0.00005, 0.1)
"""Between these in bpb the noise of a file is looked for."""

SIGMA_SPAN, SIGMA_STEPS = 20.0, 12
SIGMA_ROWS = 400
"""The latest rows of a file from which its noise is estimated: more of them take long and say little."""

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
class Trial:
    """A row with a score, and which ideas were in its train.py."""

    row: ForeignRow
    patches: frozenset[str]
    idea: str | None
    """The idea that it tries; None for the baseline and for what ran before."""
    added: str | None = None
    """The idea by which it moved the head; None if it didn't."""


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
        statuses = [row.status for row in self.file.rows if row.line not in self.file.reruns]
        return {
            "rows": len(self.file.rows),
            "keeps": statuses.count("keep"),
            "discards": statuses.count("discard"),
            "crashes": statuses.count("crash"),
            "known_programs": list(self.file.reruns),
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
    tried = trials(scored[start:], file.reruns)
    used = sigma if sigma is not None else estimated_sigma(tried)
    kept = {trial.added: trial.row for trial in tried if trial.added is not None}
    discarded = [trial.idea for trial in tried if trial.idea is not None and trial.idea not in kept]
    model = NoiseModel(sigma=used, is_known=True, refit_every=NEVER)
    posterior = estimate.refitted(estimate.estimate_of_all(model, [observation(trial) for trial in tried], staying=kept))
    mean, sd = estimate.gain(posterior, kept)
    width = NormalDist().inv_cdf((1 + INTERVAL) / 2) * sd
    chain, kept_any = (tried[0].row, *kept.values()), bool(kept)
    return Autopsy(
        file=file,
        sigma=used if len(tried) > 1 else sigma,
        sigma_is_given=sigma is not None,
        chain=chain,
        helps=tuple(_helps(posterior, list(kept))),
        expected_false_discards=sum(_helps(posterior, discarded)),
        reported_gain=_score(chain[0]) - _score(chain[-1]),
        estimated_gain=mean if kept_any else None,
        low=mean - width if kept_any else None,
        high=mean + width if kept_any else None,
        reruns=tuple(_reruns(posterior, kept)),
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
    if found.file.reruns:
        line = "line" if len(found.file.reruns) == 1 else "lines"
        lines.append(f"no idea by itself, but a known program again, a merge or a wave: {line} "
                     f"{', '.join(map(str, found.file.reruns))}")  # fmt: skip
    return lines + _gain_lines(found, discards=told["discards"])


def _gain_lines(found: Autopsy, *, discards: int) -> list[str]:
    """The noise, the gain, and what is expected to be wrong; or what can't be estimated, and why."""
    if not found.chain:
        return ["no keep has a score: nothing can be estimated"]
    baseline = f"line {found.chain[0].line} is the only keep, and counts as the baseline"
    if found.sigma is None:
        return [f"{baseline}; no other row after it has a score: neither noise nor a gain can be estimated"]
    source = "given" if found.sigma_is_given else "estimated from how the scores scatter"
    wrong = f"{found.expected_false_discards:.1f} of {counted(discards, 'discard')}"
    lines = [f"sigma {found.sigma:.5f} ({source})"]
    if len(found.chain) == 1:
        return [*lines, f"{baseline}: no gain can be estimated, since no idea was kept", f"expected to be wrong: {wrong}"]
    assert found.reported_gain is not None and found.estimated_gain is not None, "an idea was kept"
    assert found.low is not None and found.high is not None, "a gain has an interval"
    gain = f"estimated {_figure(found.estimated_gain)} [{_figure(found.low)}, {_figure(found.high)}]"
    lines += [
        f"reported gain {_figure(found.reported_gain)}; {gain}",
        f"expected to be wrong: {found.expected_false_keeps:.1f} of {counted(len(found.helps), 'keep')} after the baseline, "
        f"{wrong}",
    ]
    reruns = ((counted(rerun.runs, "run"), rerun) for rerun in found.reruns)
    return lines + [f"to settle it: {runs} of {rerun.what} ({rerun.why})" for runs, rerun in reruns]


def trials(tried: Sequence[ForeignRow], reruns: Mapping[int, int | None]) -> list[Trial]:
    """What each row ran: the baseline, then each idea on the keeps before it, or what an earlier row ran.

    A further run of a program that none of the rows ran first is left out: it says nothing.
    """
    head = frozenset[str]()
    ran = {reruns.get(tried[0].line) or tried[0].line: head}
    found = [Trial(row=tried[0], patches=head, idea=None)]
    for row in tried[1:]:
        first = reruns.get(row.line) if row.line in reruns else row.line
        if first is None or (first != row.line and first not in ran):
            continue
        idea = patch_name(row) if first == row.line else None
        patches = ran.setdefault(first, head | {patch_name(row)})
        added = patches - head if row.status == "keep" and head <= patches else frozenset()
        found.append(Trial(row=row, patches=patches, idea=idea, added=next(iter(added), None)))
        head |= added
    return found


def observation(trial: Trial) -> Observation:
    """A row for the regression."""
    return Observation(score=_score(trial.row), patches=trial.patches)


def patch_name(row: ForeignRow) -> str:
    """The name of a row's idea in the regression."""
    return f"line {row.line}"


def estimated_sigma(tried: Sequence[Trial]) -> float:
    """The sigma under which the scores of ideas, given how their effects are spread in sigmas, and of known programs are most
    likely.
    """
    if len(tried) < 2:
        return SIGMAS[0]
    latest = _latest(tried)
    runs = [observation(trial) for trial in latest]
    again = further_runs(latest)
    middle = float(np.clip(np.median(np.abs(np.diff([run.score for run in runs]))), *SIGMAS))
    low, high = math.log(middle / SIGMA_SPAN), math.log(2 * middle)
    coarse = np.linspace(low, high, SIGMA_STEPS)
    best = max(coarse, key=lambda sigma: _likelihood(runs, again, math.exp(sigma)))
    fine = np.linspace(best - (high - low) / SIGMA_STEPS, best + (high - low) / SIGMA_STEPS, SIGMA_STEPS // 2)
    return math.exp(max(fine, key=lambda sigma: _likelihood(runs, again, math.exp(sigma))))


def _latest(tried: Sequence[Trial]) -> list[Trial]:
    """The last rows from a keep on, as if that were the baseline: about SIGMA_ROWS of them, without runs of what was before."""
    starts = [at for at, trial in enumerate(tried) if at == 0 or trial.added is not None]
    start = max(at for at in starts if at <= max(0, len(tried) - SIGMA_ROWS))
    base = tried[start].patches
    return [replace(trial, patches=trial.patches - base) for trial in tried[start:] if base <= trial.patches]


def further_runs(tried: Sequence[Trial]) -> Floats:
    """For each further run of a program its score less the mean of the runs before, and the variance of that in sigma**2."""
    scores: dict[frozenset[str], list[float]] = {}
    found = []
    for trial in tried:
        before = scores.setdefault(trial.patches, [])
        if before:
            found.append((_score(trial.row) - sum(before) / len(before), 1 + 1 / len(before)))
        before.append(_score(trial.row))
    return np.array(found).reshape(-1, 2)


def _likelihood(runs: Sequence[Observation], again: Floats, sigma: float) -> float:
    """Logarithm of the density, in bpb, of ideas' scores above their predictions and of further runs, under this sigma."""
    posterior = estimate.estimate_of_all(NoiseModel(sigma=sigma, is_known=True, refit_every=NEVER), runs)
    residuals, variances = np.array(list(posterior.first_observations)).reshape(-1, 2).T
    prior = first_prior()
    of_ideas = _density(residuals[:, None] - prior.means, prior.variances + variances[:, None] + 1) @ prior.shares
    of_known = _density(again[:, 0] / sigma, again[:, 1])
    return float(np.log((1 - ANYTHING) * np.concatenate([of_ideas, of_known]) / sigma + ANYTHING).sum())


def _density(away: Floats, variances: Floats) -> Floats:
    return np.asarray(np.exp(-0.5 * away**2 / variances) / np.sqrt(2 * math.pi * variances))


def _helps(posterior: Estimate, names: Sequence[str]) -> list[float]:
    """For each idea the probability that it helps."""
    if not names:
        return []
    return [float(p) for p in estimate.effects_of(posterior, names).above(np.zeros(len(names)))]


def _reruns(posterior: Estimate, kept: Mapping[str, ForeignRow]) -> list[Rerun]:
    """The cheapest runs that would settle the gain, and the keeps that are in doubt: the most doubtful first."""
    if not kept:
        return []
    total = Rerun(what="the baseline and the final train.py", runs=10, why="5 fresh seeds of each give the gain without luck")
    doubts = [(p, name) for p, name in zip(_helps(posterior, list(kept)), kept, strict=True) if DOUBTFUL[0] < p < DOUBTFUL[1]]
    doubts.sort(key=lambda doubt: abs(doubt[0] - 0.5))
    found = [total]
    for p, name in doubts[: MOST_RERUNS - 1]:
        size = max(abs(estimate.effect(posterior, name).mean), posterior.scale / 2)
        seeds = min(MOST_SEEDS, math.ceil(2 * (1.65 * posterior.scale / size) ** 2))
        what = f"{kept[name].commit} {kept[name].description}".strip()
        found.append(
            Rerun(what=f"the final train.py without {what}", runs=seeds, why=f"it helps with probability {p:.2f} only")
        )
    return found


def _figure(value: float) -> str:
    """A gain with four decimals; 0 for what they don't show."""
    text = f"{value:.4f}"
    return text if float(text) else "0"


def _score(row: ForeignRow) -> float:
    assert row.score is not None, "only rows with a score are examined"
    return row.score
