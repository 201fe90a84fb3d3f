"""Where a branch in the user's checkout begins; each worktree is a farm of its own."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent.repo.git_command import run_git
from agent.repo.repository import make_repository
from agent.repo.worktree import branch_exists
from cluster.branch_start import (
    BranchStart,
    check_branches,
    check_not_deleted,
    check_not_of_several_loops,
    check_same_rule,
    created_at,
)
from cluster.farm_options import FarmOptions
from cluster.home import Home, find_home
from cluster.loop_plans import LoopPlan
from research.errors import UserError
from research.files import research_folder
from research.profiles import contract_for
from results.store import Store
from tests.cluster.farm_samples import CPU
from tests.cluster.test_by_hand import commit_train_py
from tests.cluster.tiny_checkout import Checkout
from tests.results.new_home import with_tables
from tests.results.result_samples import make_branch

BRANCH = "autoresearch/one"


def head(checkout: Checkout) -> str:
    return checkout.git("rev-parse", "HEAD").strip()


def test_a_branch_begins_where_it_was_created(checkout: Checkout) -> None:
    """At its head where git doesn't know, or where the user has moved it elsewhere since."""
    before = head(checkout)
    commit_train_py(checkout, "LR = 0.000001", "LR = 0.1")
    start = head(checkout)
    checkout.git("switch", "--quiet", "--create", BRANCH)
    assert created_at(checkout.folder, BRANCH) == start
    commit_train_py(checkout, "LR = 0.1", "LR = 0.2")
    assert created_at(checkout.folder, BRANCH) == start
    checkout.git("branch", "--move", BRANCH, f"{BRANCH}-gpu0")
    assert created_at(checkout.folder, f"{BRANCH}-gpu0") == start
    checkout.git("reset", "--quiet", "--hard", before)
    assert created_at(checkout.folder, f"{BRANCH}-gpu0") == before
    checkout.git("reset", "--quiet", "--hard", "ORIG_HEAD")
    shutil.rmtree(checkout.folder / ".git" / "logs")
    assert created_at(checkout.folder, f"{BRANCH}-gpu0") == head(checkout)


def test_a_tag_of_several_loops_is_not_taken_for_an_unknown_branch() -> None:
    head = "autoresearch/two"
    loops = [make_branch(f"{head}-cpu{number}", group=head) for number in range(3)]
    with pytest.raises(UserError, match=r"3 loops \(two-cpu0, two-cpu1, two-cpu2\): add --loops 3\.$"):
        check_not_of_several_loops(head, loops, command="run")
    with pytest.raises(UserError, match=r"3 loops .*another --tag"):
        check_not_of_several_loops(head, loops, command="try")
    check_not_of_several_loops(head, [*loops, make_branch(head, group=head)], command="run")
    check_not_of_several_loops("autoresearch/new", loops, command="run")


def test_a_branch_has_one_rule() -> None:
    """A gain that one rule keeps would be dropped at once by the other."""
    options: Any = SimpleNamespace(rule="greedy")
    with pytest.raises(UserError, match="began with --rule estimate"):
        check_same_rule(options, make_branch(BRANCH, rule="estimate"))
    for rule in ("greedy", ""):
        check_same_rule(options, make_branch(BRANCH, rule=rule))
    check_same_rule(SimpleNamespace(rule="estimate"), make_branch(BRANCH, rule="greedy"))  # type: ignore[arg-type]


def test_each_worktree_has_a_home_of_its_own(checkout: Checkout) -> None:
    """So that researchers on several GPUs run `farm try` at the same time, each in its own."""
    beside = checkout.folder.parent / "one-gpu1"
    checkout.git("worktree", "add", "--quiet", "-b", f"{BRANCH}-gpu1", str(beside))
    assert find_home(start=beside).folder == beside / "results" / "data"
    assert find_home(start=checkout.folder).folder == checkout.home


