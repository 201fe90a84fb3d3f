"""Commits that people make on a branch become experiments. Real git and store; the test tells the results of runs."""

import asyncio
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.loop import LoopSettings, ResearchLoop
from agent.repo.repository import make_repository
from agent.repo.worktree import Worktree
from agent.researchers.scripted import ScriptedResearcher
from agent.shared_research import SharedResearch
from research.errors import UserError
from research.profiles import PROFILES
from research.result import RunResult, RunSpec
from results.experiment import Branch, Experiment, ExperimentRecord, Proposal
from results.group_entries import DROPPED_BY_A_PERSON
from results.history import read_history
from results.store import Store
from results.verdict import NoisePrior
from tests.agent.repo.git_samples import git
from tests.agent.samples import TRAIN_PY
from tests.agent.test_loop import Nobody
from tests.results.new_home import with_tables

BRANCH = "autoresearch/mar8"
USER = ("-c", "user.name=T", "-c", "user.email=t@localhost")


def depth(number: int) -> str:
    return TRAIN_PY.replace("DEPTH = 2", f"DEPTH = {number}")


SCORES = {2: 1.5, 3: 1.4, 4: 1.45, 5: None, 6: 1.3, 7: 1.6}
"""val_bpb by depth; 5 has none."""


class Checkout:
    """A user's checkout on a branch of the farm, and loops on it."""

    def __init__(self, folder: Path) -> None:
        self.repo, self.ran = folder / "repo", []  # type: tuple[Path, list[str]]
        make_repository(self.repo, {"research/train.py": TRAIN_PY, "notes.md": "one\n"})
        git(self.repo, "switch", "-q", "-c", BRANCH)
        self.store = Store.open(with_tables(folder / "home"))
        self.stop_at: int | None = None
        self.fit: Callable[[str], str] = str
        self.during_a_run: Callable[[], None] = lambda: None
        self.baseline = self.head()

    def head(self) -> str:
        return git(self.repo, "rev-parse", "HEAD")

    def commit(self, text: str, subject: str, **others: str) -> str:
        (self.repo / "research/train.py").write_text(text)
        for name, content in others.items():
            (self.repo / f"{name}.md").write_text(content)
        git(self.repo, *USER, "commit", "-q", "-a", "-m", subject)
        return self.head()

    def loop(self, worktree: Worktree | None = None) -> ResearchLoop:
        contract = PROFILES["cpu"].contract
        branch = Branch(name=BRANCH, tag="mar8", loop=0, profile="cpu", contract_json=contract.to_json(), score_fingerprint="s",
                        data_fingerprint="d", platform="a CPU", baseline_commit=self.baseline,
                        created="2026-03-08T20:00:00Z")  # fmt: skip
        self.store.add_branch(branch)
        settings = LoopSettings(contract=contract, sandbox="auto", save_model=False, noise=NoisePrior(sigma=0.01),
                                rule="estimate", baseline_runs=1, runs_folder=self.repo / "runs", program=self.repo / "none",
                                fit=self.fit)  # fmt: skip
        shared = SharedResearch(store=self.store, repo=self.repo, group=BRANCH, baseline_commit=self.baseline,
                                observer=Nobody())  # fmt: skip
        return ResearchLoop(branch=branch, worktree=worktree or Worktree.in_place(self.repo, BRANCH), store=self.store,
                            shared=shared, researcher=ScriptedResearcher([]), execute=self._execute,
                            start_speculatively=None, observer=Nobody(), settings=settings)  # fmt: skip

    def start(self) -> list[ExperimentRecord]:
        return asyncio.run(self.loop().start())

    def edit(self, text: str) -> ExperimentRecord:
        """What `farm try` does with an edit."""

        async def tried() -> ExperimentRecord:
            loop = self.loop()
            await loop.start()
            return await loop.try_now(Proposal(title="edit", hypothesis="", train_py=text, researcher="you"))

        return asyncio.run(tried())

    def again(self, record: ExperimentRecord) -> str:
        """The reason of the verdict after another run of an experiment."""

        async def tried() -> ExperimentRecord:
            loop = self.loop()
            await loop.start()
            return await loop.try_again(record, Proposal(title="", hypothesis="", train_py="", researcher="you"))

        verdict = asyncio.run(tried()).verdict
        assert verdict is not None and verdict.decision == "keep"
        return verdict.reason

    def told(self) -> list[tuple[str, str]]:
        """Title and decision of every experiment."""
        records = self.store.records(BRANCH)
        return [(record.experiment.title, record.verdict.decision if record.verdict else "") for record in records]

    async def _execute(self, experiment: Experiment, train_py: str, spec: RunSpec, report: Any) -> RunResult:
        self.ran.append(train_py)
        self.during_a_run()
        if experiment.number == self.stop_at:
            raise KeyboardInterrupt
        score = next(SCORES[number] for number in SCORES if f"DEPTH = {number} " in train_py)
        return RunResult(run_id=spec.run_id, status="ok" if score else "crash", reason="told", seed=spec.seed, device="cpu",
                         val_bpb=score)  # fmt: skip


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Checkout]:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    made = Checkout(tmp_path)
    yield made
    made.store.close()


