"""Texts for people: the leaderboard, the morning report, and everything about one experiment."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from research.result import RunResult
from research.text import counted, one_line
from results.costs import total
from results.experiment import DECISIONS, Branch, Decision, ExperimentRecord, Usage
from results.overfitting import measure_overfitting
from results.policy import Rules
from results.shares import unequal_shares
from results.verdict import too_equal

TITLE_WIDTH = 48


def leaderboard_text(records: Iterable[ExperimentRecord], *, limit: int = 20) -> str:
    """A table of the keeps, best first. Their scores must compare: one platform, one score fingerprint."""
    keeps = sorted(_with(records, "keep"), key=_score)
    if not keeps:
        return "no keep yet\n"
    lines = [f"{'':>3}  {'val_bpb':>8}  {'gain':>8}  {'MiB':>7}  {'runs':>4}  {'commit':<7}  idea"]
    for rank, record in enumerate(keeps[:limit], start=1):
        gain = _number(record.verdict.gain if record.verdict else None, "+.6f")
        memory = _number(record.peak_memory_mb, ".0f")
        lines.append(
            f"{rank:>3}  {_score(record):>8.6f}  {gain:>8}  {memory:>7}  {len(_charged(record)):>4}  "
            f"{record.experiment.commit[:7]}  {_title(record)}"
        )
    if len(keeps) > limit:
        lines.append(f"     and {counted(len(keeps) - limit, 'more keep')}")
    return "\n".join(lines) + "\n"


def morning_report(
    branches: Sequence[tuple[Branch, Sequence[ExperimentRecord]]],
    *,
    costs: Mapping[str, Sequence[Usage]] | None = None,
    home: Path | None = None,
    ask: str = "farm sql",
) -> str:
    """Ten lines per branch: what was gained, how sure it is, what failed, what it cost, and what to look at.

    `costs` has what each branch's researcher cost, failed proposals included; without it only proposals that were tried count.
    `ask` is the command that queries this home's history.
    """
    if not branches:
        return "Nothing is recorded yet.\n"
    known = costs or {}
    parts = [_branch_report(branch, records, home, known.get(branch.name)) for branch, records in branches]
    if home is not None:
        parts.append(f"The whole history: `{ask} QUERY`, {home / 'history.parquet'}, {home / 'journal.jsonl'}.\n")
    return "\n".join(parts)


def show_text(record: ExperimentRecord) -> str:
    """Everything about one experiment: the idea, its hypothesis, the verdict, every run and the diff."""
    experiment, verdict = record.experiment, record.verdict
    decided = "none yet"
    if verdict is not None:  # the reason of a failure usually begins with the decision
        decided = f"{verdict.decision}: {verdict.reason.removeprefix(f'{verdict.decision}: ')}"
    lines = [
        f"{experiment.title}",
        f"  experiment  {experiment.id}: number {experiment.number} of {experiment.branch}, {experiment.kind}",
        f"  commit      {experiment.commit} on {experiment.parent_commit[:7]}",
        f"  created     {experiment.created} by {experiment.researcher}{_usage(record)}",
        f"  verdict     {decided}",
        f"  val_bpb     {_number(record.val_bpb, '.6f')}{_over_runs(record)}",
        f"  lines       +{experiment.lines_added} -{experiment.lines_removed}",
    ]
    if experiment.hypothesis:
        lines.append(f"  hypothesis  {' '.join(experiment.hypothesis.split())}")
    if experiment.parents:
        lines.append(f"  builds on   {', '.join(experiment.parents)}")
    lines += [f"  {name}: {old} -> {new}" for name, (old, new) in experiment.changes.items()]
    for run in record.runs:
        lines += ["", *_run_lines(run)]
    if experiment.diff:
        lines += ["", experiment.diff.rstrip("\n")]
    return "\n".join(lines) + "\n"


def _branch_report(
    branch: Branch, records: Sequence[ExperimentRecord], home: Path | None, costs: Sequence[Usage] | None
) -> str:
    keeps = _with(records, "keep")
    lines = [
        f"{branch.name} on {branch.platform}, profile {branch.profile}",
        *_gain_lines(keeps),
        *_warning_lines(records, keeps, home),
        _counts_line(records),
        _cost_line(records, costs),
        *_best_lines(keeps),
        _near_miss_line(records),
        _code_line(branch, keeps),
    ]
    return "\n".join(lines) + "\n"


def _gain_lines(keeps: Sequence[ExperimentRecord]) -> list[str]:
    """The gain from the branch's baseline to its head, and how sure it is."""
    if not keeps:
        return ["No score yet: the baseline has not finished."]
    baseline, head = keeps[0], keeps[-1]
    improvements = [record for record in keeps if record.is_idea]
    if not improvements:
        return [f"The baseline has val_bpb {_score(head):.6f}; nothing has beaten it yet."]
    gain = _score(baseline) - _score(head)
    line = f"val_bpb {_score(baseline):.6f} -> {_score(head):.6f}: {gain:+.6f} bpb gained ({gain / _score(baseline):.2%})"
    sigma = next((r.verdict.sigma for r in reversed(keeps) if r.verdict and r.verdict.sigma), None)
    single = sum(len(_charged(record)) == 1 for record in improvements)
    sure = "How sure: "
    if sigma is not None:
        error = sigma * (1 / len(_charged(baseline)) + 1 / len(_charged(head))) ** 0.5
        sure += f"{gain / error:.1f} standard errors of that difference (sigma {sigma:.5f} per run); "
    return [line, f"{sure}unconfirmed, with a single run: {single} of {counted(len(improvements), 'gain')}"]


