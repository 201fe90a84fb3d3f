"""What each column of the tables and views holds, for columns on which no earlier migration has commented."""

from collections.abc import Mapping

import duckdb

COMMON: Mapping[str, str] = {
    "seq": "Place of the record in the journal, from 1.",
    "id": "Id of the experiment.",
    "experiment_id": "Id of the experiment.",
    "run_id": "Id of the run.",
    "branch": "The git branch of the loop.",
    "head_branch": "The branch of the head that a group of branches shares.",
    "tag": "The tag of its branch, which farm run takes as --tag.",
    "number": "Number of the experiment on its branch; 0 is the baseline.",
    "commit": "The git commit whose research/train.py was run.",
    "title": "The idea in one line; written by a researcher.",
    "hypothesis": "Why the idea should lower val_bpb; written by a researcher.",
    "researcher": "Who proposed it; `you` for an edit made by hand.",
    "decision": "keep, discard, crash, invalid or lost.",
    "reason": "Why, in one line.",
    "val_bpb": "Validation bits per byte, mean over its ok runs; lower is better. NULL if not measured.",
    "runs": "Number of runs, lost ones not counted.",
    "effect": "The estimated effect of the idea in bpb, shrunk for having been selected; positive is better.",
    "low": "The lower end of the effect's 90% interval, in bpb.",
    "high": "The upper end of the effect's 90% interval, in bpb.",
    "helps": "The probability that the effect is above the idea's price.",
    "price": "The gain in bpb that the idea's lines, memory and time must pay for.",
    "gain": "Raw: the val_bpb that was expected of the head under the same seed, minus its own; positive is better.",
    "needed": "About the raw gain that one run had to show to be kept, its price included.",
    "sigma": "Standard deviation of val_bpb between seeds of one commit, as estimated at the time.",
    "platform": "The hardware on which scores compare, in one line.",
    "profile": "The name of the constants of a run, of which farm profile tells.",
    "score_fingerprint": "A hash of all that a score depends on: scores with another one don't compare.",
    "created": "When it was recorded, UTC.",
    "record": "The whole record as JSON text, for what has no column: record ->> '$.name'.",
    "device": "The device that it ran on.",
    "training_seconds": "Seconds from getting the data to handing over (submitting) the model, on the judge's clock.",
    "startup_seconds": "Seconds before the clock started: imports, the sandbox, compiling.",
    "scoring_seconds": "Seconds from the hand-over of the model to its score.",
    "total_seconds": "Seconds from start to score.",
    "peak_memory_mb": "Peak memory in MiB, measured from outside.",
    "num_params": "Parameters, counted by the judge in the submitted tensors.",
    "reported_steps": "Training steps, as the run itself says.",
    "reported_tokens": "Tokens trained on, as the run itself says.",
    "reported_mfu_percent": "Model FLOPs utilization in percent, as the run itself says.",
    "reported_depth": "Layers of the model, as the run itself says.",
    "reported_peak_memory_mb": "Peak memory in MiB, as the run itself says.",
    "reported_recompiles": "Graphs that were compiled while the clock ran, as the run itself says.",
    "reported_kernel": "The attention kernel, as the run itself says.",
    "lines_added": "Lines of code that it adds, comments not counted, long lines more than once.",
    "lines_removed": "Lines of code that it removes, counted in the same way.",
    "model": "The model that a researcher asked; NULL if none.",
    "cost_usd": "Cost of the proposal in US dollars; NULL if unknown.",
    "tokens": "Tokens of the proposal: read, written and cached.",
}
"""Column -> what it holds, wherever a table or view has a column of that name, and OF_TABLE has nothing else to say."""

_VERDICTS: Mapping[str, str] = {"id": "Id of the verdict: the experiment's and a number."}