def test_commits_by_hand_become_experiments_in_order(checkout: Checkout) -> None:
    """Also one that the rule would discard: the reason says that a person kept it, and what it lost."""
    commits = [checkout.commit(depth(3), "three layers"), checkout.commit(depth(4), "four layers")]
    checkout.start()
    assert checkout.told() == [("baseline", "keep"), ("three layers", "keep"), ("four layers", "keep")]
    records = checkout.store.records(BRANCH)
    assert [record.experiment.commit for record in records] == [checkout.baseline, *commits]
    assert [record.experiment.kind for record in records[1:]] == ["manual", "manual"]
    verdict = records[2].verdict
    assert verdict is not None and verdict.gain is not None and verdict.gain < 0
    assert "by hand" in verdict.reason and "above the" in verdict.reason
    assert checkout.head() == commits[1] and git(checkout.repo, "rev-parse", "refs/experiments/mar8-0001") == commits[0]
    assert checkout.start() == [] and len(checkout.ran) == 3
    for record, by_rule in zip(records[1:], (True, False), strict=True):
        reason = checkout.again(record)
        assert "by hand" in reason and ("rule would discard" not in reason) == by_rule and "a person" not in reason

    assert checkout.edit(depth(6)).experiment.parent_commit == commits[1]
    assert checkout.told()[-1] == ("edit", "keep") and git(checkout.repo, "rev-parse", "HEAD^") == commits[1]
    assert "by hand" not in checkout.again(checkout.store.records(BRANCH)[-1]), "it is on the branch by the rule"


def test_commits_that_leave_train_py_alone_are_built_upon(checkout: Checkout) -> None:
    checkout.start()
    notes = checkout.commit(TRAIN_PY, "notes", notes="two\n")
    both = checkout.commit(depth(3), "three layers, and notes", notes="three\n")
    more = checkout.commit(depth(3), "more notes", notes="four\n")
    checkout.start()
    assert checkout.told()[1:] == [("three layers, and notes", "keep")]
    checkout.edit(depth(6))
    assert git(checkout.repo, "rev-list", "HEAD").split()[1:4] == [more, both, notes]
    assert git(checkout.repo, "show", "HEAD:notes.md") == "four"


def test_a_commit_without_a_score_stays_and_can_be_mended(checkout: Checkout) -> None:
    checkout.commit(depth(5), "five layers")
    assert [record.experiment.title for record in checkout.start()] == ["five layers"]
    assert checkout.start() == []
    mended = checkout.edit(depth(6))
    assert mended.experiment.parent_commit == checkout.baseline and mended.verdict is not None
    assert mended.verdict.gain == pytest.approx(0.2, abs=0.01)
    assert checkout.told() == [("baseline", "keep"), ("five layers", "crash"), ("edit", "keep")]
    assert git(checkout.repo, "log", "--format=%s", "-2") == "edit\nfive layers"


def test_an_adoption_that_was_cut_off_is_finished_by_the_same_rule(checkout: Checkout) -> None:
    checkout.start()
    checkout.commit(depth(3), "three layers")
    checkout.commit(depth(4), "four layers")
    checkout.stop_at = 2
    with pytest.raises(KeyboardInterrupt):
        checkout.start()
    checkout.stop_at = None
    checkout.start()
    assert checkout.told() == [("baseline", "keep"), ("three layers", "keep"), ("four layers", "keep")]


