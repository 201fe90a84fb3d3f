"""Texts for people: the leaderboard and the morning report."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from research.formatting import counted, duration, one_line, shortened
from research.result import RunResult
from results import policy
from results.confirmation import conclusion, confirmation_of, in_words
from results.counts import beside_ideas, count
from results.experiment import Decision, ExperimentRecord
from results.gains import BPB_STEP, device_seconds, gain_by_scores
from results.group_history import Decided, GroupHistory
from results.group_state import IdeaEstimate, estimates_of, in_order
from results.group_verdicts import is_postponed
from results.head_gain import ExpectedGain, interval_text, is_told
from results.history import BranchHistory, by_head
from results.outlines import AnyRecord, Outline, RunOutline
from results.overfitting import measure_overfitting
from results.researcher_costs import total
from results.researcher_yields import yields
from results.residuals import controls_in_words
from results.verdict import figure, too_equal

TITLE_WIDTH = 44

WIDTH = 100
"""Columns of the report."""

MOST_IDEAS = 3
"""The most ideas of a sort that the report names."""

MOST_RUNS = 3
"""The most runs that a warning names."""

LEADERBOARD_NOTE = (
    "val_bpb is the raw score, which the seed moves. What decides is the effect by all runs, as estimated",
    "when the idea was decided, and the probability P that it helps; the report has both by now.",
)

REPORT_NOTE = """\
How to read it: the baseline is the untouched train.py, and the head the train.py with all ideas that are kept. Their \
val_bpb, and what an idea gains, are estimated from all runs, which allows for the luck of what was selected; [..] is the 90% \
interval, sigma the standard deviation between seeds. A head's gain is estimated as a whole: what its ideas gain, each by \
itself, need not add up to it. P is the probability that an idea helps by more than the price of its lines, memory and time \
outside the clock. Near-misses may help, and are not kept; dropped is what was kept once, and is neither kept nor a near-miss \
now. More: docs/science.md."""


def leaderboard_text(records: Iterable[ExperimentRecord], *, limit: int = 20) -> str:
    """A table of the keeps, best first. Their scores must compare: one platform, one score fingerprint."""
    keeps = sorted(_with(records, "keep"), key=_score)
    if not keeps:
        return "no keep yet\n"
    lines = [f"{'':>3}  {'val_bpb':>8}  {'effect':>9}  {'P':>4}  {'MiB':>7}  {'runs':>4}  {'commit':<7}  idea"]
    for rank, record in enumerate(keeps[:limit], start=1):
        verdict = record.verdict if record.is_idea else None
        estimated = verdict is not None and verdict.effect is not None
        effect = _number((verdict.effect if estimated else verdict.gain) if verdict else None, "+.6f")
        memory, helps = _number(record.peak_memory_mb, ".0f"), _number(verdict.helps if verdict else None, ".2f")
        lines.append(
            f"{rank:>3}  {_score(record):>8.6f}  {effect:>9}  {helps:>4}  {memory:>7}  {len(_charged(record)):>4}  "
            f"{record.experiment.commit[:7]}  {_title(record)}"
        )
    if len(keeps) > limit:
        lines.append(f"     and {counted(len(keeps) - limit, 'more keep')}")
    if any(record.verdict is not None and record.verdict.effect is not None for record in keeps):
        lines += LEADERBOARD_NOTE
    return "\n".join(lines) + "\n"


def morning_report(histories: Sequence[BranchHistory], *, home: Path | None = None, ask: str = "farm sql",
                   confirm: str = "farm confirm") -> str:  # fmt: skip
    """What was gained and how sure it is, once for the branches that share a head; then for each what failed and what it cost.

    `ask` is the command that queries this home's history, `confirm` the one that runs a branch's head under fresh seeds.
    """
    if not histories:
        return "Nothing is recorded yet.\n"
    parts = ["\n".join(_group_report(chosen, home, confirm)) + "\n" for chosen in by_head(histories)]
    if home is not None:
        parts.append("\n".join(textwrap.wrap(REPORT_NOTE, WIDTH)) + "\n")
        parts.append(f"The whole history: `{ask} QUERY`\n  {home / 'history.parquet'}\n  {home / 'journal.jsonl'}\n")
    return "\n".join(parts)


