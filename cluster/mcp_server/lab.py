"""The farm as an outside agent sees it: the contract, the head, the history without audit scores, and its own submissions."""

import json
import re
from dataclasses import dataclass
from typing import Any

from agent.compare_programs import same_code
from agent.diff import apply_diff, hunks
from agent.duplicate_edits import NO_CHANGE
from agent.loop_context import read_policy
from agent.researcher import ProposalFailed
from agent.submissions import Submission, submit
from cluster.commands.read_home import query_history, read_history
from cluster.commands.use import recorded_contract, recorded_train_py
from cluster.home import Home, home_option
from cluster.local_api import FarmClient, Submitted, ask_farm, connect
from cluster.resuming import resuming_with
from cluster.status_text import doing
from research.errors import FarmEnded, UserError
from research.formatting import one_line
from research.valid_train_py import MAX_BYTES
from results.experiment import Branch, Head
from results.group_entries import SUBMISSION, SUBMISSION_ENDED
from results.history import BranchHistory, branch_named
from results.journal_damage import check_whole
from results.query import Table
from results.run_logs import log_tail

RULES = f"""\
An edit of research/train.py alone: its hyperparameters, model, optimizer and loop.
It defines build_model() and train(session), takes its batches from session, and ends with session.finish(model).
It trains for a fixed time, and the judge scores it: a score that it prints counts for nothing.
At most {MAX_BYTES:,} bytes of UTF-8; no text that is executed, no data carried in it, no seed of its own.
An edit that changes no code, or is a program that has been tried, is refused.
program.md (the tool read_program) says what is worth trying."""

_ID = re.compile(r"[\w./-]{1,100}")
_RUN = re.compile(r"\w[\w.-]{0,100}")

_SUBMITTED = f"""
    SELECT kind, record ->> '$.branch' AS branch, record ->> '$.title' AS title, record ->> '$.experiment' AS experiment,
           record ->> '$.reason' AS reason
    FROM events WHERE kind IN ('{SUBMISSION}', '{SUBMISSION_ENDED}') AND record ->> '$.id' = '{{id}}' ORDER BY seq
"""
_DECIDED = """
    SELECT e.id AS experiment, e.branch, e.commit, v.decision, v.reason,
           (SELECT avg(val_bpb) FROM runs WHERE experiment_id = e.id AND status = 'ok') AS val_bpb,
           v.gain, CAST(v.record ->> '$.effect' AS DOUBLE) AS effect, CAST(v.record ->> '$.helps' AS DOUBLE) AS helps,
           (SELECT list(id ORDER BY seq) FROM runs WHERE experiment_id = e.id) AS runs
    FROM experiments e LEFT JOIN latest_verdicts v ON v.experiment_id = e.id WHERE e.id = '{id}'
"""