def test_a_commit_that_repeats_an_earlier_idea_is_in_the_head_all_the_same(checkout: Checkout) -> None:
    """It counts as another run of that idea, which is what is pinned."""
    checkout.start()
    tried = checkout.edit(depth(7))
    assert tried.verdict is not None and tried.verdict.decision == "discard"
    checkout.commit(depth(7), "worse, and I want it")
    (again,) = checkout.start()
    assert again.verdict is not None and again.verdict.decision == "keep"
    assert checkout.told()[1:] == [("edit", "keep"), ("worse, and I want it", "keep")]
    state, head = checkout.store.groups.state(BRANCH), checkout.store.groups.head(BRANCH)
    assert head is not None and head.patches == (tried.experiment.id,) and set(head.patches) == state.farm.pinned
    assert checkout.loop().worktree.train_py(head.commit) == depth(7)
    assert "kept by hand" in checkout.again(again), "the same rule decides after another run"


def test_a_commit_that_takes_an_idea_back_drops_it(checkout: Checkout) -> None:
    checkout.start()
    checkout.commit(depth(3), "deeper")
    (deeper,) = checkout.start()
    checkout.commit(depth(2), "no, as it was")
    checkout.start()
    state, head = checkout.store.groups.state(BRANCH), checkout.store.groups.head(BRANCH)
    assert head is not None and head.patches == () and state.why_ruled[deeper.experiment.id] == DROPPED_BY_A_PERSON
    assert checkout.told()[1:] == [("deeper", "discard"), ("no, as it was", "keep")]
    history = read_history(checkout.store.journal.path)[0]
    assert history.group.waiting == frozenset(), "the head is what was committed"
    checkout.commit(depth(3), "after all")
    checkout.start()
    head = checkout.store.groups.head(BRANCH)
    assert head is not None and head.patches == (deeper.experiment.id,)


def test_a_reset_of_what_was_never_recorded_is_no_matter(checkout: Checkout) -> None:
    checkout.start()
    checkout.commit(depth(4), "four layers")
    git(checkout.repo, "reset", "-q", "--hard", "HEAD~1")
    assert checkout.start() == [] and checkout.told() == [("baseline", "keep")]


