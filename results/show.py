"""Everything about one experiment, as text: the idea, what is known of it, every decision, every run and the diff."""

from collections.abc import Mapping
from dataclasses import replace

from research.result import RunResult
from results import policy
from results.experiment import Experiment, ExperimentRecord
from results.group_history import GroupHistory
from results.group_state import estimate_of, time_price
from results.head_gain import interval_text


def show_text(record: ExperimentRecord, group: GroupHistory) -> str:
    """Everything about one experiment of a group, with what all runs say of its idea by now."""
    experiment = record.experiment
    lines = [
        f"{experiment.title}",
        f"  experiment  {experiment.id}: number {experiment.number} of {experiment.branch}, {experiment.kind}",
        f"  commit      {experiment.commit}{_base(experiment)}",
        f"  created     {experiment.created} by {experiment.researcher}{_usage(record)}",
        *_verdict_lines(record, group),
        f"  val_bpb     {_given(record.val_bpb, '.6f') or '-'}{_over_runs(record)}",
        *_estimate_lines(experiment, group),
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


def _base(experiment: Experiment) -> str:
    """The commit that an experiment's was made from; empty for a commit that runs as it is."""
    return "" if experiment.parent_commit == experiment.commit else f" on {experiment.parent_commit[:7]}"


def _verdict_lines(record: ExperimentRecord, group: GroupHistory) -> list[str]:
    """The verdict; every decision with its time, oldest first, if there was more than one."""
    decisions = group.decisions.get(record.experiment.id, ())
    if len(decisions) > 1:
        return [f"  verdict     {one.time}  {_decision(replace(record, verdict=one.verdict))}" for one in decisions]
    return [f"  verdict     {_decision(record)}"]


def _decision(record: ExperimentRecord) -> str:
    """How an experiment ended, and why; the reason usually begins with that."""
    if record.verdict is None:
        return "none yet"
    return f"{record.outcome}: {record.verdict.reason.removeprefix(f'{record.outcome}: ')}"


def _estimate_lines(experiment: Experiment, group: GroupHistory) -> list[str]:
    """What all runs say of an idea by now: its effect, what it must pay for, and where it is; none for other experiments."""
    state = group.state
    found = None if state is None else estimate_of(state, experiment.id)
    if state is None or found is None:
        return []
    where = "not in the head"
    if found.in_head or (group.heads and found.idea in group.heads[-1].patches):
        stays = found.in_head and found.idea in policy.kept(state.farm)
        where = "in the head" if stays else "in the head until the next merge, which leaves it out"
    elif found.idea in policy.kept(state.farm):
        where = "a merge will bring it into the head"
    elif found.is_near_miss:
        where = "not in the head: a near-miss"
    beside = [name for name in experiment.patches if name != experiment.id]
    needs = sorted(state.ideas[experiment.id].needs)
    words = interval_text(found.effect, found.low, found.high)
    lines = [f"  effect      {words} by all runs (90%), P(helps) {found.helps:.2f}; {where}"]
    if found.price:
        time = time_price(state, experiment.id)
        of = f"; {time:.5f} of it for the time that it takes outside the budget" if time else ""
        lines.append(f"  price       {found.price:+.5f} bpb, which the effect must exceed{of}")
    if beside:
        lines.append(f"  tried on    {', '.join(beside)}")
    return [*lines, f"  edits       what {', '.join(needs)} made"] if needs else lines


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


def _usage(record: ExperimentRecord) -> str:
    usage = record.experiment.usage
    parts = [usage.model, _given(usage.cost_usd, ".4f", " USD")]
    known = [part for part in parts if part]
    return f" ({', '.join(known)})" if known else ""


def _over_runs(record: ExperimentRecord) -> str:
    runs = sum(run.status != "lost" for run in record.runs)
    return f" (mean of {runs} runs)" if runs > 1 else " (one run)" if record.val_bpb is not None else ""


def _given(value: float | None, form: str, unit: str = "") -> str | None:
    return None if value is None else f"{format(value, form)}{unit}"
