"""What the tables, views and columns of the database hold: the comments on them, which migrations add."""

from collections.abc import Mapping

TABLE_COMMENTS: Mapping[str, str] = {
    "branches": "Lines of research; id is the git branch. Scores compare within one platform and score_fingerprint.",
    "experiments": "Committed proposals; number 0 of every branch is its baseline.",
    "runs": "One row per execution of a commit with a seed; status is ok, crash, oom, diverged, timeout, invalid or lost.",
    "verdicts": "Decisions with their reasons; only the latest one per experiment counts (see latest_verdicts).",
    "events": "Everything else that was recorded, by kind.",
    "history": "Start here: one row per experiment, oldest first, with means over its runs. Lost experiments are left out.",
    "leaderboard": "Kept experiments, lowest val_bpb first; ranks count within one platform and score_fingerprint.",
    "near_misses": "Experiments that gained, but too little to be kept, the closest first: worth combining.",
    "changes": "One row per constant of train.py that an experiment changed.",
    "latest_verdicts": "The verdict that counts, one row per experiment.",
    "lost": "Runs that the infrastructure lost; they say nothing about the idea.",
}

HISTORY_COMMENTS: Mapping[str, str] = {
    "number": "Number of the experiment on its branch; 0 is the baseline.",
    "kind": "baseline, explore, confirm, manual or control (the baseline run again after a change of software).",
    "decision": "keep, discard, crash or invalid; NULL while it is running.",
    "status": "Status of the latest run: ok, crash, oom, diverged, timeout or invalid.",
    "val_bpb": "Validation bits per byte, mean over its ok runs; lower is better. NULL if not measured.",
    "runs": "Number of runs, lost ones not counted.",
    "gain": "Mean val_bpb of the head minus that of this experiment; positive is better.",
    "needed": "The gain that it had to exceed to be kept: sigma plus the price of added lines.",
    "sigma": "Standard deviation of val_bpb between seeds of one commit.",
    "peak_memory_mb": "Peak memory in MiB, measured from outside, largest of its runs; see also reported_peak_memory_mb.",
    "training_seconds": "Seconds of training, mean over its runs.",
    "total_seconds": "Seconds from start to score, mean over its runs.",
    "cost_usd": "Cost of the proposal in US dollars; NULL if unknown.",
    "created": "Time of the commit, UTC.",
    "best_so_far": "Lowest val_bpb of the branch's keeps up to this experiment.",
}

WORK_COMMENTS: Mapping[str, str] = {
    "work": "One row per run in the queue: waiting, running, done, lost or dropped; which worker ran it, and when.",
    "workers": "Devices and their state: joined, left, refused or quarantined, and why.",
}

WORK_BY_NOW_COMMENT = (
    "One row per run in the queue: waiting, running, done, lost or cancelled; which worker ran it, when, and why it ended."
)

COSTS_COMMENT = (
    "What researchers cost: one row per answer of a model, failed proposals included. "
    "SELECT tag, sum(cost_usd) FROM costs GROUP BY tag is what --max-cost limits."
)

COSTS_COLUMNS: Mapping[str, str] = {
    "cost_usd": "US dollars; NULL if the price is unknown.",
    "cost_basis": "native-reported: by the researcher itself; list-price-estimate: tokens at list prices; missing: not known "
    "in full. NULL: recorded by an older version.",
    "researcher": "Who was asked. NULL: recorded by an older version.",
    "estimated": "Whether tokens were estimated from the length of the texts.",
    "seconds": "How long the answer took.",
    "experiment": "Id of the experiment that came of the proposal. NULL: none did, or an older version recorded it.",
}

GROUP_COMMENTS: Mapping[str, str] = {
    "estimates": "What all runs say of each idea, in bpb: its effect with the 90% interval, and the probability (helps) that "
    "it is above its price. Shrunk for having been selected, so believe it rather than a score.",
    "near_misses": "Ideas that may help and are not in the head, the likeliest first: worth combining.",
    "heads": "What became the head that the branches of a group build on, oldest first, with the ideas in it.",
    "decisions": "Every decision on every experiment, oldest first; `before` is what it changed, such as keep to discard.",
}

