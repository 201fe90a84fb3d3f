"""What a loop's researcher is shown, gathered anew for each proposal from the store and the files."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from agent.duplicate_edits import programs_on_same_terms, refusals
from agent.known_experiments import OWN
from agent.loop_steering import LoopSteering
from agent.repo.worktree import Worktree
from agent.researcher import Context, ProposalFailed
from agent.shared_research import SharedResearch
from research.errors import UserError
from research.formatting import one_line
from results import policy
from results.experiment import Branch, Head
from results.group_state import estimates_of
from results.notes import KINDS, Note, NoteKind, add_note, latest_notes
from results.run_logs import log_tail
from results.store import Store

LINEAGE = 12
"""The latest ideas in the head that researchers are shown."""

NOTES = 15
"""The latest lessons, and as many leads, that researchers are shown."""


class LoopContext:
    """Gathers what one loop's researcher is shown."""

    def __init__(self, *, branch: Branch, worktree: Worktree, store: Store, shared: SharedResearch, steering: LoopSteering,
                 sigma: Callable[[], float], program: Path, runs_folder: Path,
                 memory_cap_mb: float | None = None) -> None:  # fmt: skip
        """`program` is the policy's file, and `runs_folder` has the folders of runs."""
        self._branch, self._worktree, self._store, self._shared = branch, worktree, store, shared
        self._memory_cap_mb = memory_cap_mb
        self._steering, self._sigma, self._program, self._runs_folder = steering, sigma, program, runs_folder

    def on(self, head: Head) -> Context:
        """What the researcher is shown for an idea on this head. Raises ProposalFailed if program.md can't be read."""
        store, branch, experiments = self._store, self._branch, self._store.experiments
        return Context(
            branch=branch,
            head=head,
            train_py=self._worktree.train_py(head.commit),
            records=experiments.of_branch(branch.name, OWN),
            others=self._shared.tried.records_but_of(branch.name),
            near_misses=tuple(experiments.with_ids(policy.near_misses(self._shared.state().farm))),
            lineage=tuple(experiments.with_ids(list(head.patches[-LINEAGE:]))),
            sigma=self._sigma(),
            program=self._steering.noted(read_policy(self._program)),
            query=store.queries.text,
            charge=partial(store.add_answer, branch.name),
            spent_usd=partial(store.spent_usd, branch.tag),
            spent_by_loop_usd=partial(store.spent_by_loop_usd, branch.name),
            notes=self._notes(),
            note=self._note,
            log_of=self._log_of,
            programs=programs_on_same_terms(store, branch),
            crashes=self._shared.tried.crash_patterns(head.commit),
            refused=refusals(store, branch.name),
            guidance=self._steering.guidance(),
            memory_cap_mb=self._memory_cap_mb,
            effects=partial(self._effects, head),
        )

    def _effects(self, head: Head) -> dict[str, float]:
        state = self._shared.state()
        return {one.idea: one.effect for one in estimates_of(state, state.patches_at.get(head.commit, frozenset()))}

    def _notes(self) -> tuple[Note, ...]:
        return tuple(note for kind in KINDS for note in latest_notes(self._store, self._shared.group, kind, NOTES))

    def _note(self, kind: NoteKind, text: str, replaces: Sequence[int]) -> int:
        return add_note(self._store, self._shared.group, self._branch.name, kind, text, replaces)

    def _log_of(self, name: str) -> str:
        """The end of the log of an experiment's last run, or of a run. Raises UserError."""
        line = self._store.experiments.line(name)
        runs = [] if line is None else self._store.record(name).runs
        is_run = line is None and name.isascii() and name.replace("-", "").replace("_", "").isalnum()
        run = runs[-1].run_id if runs else name if is_run else ""
        text = log_tail(self._runs_folder / run) if run else None
        if text is None:
            raise UserError(f"There is no log of {one_line(name, 80)!r}: give the id of an experiment that has run.")
        return text


def read_policy(path: Path) -> str:
    """The text of program.md, empty if there is none. Bytes that are not UTF-8 are read as Latin-1.

    Raises ProposalFailed if the file is there and can't be read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise ProposalFailed(f"{path} can't be read ({error.strerror}): mend it, and the loop goes on.") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "latin-1", errors="replace")