def _warning_lines(records: Sequence[ExperimentRecord], keeps: Sequence[ExperimentRecord], home: Path | None) -> list[str]:
    """Doubts about the gain: it does not hold on the audit rows, runs had unequal shares, or seeds make no difference."""
    lines = []
    found = measure_overfitting(keeps[0], keeps[-1], home / "runs") if keeps and home is not None else None
    if found is not None and found.alarm:
        lines.append(f"ALARM: {found.alarm}")
    runs_of: dict[str, list[RunResult]] = {}
    for record in records:
        runs_of.setdefault(record.experiment.commit, []).extend(record.runs)
    lines += _share_lines(records)
    return lines + [remark[0].upper() + remark[1:] for runs in runs_of.values() if (remark := too_equal(runs))]


def _share_lines(records: Sequence[ExperimentRecord]) -> list[str]:
    """A line that names runs which had more or less of the machine than others; none if all had equal shares."""
    unequal = unequal_shares(records)
    if not unequal:
        return []
    named = "; ".join(f"{found.run.run_id} ({found.words})" for found in unequal[:3])
    more = f"; and {len(unequal) - 3} more" if len(unequal) > 3 else ""
    return [f"Unequal shares of the machine, so that scores compare badly: {named}{more}"]


def _counts_line(records: Sequence[ExperimentRecord]) -> str:
    """How the branch's ideas ended. Baselines and controls are not ideas."""
    ideas = [record for record in records if record.is_idea]
    counts = {decision: len(_with(ideas, decision)) for decision in DECISIONS}
    experiments = counted(sum(record.is_done for record in ideas), "experiment")
    return (
        f"{experiments}: {counts['keep']} kept, {counts['discard']} discarded, {counts['crash']} crashed, "
        f"{counts['invalid']} invalid; {counts['lost']} lost to the infrastructure and not counted"
    )


def _code_line(branch: Branch, keeps: Sequence[ExperimentRecord]) -> str:
    """The command that shows the difference between baseline and head, if there is one."""
    if not any(record.is_idea for record in keeps):
        return "Code: no difference yet, nothing but the baseline was kept"
    return f"Code: git diff {branch.baseline_commit[:7]} {keeps[-1].experiment.commit[:7]} -- research/train.py"


def _cost_line(records: Sequence[ExperimentRecord], costs: Sequence[Usage] | None) -> str:
    """Device hours, and what the researcher cost over all proposals and over those that came to nothing."""
    seconds = sum(run.total_seconds or 0.0 for record in records for run in record.runs)
    tried = total(record.experiment.usage for record in records)
    spent = tried if costs is None else total(costs)
    device = f"Cost: {seconds / 3600:.1f} device hours" if seconds >= 3600 else f"Cost: {seconds / 60:.1f} device minutes"
    if not spent.tokens and spent.cost_usd is None:
        return f"{device}; the researcher was free"
    money = "cost unknown" if spent.cost_usd is None else f"{'about ' if spent.estimated else ''}${spent.cost_usd:.2f}"
    wasted = (spent.cost_usd or 0.0) - (tried.cost_usd or 0.0)
    failed = f" (${wasted:.2f} of it for proposals that were not tried)" if wasted >= 0.005 else ""
    return f"{device}; researcher: {money}, {spent.tokens:,} tokens{failed}"