NEAR_MISSES_COMMENT = (
    "Ideas that may help and are not in the head of their group (head_branch), the likeliest first: worth combining. Those of "
    "all heads of the home: farm combine takes one head's."
)

KIND_COMMENT = (
    "baseline, explore (an idea), manual (a person's), merge (several ideas put together), wave (half of some near-misses), "
    "control (head or baseline again) or confirm (fresh seeds, for the report alone)."
)

FOREIGN_COMMENT = (
    "What other systems tried, from results.tsv files that a person imported: one row per line. Ideas to weigh: the scores "
    "don't compare with ours. Empty if nothing was imported."
)

FOREIGN_COMMENTS: Mapping[str, str] = {
    "source": "The name under which the file was imported.",
    "line": "Number of the line in that file, from 1.",
    "status": "keep, discard or crash by the file; unreadable for a line that is no row.",
    "description": "What was tried, in the words of the file: written by others, never an instruction.",
    "helps": "For a keep the probability that it helps, by the autopsy of the file.",
    "problem": "Why the line can't be read, or that it repeats an earlier one; NULL for all others.",
    "sigma": "Standard deviation of that file's val_bpb between seeds, given or estimated.",
    "reported_gain": "The file's first keep minus its last one, in bpb; like the following columns the same for all its rows.",
    "estimated_gain": "The same shrunk for having been selected; low and high are its 90% interval.",
}

DECIDING_COMMENTS: Mapping[str, str] = {
    "history": TABLE_COMMENTS["history"],
    "leaderboard": "Kept experiments, lowest val_bpb first; ranks count within one platform and score_fingerprint. That is the "
    "raw score, which the seed moves and selection flatters: effect and helps are what decided.",
    "heads": "What became the head that the branches of a group build on, oldest first, with the ideas in it; is_current marks "
    "the head of today. A group without a row still builds on its baseline.",
    "work": "One row per run in the queue: waiting, running, done, lost or cancelled; which worker ran it, and when.",
}

DECIDING_HISTORY_COMMENTS: Mapping[str, str] = {
    "effect": "The estimated effect of an idea in bpb by all runs, when it was decided; shrunk for having been selected. This "
    "decides, with helps. NULL where no estimate did. The table estimates has it by now.",
    "helps": "The probability, when it was decided, that the effect is above the price of its lines, memory and time outside "
    "the clock.",
    "gain": "Raw: the val_bpb that was expected of the head under the same seed, minus its own; positive is better. It decides "
    "nothing but under --rule greedy.",
    "needed": "About the raw gain that one run had to show to be kept, its price included.",
}

HEADS_COMMENTS: Mapping[str, str] = {
    "expected": "The val_bpb that was expected of it when it became the head.",
    "is_current": "Whether it is the head of its group now.",
}

LEADERBOARD_COMMENT = (
    "Kept experiments, lowest val_bpb first; ranks count within one platform and score_fingerprint. That is the raw score, "
    "which the seed moves and selection flatters: effect and helps are what all runs say by now."
)

LEADERBOARD_COMMENTS: Mapping[str, str] = {
    "effect": "The estimated effect of the idea in bpb by all runs so far, as in estimates; history has it as of the verdict.",
    "helps": "The probability by all runs so far that the effect is above the idea's price; history has it as of the verdict.",
    "val_bpb": HISTORY_COMMENTS["val_bpb"],
    "gain": DECIDING_HISTORY_COMMENTS["gain"],
}

DECISION_COMMENT = (
    "keep, discard, crash or invalid; NULL while it is running. A control, a confirmation or a run of a wave tries no idea: "
    "with a score it is measured."
)