def _group_report(histories: Sequence[BranchHistory], home: Path | None, confirm: str) -> list[str]:
    """The report on branches of one group."""
    group, branch = histories[0].group, histories[0].branch
    kept = counted(count(group.outlines).kept, "kept idea")
    loops = [f"the head of {len(group.branches)} branches, with {kept}"] if len(group.branches) > 1 else []
    gain = group.gain
    lines = [
        *_wrapped(f"{group.name} on {branch.platform}, profile {branch.profile}"),
        *loops,
        *_gain_lines(group, gain, f"{confirm} {group.name}"),
        *_audit_lines(group, home),
        *_price_lines(group, gain),
        *_idea_lines(group),
        *_researcher_lines(group, histories),
        *_beside_ideas(group),
        *_all_wrapped(_controls(group)),
        _code_line(group),
        *_all_wrapped(_unequal_shares(group)),
        *_policy_lines(group),
    ]
    for history in histories:
        about = [*_all_wrapped(_too_equal(history.outlines)), _counts_line(history.outlines), _cost_line(history)]
        lines += about if len(group.branches) == 1 else [history.branch.name, *(f"  {line}" for line in about)]
    return lines


def _policy_lines(group: GroupHistory) -> list[str]:
    """When program.md was changed, if it was."""
    changes = group.steering.policies[1:]
    told = [f"{one.time[:16].replace('T', ' ')} ({one.digest})" for one in changes[-MOST_RUNS:]]
    return _wrapped(f"program.md changed {counted(len(changes), 'time')}: {', '.join(told)} UTC") if changes else []