def _best_lines(keeps: Sequence[ExperimentRecord]) -> list[str]:
    gains = [(record.verdict.gain, record) for record in keeps if record.verdict and record.verdict.gain is not None]
    best = sorted(gains, key=lambda pair: -pair[0])[:3]
    return [
        f"{'Best ideas:' if rank == 0 else '           '} {gain:+.6f} {_title(record)} [{record.experiment.id}]"
        f"{' (unconfirmed)' if len(_charged(record)) == 1 else ''}"
        for rank, (gain, record) in enumerate(best)
    ]


def _near_miss_line(records: Sequence[ExperimentRecord]) -> str:
    misses = [record for record in records if is_near_miss(record)]
    if not misses:
        return "Near-misses: none"
    named = "; ".join(f"{_title(record)} [{record.experiment.id}]" for record in misses[:3])
    return f"Near-misses worth combining ({len(misses)}): {named}"


def is_near_miss(record: ExperimentRecord) -> bool:
    """Whether an idea was discarded although it may help, as far as was known when it was decided."""
    verdict = record.verdict
    if verdict is None or verdict.decision != "discard" or verdict.helps is None or verdict.effect is None:
        return False
    return verdict.effect > 0 and verdict.helps >= Rules().forget


def _run_lines(run: RunResult) -> list[str]:
    figures: Mapping[str, str | None] = {
        "val_bpb": _given(run.val_bpb, ".6f"),
        "training": _given(run.training_seconds, ".1f", " s"),
        "start-up": _given(run.startup_seconds, ".1f", " s"),
        "scoring": _given(run.scoring_seconds, ".1f", " s"),
        "total": _given(run.total_seconds, ".1f", " s"),
        "share of the CPU": _given(run.cpu_share, ".0%"),
        "peak memory": _given(run.peak_memory_mb, ".0f", " MiB"),
        "parameters": _given(run.num_params, ",d"),
        "consistency": _given(run.consistency_mean, ".2e", " nats"),
        "reported steps": _given(run.reported_steps, "d"),
        "reported tokens": _given(run.reported_tokens, ",d"),
        "reported mfu": _given(run.reported_mfu_percent, ".1f", "%"),
        "reported recompiles": _given(run.reported_recompiles, "d"),
        "reported kernel": run.reported_kernel,
        "sandbox": ", ".join(run.sandbox) or None,
    }
    reason = f": {run.reason}" if run.reason else ""
    lines = [f"run {run.run_id}: {run.status}{reason} (seed {run.seed}, {run.device})"]
    lines += [f"  {name:<20}{figure}" for name, figure in figures.items() if figure is not None]
    if run.status != "ok" and run.log_tail:
        lines += ["  end of the log:", *(f"    {line}" for line in run.log_tail.splitlines()[-20:])]
    return lines


def _with(records: Iterable[ExperimentRecord], decision: Decision) -> list[ExperimentRecord]:
    """The records with this decision; keeps without a score are left out."""
    chosen = [record for record in records if record.verdict is not None and record.verdict.decision == decision]
    return [record for record in chosen if decision != "keep" or record.val_bpb is not None]


def _charged(record: ExperimentRecord) -> list[RunResult]:
    """The record's runs that were not lost."""
    return [run for run in record.runs if run.status != "lost"]


def _score(record: ExperimentRecord) -> float:
    assert record.val_bpb is not None, "only for records with a score"
    return record.val_bpb


def _title(record: ExperimentRecord) -> str:
    return one_line(record.experiment.title, TITLE_WIDTH)


def _usage(record: ExperimentRecord) -> str:
    usage = record.experiment.usage
    parts = [usage.model, _given(usage.cost_usd, ".4f", " USD")]
    known = [part for part in parts if part]
    return f" ({', '.join(known)})" if known else ""


def _over_runs(record: ExperimentRecord) -> str:
    runs = len(_charged(record))
    return f" (mean of {runs} runs)" if runs > 1 else " (one run: unconfirmed)" if record.val_bpb is not None else ""


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _given(value: float | None, form: str, unit: str = "") -> str | None:
    return None if value is None else f"{format(value, form)}{unit}"
