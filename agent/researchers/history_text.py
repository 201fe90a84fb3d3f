"""The branch and its history as text for researchers, of bounded length however long the history is.

Titles, reasons, notes and logs come from other programs: they stand only inside marked data.
"""

import re
from collections.abc import Callable, Sequence
from itertools import islice

from agent.crash_patterns import in_words
from agent.researcher import Context
from research.contract import Contract
from research.formatting import counted, one_line
from results.experiment import ExperimentRecord

RECENT = 24
"""Number of latest experiments that the table always includes."""
REFUSED = 5
"""Number of latest refusals that are shown."""
BEST = 8
"""Number of near-misses in the table."""
FAILURES = 6
"""Number of latest failures in the table: they say what can't work."""
KEEPS = 8
"""Number of latest keeps in the table, beside the ideas in the head."""
TRAINING = 8
"""Number of experiments under way that are shown, of all loops."""
PATTERNS = 4
"""Number of repeated crashes that are shown."""
LOOKED_AT = 200
"""Number of latest experiments, of this loop and of the others, among which those of the table are looked for."""

COLUMNS = "id | verdict | val_bpb | gain | title | reason"

_MARK = re.compile(r"<(\s*/?\s*data\b)", re.I)


def as_data(name: str, text: str) -> str:
    """Text of other programs between marks, which nothing in it can end."""
    harmless = _MARK.sub(r"&lt;\1", text)
    return f'<data name="{name}">\n{harmless}\n</data>'


def situation(context: Context) -> str:
    """The branch in a few lines: the contract, the head and the noise."""
    contract = Contract.from_json(context.branch.contract_json)
    head = context.head
    runs = counted(len(head.scores), "run")
    memory = "not measured" if head.peak_memory_mb is None else f"{head.peak_memory_mb:,.0f} MiB"
    lines = [
        f"Branch {context.branch.name}, profile {contract.profile}, on {context.branch.platform}.",
        f"Fixed: MAX_SEQ_LEN {contract.MAX_SEQ_LEN}, VOCAB_SIZE {contract.VOCAB_SIZE}, "
        f"TIME_BUDGET {contract.TIME_BUDGET:g} s, data {contract.source}.",
        f"Head: val_bpb {head.mean:.6f} (mean of {runs}), {head.expected:.6f} expected of it; peak memory {memory}.",
        f"Noise: val_bpb of the same code with different seeds has a standard deviation (sigma) of {context.sigma:g}.",
        _counts(context.records, len(context.others)),
    ]
    return "\n".join(lines)


def history_table(context: Context) -> str:
    """What has been tried and is being tried, by all loops: the ideas in the head, the latest keeps, near-misses and failures,
    the latest experiments, what is training, what was refused and what crashes repeatedly.
    """
    latest = _latest(context)
    finished = [record for record in latest if record.verdict is not None]
    shown = {record.experiment.id: record for record in (*context.lineage, *context.near_misses[:BEST], *finished[:RECENT])}
    for group in (_first(finished, _is_keep, KEEPS), _first(finished, _has_failed, FAILURES)):
        shown |= {record.experiment.id: record for record in group}
    rows = sorted(
        (record for record in shown.values() if record.verdict),
        key=lambda record: (record.experiment.created, record.experiment.id),
    )
    left_out = sum(record.verdict is not None for record in latest) - len(rows)
    lines = (
        ["id | verdict | val_bpb | gain | title | reason", *map(_row, rows)] if rows else ["No experiment has finished yet."]
    )
    if left_out > 0 or len(latest) < len(context.records) + len(context.others):
        lines.append("(Older experiments are not shown: query_history has them.)")
    if context.lineage:
        lines.append(f"In the head: {', '.join(record.experiment.id for record in context.lineage)}.")
    if near := [record.experiment.id for record in context.near_misses[:BEST]]:
        lines.append(f"Near-misses, likely to help if combined, the likeliest first: {', '.join(near)}.")
    training = [record.experiment for record in latest if record.verdict is None][:TRAINING]
    lines += [f"Training now: {_name(one.number, one.id, context)} {one_line(one.title, 120)}" for one in training]
    refused = context.refused[-REFUSED:]
    lines += [f"Refused without a run: {one_line(refusal.title, 120)}: {one_line(refusal.reason, 300)}" for refusal in refused]
    return "\n".join([*lines, *(f"Crashes: {one_line(in_words(pattern), 300)}" for pattern in context.crashes[:PATTERNS])])


def notes_text(context: Context) -> str:
    """The lessons and leads that researchers of all loops have noted, one a line; empty if there is none."""
    return "\n".join(f"{note.kind} {note.number}: {one_line(note.text)}" for note in context.notes)


def guidance_text(context: Context) -> str:
    """What a researcher's prompt says of its next idea: a person's suggestion, and that small changes bring nothing more.

    It is empty where there is neither; else it ends with an empty line.
    """
    parts, guidance = [], context.guidance
    if guidance.suggestion is not None:
        parts.append(
            f"A person suggests (suggestion {guidance.suggestion.number}): {guidance.suggestion.text}\n"
            "Your next idea should try this suggestion, unless the history shows that it has been tried."
        )
    if guidance.ideas_without_keep:
        parts.append(
            f"The last {guidance.ideas_without_keep} ideas of all loops brought no keep: a plateau. Your next idea should "
            f"{STRUCTURE}"
        )
    elif guidance.wants_structure:
        parts.append(f"Others tune the constants. Your next idea should {STRUCTURE}")
    return "".join(f"{part}\n\n" for part in parts)


STRUCTURE = (
    "change the structure of train.py (the architecture, the optimizer, the schedule, the data order), not a constant alone."
)
"""What an idea changes that no tuning of constants finds."""


def _latest(context: Context) -> list[ExperimentRecord]:
    """The latest experiments of this loop and of the others, the newest first."""
    both = [record for records in (context.records, context.others) for record in islice(reversed(records), LOOKED_AT)]
    return sorted(both, key=lambda record: record.experiment.created, reverse=True)


def _first(
    records: Sequence[ExperimentRecord], is_one: Callable[[ExperimentRecord], bool], most: int
) -> list[ExperimentRecord]:
    return list(islice(filter(is_one, records), most))


def _is_keep(record: ExperimentRecord) -> bool:
    return record.verdict is not None and record.verdict.decision == "keep"


def _has_failed(record: ExperimentRecord) -> bool:
    return record.verdict is not None and record.verdict.decision in ("crash", "invalid")


def _name(number: int, id: str, context: Context) -> str:
    own = any(record.experiment.id == id for record in islice(reversed(context.records), TRAINING))
    return f"#{number}" if own else id


def _counts(records: Sequence[ExperimentRecord], others: int) -> str:
    latest = list(islice(reversed(records), LOOKED_AT))[::-1]
    outcomes = [record.outcome for record in latest if record.verdict is not None]
    counts = ", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in dict.fromkeys(outcomes))
    number = f"{len(outcomes)}" if len(latest) == len(records) else f"{len(records)}, of the latest {len(outcomes)}"
    beside = f" Those of other loops: {others}." if others else ""
    return f"Experiments so far: {number}{f' ({counts})' if counts else ''}.{beside}"


def _row(record: ExperimentRecord) -> str:
    verdict = record.verdict
    assert verdict is not None
    score = "-" if record.val_bpb is None else f"{record.val_bpb:.6f}"
    gain = "-" if verdict.gain is None else f"{verdict.gain:+.6f}"
    title, reason = (one_line(text, 140).replace("|", "/") for text in (record.experiment.title, verdict.reason))
    return f"{record.experiment.id} | {record.outcome} | {score} | {gain} | {title} | {reason}"