def followed(checkout: Checkout) -> str:
    """What is said of a branch that was reset behind a keep; the command in it is run."""
    with pytest.raises(UserError) as error:
        checkout.start()
    said = str(error.value)
    assert "mar8-0001" in said and "\n" not in said
    names = {f"GIT_{who}_{what}": "you" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    subprocess.run(said.split("`")[1], shell=True, check=True, env={**os.environ, **names}, capture_output=True)
    return said


@pytest.mark.parametrize("later", ["nothing", "an edit", "a commit"])
def test_a_reset_behind_a_recorded_keep_is_one_line_that_leads_back(checkout: Checkout, later: str) -> None:
    """Where what the user has changed since changes the same line, it is left as it is, and that is said."""
    checkout.start()
    kept = checkout.edit(depth(3)).experiment.commit
    git(checkout.repo, "reset", "-q", "--hard", "HEAD~1")
    if later == "an edit":
        (checkout.repo / "research/train.py").write_text(depth(6))
    elif later == "a commit":
        checkout.commit(depth(6), "six layers")
    said = followed(checkout)
    assert ("undoes what was kept" in said) == (later != "nothing")
    assert checkout.start() == [] and checkout.head() == kept
    assert (checkout.repo / "research/train.py").read_text() == depth(3 if later == "nothing" else 6)
    assert git(checkout.repo, "diff", "--cached", "--name-only") == ""


@pytest.mark.parametrize("later", ["an edit", "a staged edit", "a commit"])
def test_what_was_changed_after_a_reset_is_taken_on_top_of_the_keep(checkout: Checkout, later: str) -> None:
    """Otherwise the next try would test as well that the kept edit is undone."""
    checkout.start()
    kept = checkout.edit(depth(3)).experiment.commit
    git(checkout.repo, "reset", "-q", "--hard", "HEAD~1")
    mine = TRAIN_PY + "\n" * 9 + "EXTRA = 1\n"
    if later == "a commit":
        checkout.commit(mine, "one more")
    else:
        (checkout.repo / "research/train.py").write_text(mine)
        git(checkout.repo, "add", *(["-A"] if later == "a staged edit" else ["--refresh", "."]))
    assert "on top of it" in followed(checkout)
    assert (checkout.repo / "research/train.py").read_text() == mine.replace("DEPTH = 2", "DEPTH = 3")
    assert git(checkout.repo, "rev-parse", "HEAD~1" if later == "a commit" else "HEAD") == kept


def test_a_keep_that_was_cut_off_before_the_branch_moved_is_redone(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout.start()
    with monkeypatch.context() as context:
        context.setattr(Worktree, "advance", lambda self, commit: [])
        kept = checkout.edit(depth(3)).experiment.commit
    assert checkout.head() == checkout.baseline
    checkout.start()
    assert checkout.head() == kept


def test_a_farm_on_the_branch_loses_no_commit_either(checkout: Checkout, tmp_path: Path) -> None:
    """`farm run` in a worktree of its own, after a commit by hand in the checkout."""
    checkout.start()
    mine = checkout.commit(depth(4), "four layers")
    git(checkout.repo, "switch", "-q", "main")
    worktree = Worktree.open(checkout.repo, tmp_path / "home" / "worktrees" / "mar8", BRANCH)
    asyncio.run(checkout.loop(worktree).start())
    assert worktree.head() == mine and checkout.told()[-1] == ("four layers", "keep")


@pytest.mark.parametrize("delete", [("worktree",), ("branch", "-D", BRANCH)])
def test_a_folder_or_branch_that_is_deleted_during_a_run_is_made_again(
    checkout: Checkout, tmp_path: Path, delete: tuple[str, ...]
) -> None:
    git(checkout.repo, "switch", "-q", "main")
    folder = checkout.repo / "results" / "data" / "worktrees" / "mar8"
    loop = checkout.loop(Worktree.open(checkout.repo, folder, BRANCH))

    def deleting() -> None:
        git(checkout.repo, "worktree", "remove", "--force", str(folder))
        if delete[0] == "branch":
            git(checkout.repo, *delete)

    async def tried() -> ExperimentRecord:
        await loop.start()
        checkout.during_a_run = deleting
        return await loop.try_now(Proposal(title="edit", hypothesis="", train_py=depth(3), researcher="you"))

    commit = asyncio.run(tried()).experiment.commit
    assert git(checkout.repo, "rev-parse", BRANCH) == commit and git(folder, "status", "--porcelain") in ("", "?? results.tsv")
    assert checkout.head() == checkout.baseline and (checkout.repo / "research/train.py").read_text() == TRAIN_PY


@pytest.mark.parametrize("last", [4, 5])
def test_commits_for_another_profile_are_fitted_on_top_of_themselves(checkout: Checkout, last: int) -> None:
    """The person's commits stay as they are; what ran is what the history names."""
    checkout.fit = lambda text: text.replace("EMBEDDING_LR = 0.6", "EMBEDDING_LR = 0.1")
    start = checkout.baseline
    commits = [checkout.commit(depth(3), "three layers"), checkout.commit(depth(last), "more layers")]
    worktree = Worktree.in_place(checkout.repo, BRANCH)
    checkout.baseline = worktree.commit(checkout.fit(TRAIN_PY), message=f"Start\n\nFitted-from: {start}\n", parent=start,
                                        experiment_id="mar8-start")  # fmt: skip
    checkout.start()
    records = checkout.store.records(BRANCH)
    assert [title for title, _ in checkout.told()] == ["baseline", "three layers", "more layers"]
    assert [git(checkout.repo, "rev-parse", f"{record.experiment.commit}^") for record in records] == [start, *commits]
    assert all("EMBEDDING_LR = 0.1" in text for text in checkout.ran)
    assert checkout.ran == [worktree.train_py(record.experiment.commit) for record in records]
    assert records[1].experiment.lines_added == 1
    assert checkout.start() == []
    tip = checkout.head()
    assert tip == (records[2].experiment.commit if last == 4 else commits[1])
    checkout.edit(checkout.fit(depth(6)))
    assert git(checkout.repo, "rev-parse", "HEAD^") == tip and checkout.told()[-1] == ("edit", "keep")
