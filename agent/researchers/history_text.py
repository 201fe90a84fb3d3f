"""The branch and its history as text for researchers. Titles and reasons come from other programs: they are data."""

from collections.abc import Sequence

from agent.researcher import Context
from research.contract import Contract
from research.formatting import counted, one_line
from results.experiment import ExperimentRecord

RECENT = 30
"""Number of latest experiments that the table always includes."""
REFUSED = 5
"""Number of latest refusals that are shown."""
BEST = 10
"""Number of near-misses in the table."""


def situation(context: Context) -> str:
    """The branch in a few lines: the contract, the head, the noise, what is training now, and what was refused."""
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
        _counts(context.records),
    ]
    training = [record.experiment for record in context.records if record.verdict is None]
    lines += [f"Training now: #{experiment.number} {one_line(experiment.title, 120)}" for experiment in training]
    latest = context.refused[-REFUSED:]
    lines += [f"Refused without a run: {one_line(refusal.title, 120)}: {one_line(refusal.reason, 300)}" for refusal in latest]
    return "\n".join(lines)


def history_table(context: Context) -> str:
    """The history of all loops as a table, oldest first: all keeps, the latest experiments, and the best near-misses."""
    records = sorted((*context.records, *context.others), key=lambda record: record.experiment.created)
    finished = [record for record in records if record.verdict is not None]
    if not finished:
        return "No experiment has finished yet."
    chosen = {record.experiment.id for record in finished[-RECENT:]}
    chosen |= {record.experiment.id for record in finished if record.verdict and record.verdict.decision == "keep"}
    near = [record.experiment.id for record in context.near_misses[:BEST]]
    chosen |= set(near)
    rows = [_row(record) for record in finished if record.experiment.id in chosen]
    left_out = len(finished) - len(rows)
    note = [f"({counted(left_out, 'older experiment')} not shown.)"] if left_out else []
    if near:
        note.append(f"Near-misses, likely to help if combined, the likeliest first: {', '.join(near)}.")
    return "\n".join(["id | verdict | val_bpb | gain | title | reason", *rows, *note])


def _counts(records: Sequence[ExperimentRecord]) -> str:
    outcomes = [record.outcome for record in records if record.verdict is not None]
    counts = ", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in dict.fromkeys(outcomes))
    return f"Experiments so far: {len(outcomes)}{f' ({counts})' if counts else ''}."


def _row(record: ExperimentRecord) -> str:
    verdict = record.verdict
    assert verdict is not None
    score = "-" if record.val_bpb is None else f"{record.val_bpb:.6f}"
    gain = "-" if verdict.gain is None else f"{verdict.gain:+.6f}"
    title, reason = (one_line(text, 160).replace("|", "/") for text in (record.experiment.title, verdict.reason))
    return f"{record.experiment.id} | {record.outcome} | {score} | {gain} | {title} | {reason}"


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
            "change the structure of train.py (the architecture, the optimizer, the schedule, the data order), not a "
            "constant alone."
        )
    return "".join(f"{part}\n\n" for part in parts)