@dataclass(frozen=True, kw_only=True)
class Lab:
    """A home, and the group of branches that an agent works on. Every method raises UserError for what the agent can mend."""

    home: Home
    name: str | None = None
    """The branch or tag; None: what the running farm works on, else the best of the newest tag."""

    def contract(self) -> dict[str, Any]:
        """What runs are bound to: the contract with its budget, the platform, and the rules of train.py."""
        branch = self._history().branch
        contract = recorded_contract(branch)
        return {
            "group": branch.head_branch,
            "platform": branch.platform,
            "profile": branch.profile,
            "budget_seconds": contract.TIME_BUDGET,
            "contract": json.loads(branch.contract_json),
            "score": "val_bpb, bits per byte of text that no run is trained on: lower is better",
            "rules": RULES,
        }

    def program(self) -> str:
        """The text of program.md, the research policy; empty if there is none."""
        try:
            return next((text for folder in self.home.repositories() if (text := read_policy(folder / "program.md"))), "")
        except ProposalFailed as failure:
            raise UserError(str(failure)) from None

    def head(self) -> dict[str, Any]:
        """The train.py that new ideas edit, the ideas in it, and the score that all runs together say it has."""
        group = self._history().group
        head = self._head_of(group.head, group.name)
        titles = {record.experiment.id: record.experiment.title for record in group.records}
        return {
            "group": group.name,
            "commit": head.commit,
            "experiment": head.experiment_id,
            "lineage": [{"id": idea, "title": titles.get(idea, "")} for idea in head.patches],
            "expected_val_bpb": group.gain.head if group.gain else None,
            "standing": group.standing,
            "train_py": recorded_train_py(self.home, head.commit),
        }

    def history(self, sql: str) -> dict[str, Any]:
        """The answer to one SELECT over the history, which holds no audit scores."""
        return _plain(self._table(sql))

    def near_misses(self) -> dict[str, Any]:
        """The ideas that may help and are not in the head, the likeliest first."""
        names = ", ".join("'" + branch.name.replace("'", "''") + "'" for branch in self._history().group.branches)
        return _plain(self._table(f"SELECT * FROM near_misses WHERE branch IN ({names})"))

    def submit(self, *, title: str, hypothesis: str, train_py: str, patch: str, base: str) -> dict[str, Any]:
        """Submits an edit of the head, a whole text or a unified diff. `base` is the head's commit that it was made of."""
        if bool(train_py) == bool(patch):
            raise UserError("Give either train_py, the whole text, or patch, a unified diff of the head's train.py.")
        history = self._history()
        commit = base or self._head_of(history.group.head, history.group.name).commit
        known = {record.experiment.commit for record in history.group.records}
        if commit not in known:
            raise UserError("base must be the commit of a head, as read_head gives it.")
        before = recorded_train_py(self.home, commit)
        text = train_py.replace("\r\n", "\n") if train_py else _patched(before, patch)
        if same_code(before, text):
            raise UserError(NO_CHANGE)
        submission = Submission(group=history.group.name, title=title, hypothesis=hypothesis, train_py=text, base=commit)
        submitted = self._submit(submission)
        taken_up = "A loop takes it up before its researcher's next idea."
        return {"id": submitted.id, "next": taken_up if submitted.is_taken_up else self._how_to_start(history.branch)}

    def state_of(self, id: str) -> dict[str, Any]:
        """What has become of a submission by now; its field `decided` says whether that is final."""
        found = _plain(self._table(_SUBMITTED.format(id=id)))["rows"] if _ID.fullmatch(id) else []
        if not found:
            raise UserError(f"There is no submission {one_line(id, 100)!r} in this home.")
        submitted, ended = found[0], found[1] if len(found) > 1 else None
        state = {"id": id, "title": submitted["title"]}
        if ended is not None and ended["experiment"] is None:
            return {**state, "decided": True, "state": "refused", "reason": ended["reason"]}
        if ended is None:
            return {**state, "branch": submitted["branch"], "decided": False, "state": "waiting"}
        rows = _plain(self._table(_DECIDED.format(id=ended["experiment"])))["rows"]
        known = rows[0] if rows else {"experiment": ended["experiment"], "branch": submitted["branch"], "decision": None}
        if known["decision"] is None:
            return {**state, **known, "decided": False, "state": "running"}
        return {**state, **known, "decided": True, "state": "decided"}

    def log_tail(self, run: str) -> str:
        """The end of a run's log."""
        text = log_tail(self.home.runs / run) if _RUN.fullmatch(run) else None
        if text is None:
            raise UserError(f"There is no log of a run {one_line(run, 100)!r}.")
        return text

    def is_served(self) -> bool:
        """Whether a farm runs on the home, so that what is asked again may have changed."""
        return connect(self.home) is not None

    def now(self, branch: str) -> str:
        """What the loop of a branch does now, or those of the group of this name, in words."""
        client = connect(self.home)
        members = [one.branch for one in read_history(self.home) if branch in (one.branch.name, one.branch.head_branch)]
        loops = client.status()["loops"] if client else {}
        known = {one.name: loops[one.name] for one in members if one.name in loops}
        told = [f"{name}: {doing(loop)}" for name, loop in known.items() if loop.get("phase") != "ended"]
        return "; ".join(told) or next((self._how_to_start(member) for member in members), "")

    def _history(self) -> BranchHistory:
        """The branch that the agent works on."""
        histories = read_history(self.home)
        name, client = self.name, connect(self.home)
        if name is None and client is not None:
            loops = client.status()["loops"]
            name = next((one.branch.name for one in histories if one.branch.name in loops), None)
        return branch_named(histories, name)

    def _head_of(self, head: Head | None, group: str) -> Head:
        if head is None:
            raise UserError(f"{group} has no baseline with a score yet: ask again when it has been measured.")
        return head

    def _table(self, sql: str) -> Table:
        return query_history(self.home, sql, audience="agent")

    def _submit(self, submission: Submission) -> Submitted:
        """Hands a submission to the farm that holds the home, else records it for the next one."""
        from results.store import Store

        client = ask_farm(self.home)
        if client is not None:
            return _asked(client, submission)
        with self.home.lock(), Store.open(self.home.folder, wait_s=5.0) as store:
            check_whole(self.home.journal, store.journal.damaged, home_option=home_option(self.home))
            return Submitted(id=submit(store, submission), is_taken_up=False)

    def _how_to_start(self, branch: Branch) -> str:
        return f"No farm is running on this branch. It is kept, and taken up when one starts{resuming_with(self.home, branch)}"


def _asked(client: FarmClient, submission: Submission) -> Submitted:
    try:
        return client.submit(submission)
    except FarmEnded:
        raise UserError("The farm ended before it answered: submit it again; what it has recorded is refused then.") from None


def _plain(table: Table) -> dict[str, Any]:
    """A table as an object: its rows by column, and whether rows are missing."""
    told = json.loads(table.to_json())  # whose values JSON has
    return {"rows": [dict(zip(told["columns"], row, strict=True)) for row in told["rows"]], "truncated": told["truncated"]}


def _patched(before: str, patch: str) -> str:
    """A text with a unified diff applied. Raises UserError."""
    text = patch.replace("\r\n", "\n")
    if not any(True for _ in hunks(text)):
        raise UserError("The patch has no hunk: give a unified diff of research/train.py, or the whole text as train_py.")
    try:
        return apply_diff(before, text)
    except ValueError:
        told = "The patch does not fit the head's train.py (read_head): its lines and line numbers must be those there."
        raise UserError(f"{told} The whole text as train_py always fits.") from None