@pytest.mark.parametrize("at", ["agent.repo.worktree.check_out", "agent.repo.repair.shutil.rmtree"])
def test_a_start_that_was_killed_is_completed_by_the_same_command(
    at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the branch and its folder, or once that was moved aside; a branch that this home did not begin is refused."""
    repo = tmp_path / "repo"
    make_repository(repo, {"research/train.py": (research_folder() / "train.py").read_text(), "program.md": "policy\n"})
    options = FarmOptions(repo=repo, home=Home(tmp_path / "home"), cache=tmp_path, tag="new", researcher="search",
                          devices=(CPU,))  # fmt: skip
    data: Any = SimpleNamespace(score_fingerprint=lambda contract: "s", data_fingerprint="d")
    plan = LoopPlan(branch_name="autoresearch/new", number=0, device=CPU, contract=contract_for("cpu"), data=data)

    def killed(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    with Store.open(tmp_path / "home") as store:
        start = BranchStart(options, store, say=lambda text: None)
        with monkeypatch.context() as patch:
            patch.setattr(at, killed)
            with pytest.raises(KeyboardInterrupt):
                start.open(plan, in_place=False)
        assert branch_exists(repo, plan.branch_name) and store.branch(plan.branch_name) is None
        check_branches(options, {})
        branch, worktree = start.open(plan, in_place=False)
        assert branch.baseline_commit == worktree.head() and (worktree.folder / "research" / "train.py").is_file()
    other = replace(options, home=Home(tmp_path / "other"))
    with Store.open(tmp_path / "other") as store, pytest.raises(UserError, match="no record of it"):
        check_branches(other, {})
    with Store.open(tmp_path / "other") as store, pytest.raises(UserError, match="no record of it"):
        BranchStart(other, store, say=lambda text: None).open(plan, in_place=False)


def test_a_start_in_the_checkout_says_what_it_sets(tmp_path: Path) -> None:
    """A tag whose branch is only the head of several loops is refused there before anything is changed; and resuming a branch
    says which options it has no use for.
    """
    repo = tmp_path / "repo"
    text = (research_folder() / "train.py").read_text()
    make_repository(repo, {"research/train.py": text, "program.md": "policy\n"})
    options = FarmOptions(repo=repo, home=Home(tmp_path / "home"), cache=tmp_path, tag="new", researcher="search",
                          devices=(CPU,))  # fmt: skip
    data: Any = SimpleNamespace(score_fingerprint=lambda contract: "s", data_fingerprint="d")
    plan = LoopPlan(branch_name="autoresearch/new", number=0, device=CPU, contract=contract_for("cpu"), data=data)
    said: list[str] = []
    with Store.open(with_tables(tmp_path / "home")) as store:
        store.add_branch(make_branch("autoresearch/two-cpu0", group="autoresearch/two", tag="two"))
        start = BranchStart(options, store, say=said.append)
        with pytest.raises(UserError, match="needs a branch of its own"):
            start.open(replace(plan, branch_name="autoresearch/two"), in_place=True)
        assert not said
        branch, _ = start.open(plan, in_place=True)
        for changes, options_said in (
            ({"dirty": True}, "--dirty applies"),
            ({"dirty": True, "recipe": "best"}, "and --dirty apply"),
        ):
            resumed: list[str] = []
            again = BranchStart(replace(options, **changes), store, say=resumed.append)  # type: ignore[arg-type]
            again.open(plan, in_place=True)
            assert [options_said in line and "new branches only" in line for line in resumed] == [True]
    [told] = [line for line in said if "profile cpu" in line]
    assert branch.baseline_commit[:7] in told and "DEPTH = 2" in told


@pytest.mark.parametrize("in_place", [True, False])
def test_a_deleted_branch_is_refused_with_the_command_that_brings_it_back(tmp_path: Path, in_place: bool) -> None:
    """A farm makes the branch of its own worktree again; what it refuses is a repository without the commit."""
    repo = tmp_path / "repo"
    make_repository(repo, {"research/train.py": (research_folder() / "train.py").read_text(), "program.md": "policy\n"})
    options = FarmOptions(repo=repo, home=Home(tmp_path / "home"), cache=tmp_path, tag="new", researcher="search",
                          devices=(CPU,))  # fmt: skip
    data: Any = SimpleNamespace(score_fingerprint=lambda contract: "s", data_fingerprint="d")
    plan = LoopPlan(branch_name="autoresearch/new", number=0, device=CPU, contract=contract_for("cpu"), data=data)
    with Store.open(with_tables(tmp_path / "home")) as store:
        branch, _ = BranchStart(options, store, say=lambda text: None).open(plan, in_place=in_place)
        run_git(repo, "switch", "--quiet", "--detach")
        run_git(repo, "worktree", "prune")
        run_git(repo, "update-ref", "-d", f"refs/heads/{branch.name}")
        said: list[str] = []
        start = BranchStart(options, store, say=said.append)
        if in_place:
            with pytest.raises(UserError, match=f"branch {branch.name} {branch.baseline_commit[:7]}`") as refused:
                start.open(plan, in_place=True)
            command = str(refused.value).split("`")[1]
            subprocess.run(command, shell=True, check=True, cwd=repo)
            assert run_git(repo, "rev-parse", branch.name).strip() == branch.baseline_commit
        else:
            start.open(plan, in_place=False)
            assert any("is again where" in line for line in said)
    make_repository(tmp_path / "another", {"research/train.py": "DEPTH = 1\n"})
    with pytest.raises(UserError, match=rf"nor its commit {branch.baseline_commit[:7]}.*another --tag"):
        check_not_deleted(tmp_path / "another", branch.name, branch.baseline_commit)