def _wrapped(text: str) -> list[str]:
    """Text as lines that fit a branch's part of the report."""
    return textwrap.wrap(text, WIDTH - 2, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _all_wrapped(texts: Iterable[str]) -> list[str]:
    return [line for text in texts for line in _wrapped(text)]


def _gain_lines(group: GroupHistory, gain: ExpectedGain | None, confirm: str) -> list[str]:
    """The gain from the baseline to the head: by all runs, by the head's own score, and under fresh seeds."""
    head, baseline = group.head, group.baseline
    if head is None or baseline is None or (gain is not None and group.is_at_baseline):
        return [group.standing]
    if gain is None:
        return [group.standing, _own_score_line(group, gain)]
    return [
        f"{group.standing}; sigma {figure(gain.sigma)}",
        _own_score_line(group, gain),
        *_confirmation_lines(group, gain, head.commit, confirm),
    ]


def _own_score_line(group: GroupHistory, gain: ExpectedGain | None) -> str:
    """What the score says with which the head was selected."""
    head, scored = group.head_record, gain_by_scores(group)
    if head is None or head.val_bpb is None or scored is None:
        return "The head has not run by itself."
    words = f"The head's raw score, {head.val_bpb:.6f} [{head.experiment.id}], says {scored:+.4f}"
    if gain is None:
        return f"{words}; it was selected, and overstates"
    over = scored - gain.gain
    return f"{words}, which {'overstates' if over > 0 else 'understates'} by {figure(abs(over))}"


def _confirmation_lines(group: GroupHistory, gain: ExpectedGain, commit: str, confirm: str) -> list[str]:
    """What fresh seeds say of the head; of an earlier one if nothing is known of it."""
    found = confirmation_of(group, commit)
    if found is not None:
        said = conclusion(found.found, gain.gain)
        return _wrapped(f"{said[0].upper()}{said[1:]}; {in_words(found)}")
    before = [one for head in reversed(group.heads) if (one := confirmation_of(group, head.commit)) is not None]
    earlier = f"; of an earlier head {in_words(before[0])}" if before else ""
    return [f"Not run under fresh seeds: {confirm}{earlier}"]


def _price_lines(group: GroupHistory, gain: ExpectedGain | None) -> list[str]:
    """The device time of all runs, and how much of it each step of the gain took; none if either would be told as nothing."""
    seconds = device_seconds(group.outlines)
    if gain is None or not is_told(gain.gain) or gain.gain <= 0 or round(seconds) == 0:
        return []
    each = seconds / (gain.gain / BPB_STEP)
    told = duration(each) if each >= 1 else f"{each:.2g} s"
    return [f"Device time: {duration(seconds)}, {told} for each {BPB_STEP} bits per byte gained"]


def _audit_lines(group: GroupHistory, home: Path | None) -> list[str]:
    """How much of the head's own gain shows on the audit rows, with the alarm if there is one."""
    baseline, head = group.baseline, group.head_record
    if baseline is None or head is None or group.is_at_baseline or home is None:
        return []
    found = measure_overfitting(baseline, head, home / "runs")
    if found is None:
        return []
    error = "" if found.standard_error is None else f" +- {found.standard_error:.4f}"
    lines = [f"Audit: gain {-found.audit.change:+.4f} on rows that no researcher sees, {-found.val.change:+.4f} on validation: "
             f"gap {found.gap:+.4f}{error}"]  # fmt: skip
    return [line for text in (*lines, *([f"ALARM: {found.alarm}"] if found.alarm else [])) for line in _wrapped(text)]


def _idea_lines(group: GroupHistory) -> list[str]:
    """The best ideas of the head, near-misses, and what was dropped, by what all runs say."""
    if group.state is None or group.head is None:
        return []
    inside = group.state.patches_at.get(group.head.commit, frozenset())
    several = len(_researchers(group)) > 1
    waiting = policy.kept(group.state.farm) - inside
    misses = policy.near_misses(group.state.farm)
    named = [*inside, *waiting, *misses[:MOST_IDEAS]]
    known = {found.idea: found for found in estimates_of(group.state, in_order(group.state, named))}
    told = {idea: group.outlines[group.place_of[idea]] for idea in named if idea in group.place_of}
    titles = {idea: f"{_title(one)} ({one.experiment.researcher})" if several else _title(one) for idea, one in told.items()}
    lines = _effect_lines("Best ideas:", [one for one in known.values() if one.idea in inside and one.effect > 0], titles)
    lines += _effect_lines("Waiting for a merge:", [one for one in known.values() if one.idea in waiting], titles)
    dropped = [(group.state.idea_of.get(name, name), found) for name, found in dropped_ideas(group).items()]
    again = {idea for idea, _ in dropped}
    named = [
        f"P {known[idea].helps:.2f} [{idea}] {'(kept once) ' if idea in again else ''}{titles[idea]}"
        for idea in misses[:MOST_IDEAS]
    ]
    lines += _listed(f"Near-misses ({len(misses)}):", _with_more(named, len(misses))) or ["Near-misses: none"]
    lines += _dropped_lines("Leaving the head by the next merge:", [found for idea, found in dropped if idea in inside])
    return lines + _dropped_lines("Dropped:", [found for idea, found in dropped if idea not in {*misses, *inside}])


def _researchers(group: GroupHistory) -> set[str]:
    """Who has proposed ideas of the group."""
    return {record.experiment.researcher for record in group.outlines if record.is_idea}


def _researcher_lines(group: GroupHistory, histories: Sequence[BranchHistory]) -> list[str]:
    """What each researcher has found and for what, if there are several."""
    if group.state is None or group.head is None or len(_researchers(group)) < 2:
        return []
    inside = group.state.patches_at.get(group.head.commit, frozenset())
    known = {found.idea: found for found in estimates_of(group.state, in_order(group.state, inside))}
    costs = [usage for history in histories for usage in history.costs]
    return [line for one in yields(group, known, costs) for line in _wrapped(one.line())]


def _effect_lines(label: str, ideas: Sequence[IdeaEstimate], titles: Mapping[str, str]) -> list[str]:
    """What each of some ideas gains, the largest gain first."""
    return _listed(label, [
        f"{interval_text(one.effect, one.low, one.high)} P {one.helps:.2f} [{one.idea}] {titles[one.idea]}"
        for one in sorted(ideas, key=lambda one: -one.effect)[:MOST_IDEAS]
    ])  # fmt: skip


def _listed(label: str, items: Sequence[str]) -> list[str]:
    """A line for each item, cut to the report's width, the first one behind the label."""
    return [shortened(f"{label if at == 0 else '':<{len(label)}} {item}", WIDTH) for at, item in enumerate(items)]


def _with_more(named: Sequence[str], total: int) -> list[str]:
    """The items that are named, and how many more there are."""
    return [*named, f"and {total - len(named)} more"] if total > len(named) else list(named)


def dropped_ideas(group: GroupHistory) -> dict[str, tuple[Decided, ExperimentRecord]]:
    """The experiments whose ideas were kept once and are not now, with their latest decision, by their ids."""
    dropped = {}
    for at, outline in enumerate(group.outlines):
        decided = group.decided(outline) if outline.is_idea else []
        if "keep" in decided[:-1] and decided[-1] != "keep":
            id = outline.experiment.id
            dropped[id] = (group.decisions[id][-1], group.records[at])
    return dropped


def _dropped_lines(label: str, dropped: Sequence[tuple[Decided, ExperimentRecord]]) -> list[str]:
    """What was dropped and why, the latest first."""
    latest = sorted(dropped, key=lambda pair: pair[0].time, reverse=True)[:MOST_IDEAS]
    named = [f"[{record.experiment.id}] {_title(record)}: {why_dropped(last.verdict.reason)}" for last, record in latest]
    return _listed(label, _with_more(named, len(dropped)))


def why_dropped(reason: str) -> str:
    """The part of a verdict's reason that says why an idea was dropped."""
    return reason.removeprefix("dropped: ").partition(";")[0].removesuffix(" decides")


def _beside_ideas(group: GroupHistory) -> list[str]:
    """What was run beside ideas and baselines, in a line; none if there was nothing."""
    parts = beside_ideas(group.outlines)
    parts.pop("baseline", None)
    discarded = _with(group.chosen(lambda one: one.experiment.kind == "merge"), "discard")
    postponed = sum(map(is_postponed, discarded))
    ends = {"taken apart": len(discarded) - postponed, "not confirmed, since disturbed": postponed}
    if discarded:
        parts["merge"] += f" ({', '.join(f'{number} {end}' for end, number in ends.items() if number)})"
    return [f"Other runs: {', '.join(parts.values())}"] if parts else []


def doubts(group: GroupHistory) -> list[str]:
    """What speaks for or against the scores of a group, a sentence each: controls, shares of the machine, seeds."""
    seeds = [words for branch in group.branches for words in _too_equal(_of_branch(group, branch.name))]
    return [*_controls(group), *_unequal_shares(group), *seeds]


def _of_branch(group: GroupHistory, name: str) -> list[Outline]:
    return [outline for outline in group.outlines if outline.experiment.branch == name]


def _controls(group: GroupHistory) -> list[str]:
    """How far controls are from what all runs expected of them, with a warning if some are further away than chance has it."""
    return controls_in_words(group.chosen(lambda one: one.experiment.kind == "control"))


def _unequal_shares(group: GroupHistory) -> list[str]:
    """A sentence on runs which had more or less of the machine than others; none if all had equal shares."""
    unequal = group.unequal_shares
    if not unequal:
        return []
    share = f"{len(unequal)} of {counted(group.scored_runs, 'run')}"
    named = "; ".join(f"{found.run.run_id} ({found.words})" for found in unequal[:MOST_RUNS])
    more = f"; and {len(unequal) - MOST_RUNS} more" if len(unequal) > MOST_RUNS else ""
    return [f"Unequal shares of the machine in {share}, so that scores compare badly: {named}{more}"]


def _too_equal(records: Sequence[Outline]) -> list[str]:
    """Doubts about the scores of a branch: seeds make no difference."""
    runs_of: dict[str, tuple[RunOutline, ...]] = {}
    for record in records:
        commit = record.experiment.commit
        runs_of[commit] = runs_of[commit] + record.runs if commit in runs_of else record.runs
    remarks = [remark for runs in runs_of.values() if len(runs) > 1 and (remark := too_equal(runs))]
    return [remark[0].upper() + remark[1:] for remark in remarks]


def _counts_line(records: Sequence[Outline]) -> str:
    """How the branch's ideas ended. Baselines and controls are not ideas."""
    counts = count(records)
    apart = f", {counts.abandoned} abandoned" if counts.abandoned else ""
    return (
        f"{counts.experiments}: {counts.keeps}, {counts.discarded} discarded, {counts.crashed} crashed, "
        f"{counts.invalid} invalid; {counts.lost} lost by machines and not counted{apart}"
    )


def _code_line(group: GroupHistory) -> str:
    """The command that shows the difference between baseline and head, if there is one."""
    head, baseline = group.head, group.baseline
    if head is None or baseline is None or group.is_at_baseline:
        return "Code: no difference yet, nothing but the baseline is kept"
    return f"Code: git diff {baseline.experiment.commit[:7]} {head.commit[:7]} -- research/train.py"


def _cost_line(history: BranchHistory) -> str:
    """Device hours, and what the researcher cost over all proposals and over those that came to nothing."""
    seconds = device_seconds(history.outlines)
    tried, spent = sum(outline.cost_usd or 0.0 for outline in history.outlines), total(history.costs)
    device = f"Cost: {seconds / 3600:.1f} device hours" if seconds >= 3600 else f"Cost: {seconds / 60:.1f} device minutes"
    if not spent.answers and not spent.tokens and spent.cost_usd is None:
        return f"{device}; the researcher was free"
    sure = "at least " if spent.cost_basis == "missing" else "about " if spent.estimated else ""
    money = "cost unknown" if spent.cost_usd is None else f"{sure}${spent.cost_usd:.2f}"
    wasted = (spent.cost_usd or 0.0) - tried
    failed = f" (${wasted:.2f} of it for proposals that were not tried)" if wasted >= 0.005 else ""
    return f"{device}; researcher: {money}, {spent.tokens:,} tokens{failed}"


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


def _title(record: AnyRecord) -> str:
    return one_line(record.experiment.title, TITLE_WIDTH)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