OF_TABLE: Mapping[str, Mapping[str, str]] = {
    "branches": {
        "id": "The git branch: autoresearch/<tag>, or autoresearch/<tag>-gpu0 for one of several loops.",
        "tag": "What farm run takes as --tag; all loops of a farm share it.",
        "loop": "Number of the loop, from 0.",
        "data_fingerprint": "A hash of the training data.",
        "baseline_commit": "The branch's first commit, whose train.py has the starting hyperparameters.",
    },
    "changes": {
        "name": "The constant of train.py.",
        "old": "Its value before; NULL if there was no such constant.",
        "new": "Its value after; NULL if it was removed.",
    },
    "costs": {
        "tokens": "All tokens of the answer: read, written and cached.",
        "input_tokens": "Tokens that the model read and that no cache had.",
        "output_tokens": "Tokens that the model wrote.",
        "cache_read_tokens": "Tokens that the model read from the provider's cache.",
        "cache_write_tokens": "Tokens that the provider's cache took in.",
    },
    "decisions": {"before": "The decision before this one; NULL if it is the first."},
    "estimates": {
        "id": "Id of the experiment that first tried the idea.",
        "in_head": "Whether the idea is in the head now.",
        "is_near_miss": "Whether it may help and is not in the head.",
    },
    "events": {
        "id": "Id of the event.",
        "kind": "What happened, such as head, work, worker, answer or foreign.",
        "record": "The details as JSON text: record ->> '$.name'.",
    },
    "experiments": {
        "id": "Id of the experiment; ids sort by time.",
        "kind": "baseline, explore, manual, merge, wave, control or confirm; history.kind says what they are.",
        "parent_commit": "The head that it was tried on.",
        "parents": "Ids of the experiments that it builds on or combines; empty for an edit of the head.",
        "changes": "Constants of train.py that it changes, as JSON: name -> [old, new]; the view changes has a row for each.",
        "diff": "Unified diff of train.py against the head.",
        "proposal_seconds": "Seconds that its researcher took.",
        "created": "Time of the commit, UTC.",
    },
    "foreign_results": {
        "commit": "The commit that the file names, in its own repository.",
        "val_bpb": "The score by the file; it doesn't compare with ours.",
        "memory_gb": "Peak memory in GiB by the file.",
        "low": "The lower end of the 90% interval of estimated_gain.",
        "high": "The upper end of the 90% interval of estimated_gain.",
    },
    "heads": {
        "experiment_id": "Id of the experiment that made the head.",
        "commit": "The git commit of the head.",
        "patches": "The ideas in it, by the ids of the experiments that first tried them.",
        "reason": "Why the head changed, in one line.",
    },
    "history": {
        "reason": "Why it was decided so, in one line.",
        **{
            name: f"{COMMON[name].removesuffix('.')}; mean over its runs."
            for name in ("startup_seconds", "scoring_seconds", "reported_steps", "reported_tokens", "reported_mfu_percent")
        },
        **{
            name: f"{COMMON[name].removesuffix('.')}; the largest of its runs."
            for name in ("reported_depth", "reported_peak_memory_mb", "reported_recompiles")
        },
    },
    "latest_verdicts": _VERDICTS,
    "leaderboard": {"rank": "Place by val_bpb among the kept experiments of one platform and score_fingerprint."},
    "lost": {"reason": "Why the run was lost, in one line."},
    "runs": {
        "id": "Id of the run.",
        "status": "ok, crash, oom, diverged, timeout, invalid or lost.",
        "reason": "Why it ended that way, in one line; empty for a run with a score.",
        "seed": "The seed of the run.",
        "val_bpb": "Validation bits per byte, as the judge scored it; lower is better. NULL without a score.",
        "consistency_mean": "Mean difference in cross-entropy of the second process on shared prefixes, nats per token. Far "
        "from 0: the model looks ahead or remembers rows.",
        "consistency_max": "Largest such difference of a token, nats.",
        "log_tail": "The last lines of the trainer's log; written by the run.",
    },
    "verdicts": _VERDICTS,
    "work": {
        "run": "Id of the run.",
        "state": "waiting, running, done, lost or cancelled.",
        "kind": "The kind of run that the queue orders by.",
        "experiment": "Id of the experiment.",
        "repeats": "How often it was enqueued again because a run of it was lost.",
        "worker": "The device that had it last.",
        "reason": "Why it is in its present state; NULL if there is nothing to say.",
        "queued": "When it was enqueued, UTC.",
        "began": "When it first started, UTC.",
        "ended": "When it ended, UTC; NULL while it waits or runs.",
    },
    "workers": {
        "worker": "The device, with its node's name on a cluster.",
        "state": "joined, left, refused or quarantined.",
        "reason": "Why it gets no more work; NULL if it does.",
        "first_seen": "When it joined first, UTC.",
        "changed": "When its state changed last, UTC.",
    },
}
"""Table or view -> column -> what it holds there."""

AUDIT_COMMENT = "Scores on rows that no researcher sees, one row per run: for people only, in farm sql with --audit."

AUDIT_COLUMNS: Mapping[str, str] = {
    "experiment_id": COMMON["experiment_id"],
    "run_id": COMMON["run_id"],
    "audit_bpb": "Bits per byte on the audit rows; lower is better.",
    "audit_rows": "Number of audit rows that were scored.",
}

UNCOMMENTED = """
SELECT c.table_name, c.column_name FROM duckdb_columns() c
WHERE NOT c.internal AND c.comment IS NULL AND c.table_name <> 'schema_version' ORDER BY c.table_name, c.column_index
"""


def m017_comments(connection: duckdb.DuckDBPyConnection) -> None:
    """A comment on every column that has none yet."""
    statements = [
        f"COMMENT ON COLUMN {table}.{column} IS '{comment_on(table, column).replace(chr(39), chr(39) * 2)}'"
        for table, column in connection.execute(UNCOMMENTED).fetchall()
    ]
    connection.execute(";".join(statements))


def comment_on(table: str, column: str) -> str:
    """What a column of a table or view holds."""
    return OF_TABLE.get(table, {}).get(column) or COMMON[column]
