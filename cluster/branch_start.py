"""Opens the branch of a loop: starts it, resumes it, or restarts it if its baseline failed.

A new branch begins with the checkout's committed train.py, set to the starting hyperparameters of its profile.
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from itertools import count, islice
from pathlib import Path

from agent.compare_programs import changed_constants
from agent.duplicate_edits import terms_of
from agent.repo.branch_log import FITTED_FROM, is_ancestor, positions_of
from agent.repo.branch_names import branch_name, branch_ref, is_farm_branch, short_name, worktree_folder
from agent.repo.git_command import GitFailed, command_to_type, run_git
from agent.repo.parking import park_edits
from agent.repo.repair import is_begun
from agent.repo.repository import (
    START_GIT,
    TRAIN_FILE,
    committed_around,
    head_train_py,
    train_py_at,
    train_py_to_try,
    uncommitted_train_py,
    working_train_py,
)
from agent.repo.worktree import Worktree, branch_exists, checked_out_branch, commit_exists, restore_branch
from cluster.farm_options import FarmOptions
from cluster.hardware import Device, platform_identity
from cluster.home import inside_job
from cluster.loop_plans import (
    LoopPlan,
    check_same_scoring,
    check_same_terms,
    contract_asked_for,
    data_if_prepared,
    local_loops,
)
from research.data.prepare import check_writable
from research.data.sources import check_source
from research.errors import UserError
from research.formatting import counted, shortened, utc_now
from research.hyperparameters import write_constants
from research.recipes import Recipe
from research.starting_hyperparameters import fit_to_profile
from research.valid_train_py import problem_with
from results.experiment import Branch
from results.store import Store

LEFT_OUT = "{file} has uncommitted edits: they are left out (--dirty includes them)."


class BranchStart:
    """Opens the branches of a farm's loops. Loops may call it at the same time, each in its own thread."""

    def __init__(self, options: FarmOptions, store: Store, *, say: Callable[[str], None]) -> None:
        self._options, self._store, self._say = options, store, say
        self._said: set[str] = set()
        self._lock = threading.Lock()

    def open(self, plan: LoopPlan, *, in_place: bool) -> tuple[Branch, Worktree]:
        """The branch of a loop, and the folder where it is checked out: a worktree under the home, or the user's own checkout
        (`in_place`).

        Raises UserError if the branch can't be started, or began with another contract or platform than the plan's.
        """
        branch = self._store.branch(plan.branch_name)
        if branch is not None:
            check_same_terms(branch, plan.device, plan.contract)
            check_same_scoring(branch, plan)
            return branch, self._resume(plan, branch, in_place)
        if in_place:
            check_not_of_several_loops(plan.branch_name, self._store.branches(), command="try")
        sibling = self._sibling(plan)
        if in_place:
            worktree, baseline = self._start_in_checkout(plan, adopt=self._options.recipe is None)
        else:
            worktree = self._start_in_worktree(plan, sibling)
            baseline = worktree.head() if sibling is None else sibling.baseline_commit
        group = self._group(plan, sibling if sibling is not None and baseline == sibling.baseline_commit else None)
        branch = _new_branch(plan, self._options, baseline_commit=baseline, group=group)
        self._store.add_branch(branch)
        return branch, worktree

    def _resume(self, plan: LoopPlan, branch: Branch, in_place: bool) -> Worktree:
        """The branch at its head. A branch that has nothing but a failed baseline restarts from what is now committed
        in the checkout.
        """
        name, repo = plan.branch_name, self._options.repo
        failed = failed_start(self._store, name)
        given = (("--recipe", self._options.recipe is not None), ("--dirty", self._options.dirty))
        unused = " and ".join(option for option, is_given in given if is_given)
        if failed is None and unused:
            applies = "applies" if " " not in unused else "apply"
            self._say_once(f"{name} resumes from its head: {unused} {applies} to new branches only (use another --tag)")
        head = self._store.head(name)
        last = branch.baseline_commit if head is None else head.commit
        if in_place and failed is not None:
            self._say_what_the_baseline_has(name)
            return self._start_in_checkout(plan, adopt=False)[0]
        if in_place:
            check_not_deleted(repo, name, last)
            return Worktree.in_place(repo, name)
        folder = worktree_folder(self._options.home.folder, name)
        if (edits := park_edits(repo, folder, name)) is not None:
            self._say_once(f"{folder} had uncommitted edits of files: they are now {edits} in git")
        if restore_branch(repo, name, last):
            self._say_once(f"{name} had been deleted in {repo}: it is again where it was recorded last")
        check_not_deleted(repo, name, last)
        worktree = Worktree.open(repo, folder, name)
        if failed is not None and worktree.head() == failed:  # otherwise it was fixed on the branch itself
            worktree.begin_again(self._first_train_py(plan))
        return worktree

    # --- a worktree under the home ----------------------------------------------------------------------------------

    def _start_in_worktree(self, plan: LoopPlan, sibling: Branch | None) -> Worktree:
        """A new branch: at the sibling's baseline if there is one, or where it is if it is the head of the group."""
        repo, folder = self._options.repo, worktree_folder(self._options.home.folder, plan.branch_name)
        if sibling is not None and sibling.head_branch == plan.branch_name and branch_exists(repo, plan.branch_name):
            return Worktree.open(repo, folder, plan.branch_name)
        if branch_exists(repo, plan.branch_name) and not is_begun(folder):
            raise _unknown_branch(plan.branch_name)
        if sibling is not None:
            return Worktree.create(repo, folder, plan.branch_name, base=sibling.baseline_commit)
        return Worktree.create(repo, folder, plan.branch_name, train_py=self._first_train_py(plan))

    def _group(self, plan: LoopPlan, sibling: Branch | None) -> str:
        """The branch that will hold the head of a new branch's group: the sibling's, its own, or one for several loops."""
        options, name = self._options, plan.branch_name
        if not options.share or options.rule == "greedy":
            return name
        if sibling is not None:
            return sibling.head_branch
        own = branch_name(options.tag)
        taken = {branch.head_branch for branch in self._store.branches(options.tag)}
        numbered = (branch_name(options.tag, loop=f"platform{number}") for number in count(2))
        return next(free for free in (own, *islice(numbered, len(taken) + 1)) if free not in taken)

    def _first_train_py(self, plan: LoopPlan) -> str:
        """The train.py of a tag's first commit: what is committed in the checkout, fitted to the plan's profile and device.

        Raises UserError.
        """
        repo, recipe = self._options.repo, self._options.recipe
        self._say_if_on_a_farm_branch()
        text = committed_train_py(repo)
        edited, tree = uncommitted_train_py(repo), self._options.source_tree
        if self._options.dirty:
            text = edited or (tree and working_train_py(tree)) or text
        elif edited is not None:
            self._say_once(LEFT_OUT.format(file=TRAIN_FILE if tree is None else repo / TRAIN_FILE))
        text, _ = fit_to_profile(text, plan.contract.profile, free_memory(plan), recipe=recipe)
        return text

    def _sibling(self, plan: LoopPlan) -> Branch | None:
        """Another branch of the tag whose scores compare with the plan's, so that loops on devices of one kind have one
        starting point; None if there is none, or its baseline has failed.
        """
        wanted = _new_branch(plan, self._options, baseline_commit="", group="")
        for branch in self._store.branches(self._options.tag):
            if terms_of(branch) == terms_of(wanted) and failed_start(self._store, branch.name) is None:
                return branch
        return None

    # --- the user's own checkout ------------------------------------------------------------------------------------

    def _start_in_checkout(self, plan: LoopPlan, *, adopt: bool) -> tuple[Worktree, str]:
        """Switches the checkout to the branch. Returns it with its baseline, a commit of train.py with the profile's starting
        hyperparameters. Uncommitted edits of train.py stay.

        A branch that the user has created and switched to is used unchanged, unless a recipe is requested. With `adopt` its
        baseline is where it was created: the user's commits since are experiments. Raises UserError.
        """
        repo, name = self._options.repo, plan.branch_name
        committed, working = committed_train_py(repo), train_py_to_try(repo)
        if not branch_exists(repo, name):
            self._switch_to_new(name)
        worktree = Worktree.in_place(repo, name)
        head = worktree.head()
        start = created_at(repo, name) if adopt else head
        recipe = self._options.recipe
        baseline, changes = fit_to_profile(train_py_at(repo, start), plan.contract.profile, free_memory(plan), recipe=recipe)
        if not changes:
            return worktree, start
        message = f"Start {name}: train.py with the {plan.contract.profile} profile's starting hyperparameters"
        start_id = f"{short_name(name)}-start-{start[:7]}"  # a start that failed can be followed by another
        message = f"{message}\n\n{FITTED_FROM}: {start}\n"
        commit = worktree.commit(baseline, message=message, parent=start, experiment_id=start_id)
        edit = fitted_edit(plan, committed, working, recipe=recipe)
        set_to = ", ".join(f"{constant} = {value}" for constant, value in changes.items())
        self._say_once(f"{name} starts from {commit[:7]}, which sets {TRAIN_FILE} to profile {plan.contract.profile}: {set_to}")
        if start == head:
            worktree.advance(commit)
        (repo / TRAIN_FILE).write_text(edit, encoding="utf-8")
        return worktree, commit

    def _switch_to_new(self, branch: str) -> None:
        """Switches the checkout to a new branch, and says how to switch back. Raises UserError."""
        repo = self._options.repo
        self._say_if_on_a_farm_branch()
        before = checked_out_branch(repo)
        back = ("switch", before) if before else ("switch", "--detach", run_git(repo, "rev-parse", "--short", "HEAD").strip())
        try:
            run_git(repo, "switch", "--quiet", "--create", branch)
        except GitFailed as error:
            raise UserError(f"git can't start the branch {branch}: {error}") from None
        self._say_once(f"The checkout is now on the new branch {branch}; switch back with: {command_to_type(repo, *back)}")

    def _say_if_on_a_farm_branch(self) -> None:
        """Says that a new branch starts from what research has found, where such a branch is checked out."""
        repo = self._options.repo
        before = checked_out_branch(repo)
        if before is not None and is_farm_branch(before) and self._has_ideas(before):
            self._say_once(f"tag {self._options.tag} starts from {before}, which is checked out: its baseline has that "
                           f"branch's ideas. To start from main: {command_to_type(repo, 'switch', 'main')} first")  # fmt: skip

    def _say_what_the_baseline_has(self, branch: str) -> None:
        """Says which commits of the user's since the branch was created become part of a baseline that is measured anew."""
        repo = self._options.repo
        since = f"{created_at(repo, branch)}..{branch_ref(branch)}"
        commits = run_git(repo, "log", "--format=%h %s", since, "--", TRAIN_FILE).splitlines()
        if commits:
            named = "; ".join(shortened(commit, 60) for commit in commits[:3]) + ("; ..." if len(commits) > 3 else "")
            self._say_once(f"The baseline failed, so {branch} begins again from what is committed now: its baseline has "
                           f"{counted(len(commits), 'commit')} of yours ({named}), told apart by no experiment")  # fmt: skip

    def _has_ideas(self, branch: str) -> bool:
        """Whether the head of a branch of the farm's is another commit than its baseline, as far as this home knows."""
        known = self._store.branch(branch)
        return known is None or run_git(self._options.repo, "rev-parse", branch).strip() != known.baseline_commit

    def _say_once(self, text: str) -> None:
        """Tells the user something once, even if several loops find it out."""
        with self._lock:
            new = text not in self._said
            self._said.add(text)
        if new:
            self._say(text)


def check_branches(options: FarmOptions, known: Mapping[str, Branch]) -> None:
    """Raises UserError if a loop on this machine's devices can't start or resume its branch; `known` are the home's branches.

    Everything is asked that can be answered at once, so that nothing is said, prepared or started before.
    """
    check_terms(options, known, command="run")
    for name, _ in local_loops(options):
        folder = worktree_folder(options.home.folder, name)
        if name not in known and branch_exists(options.repo, name) and not is_begun(folder):
            raise _unknown_branch(name)
    for name, _ in local_loops(options):
        if checked_out_branch(options.repo) == name:
            switch = command_to_type(options.repo, "switch", "main")
            raise UserError(f"{name} is checked out in {options.repo}: use another --tag, or switch away from it ({switch}).")


def check_terms(options: FarmOptions, known: Mapping[str, Branch], *, command: str) -> None:
    """Raises UserError if a loop on this machine's devices would go on with its branch on other terms than those that it began
    with, or its data can't be prepared; `command` is `run` or `try`.
    """
    for name, device in local_loops(options):
        branch, contract = known.get(name), contract_asked_for(options, device)
        if branch is None:
            check_not_of_several_loops(name, known.values(), command=command)
        else:
            check_same_terms(branch, device, contract)
            check_same_rule(options, branch)
        data = data_if_prepared(contract, options, score_fingerprint=None if branch is None else branch.score_fingerprint)
        if data is None:
            check_writable(options.cache)
            check_source(contract.source)
        elif branch is not None:
            check_same_scoring(branch, LoopPlan(branch_name=name, number=0, device=device, contract=contract, data=data))


def check_terms_on_own_cluster(options: FarmOptions, known: Iterable[Branch], devices: Iterable[Device]) -> None:
    """Raises UserError for what `check_terms` does, on a cluster that has this machine's devices: there a loop takes a branch
    of its tag and its device's platform.
    """
    of_tag = [branch for branch in known if branch.tag == options.tag]
    for device in devices:
        contract = contract_asked_for(options, device)
        for branch in (branch for branch in of_tag if branch.platform == platform_identity(device)):
            check_same_terms(branch, device, contract)
            check_same_rule(options, branch)
        if data_if_prepared(contract, options) is None:
            check_source(contract.source)


def check_same_rule(options: FarmOptions, branch: Branch) -> None:
    """Raises UserError for a branch that keeps ideas by another rule than the one that is asked for."""
    if options.rule == "greedy" and branch.rule == "estimate":
        raise UserError(f"{branch.name} began with --rule {branch.rule}: leave out --rule greedy, or use another --tag.")


def check_not_deleted(repo: Path, name: str, last: str) -> None:
    """Raises UserError for a branch that somebody has deleted, with the command that brings it back; `last` is the commit that
    was recorded last of it.
    """
    if branch_exists(repo, name):
        return
    if not commit_exists(repo, last):
        there = f"nor its commit {last[:7]}"
        raise UserError(
            f"There is no branch {name} in {repo}, {there}: work in the checkout that has it, or use another --tag."
        )
    back = command_to_type(repo, "branch", name, last[:7])
    raise UserError(f"The branch {name} was deleted in {repo}: `{back}` brings it back, or use another --tag.")


def check_not_of_several_loops(name: str, branches: Iterable[Branch], *, command: str) -> None:
    """Raises UserError, which names the cure in `farm run` or `farm try`, if this branch is only the head of others."""
    loops = [branch for branch in branches if branch.head_branch == name]
    if not loops or any(branch.name == name for branch in loops):
        return
    tag, count = loops[0].tag, counted(len(loops), "loop")
    named = ", ".join(sorted(short_name(branch.name) for branch in loops))
    cure = f"add --loops {len(loops)}" if command == "run" else "farm try needs a branch of its own: use another --tag"
    raise UserError(f"{name} is the head of tag {tag}, which has {count} ({named}): {cure}.")


def _unknown_branch(name: str) -> UserError:
    return UserError(f"The branch {name} exists, but this home has no record of it: use another --tag.")


def source_tree_lines(options: FarmOptions) -> list[str]:
    """What a new branch starts from where git can't commit in the user's folder. A job's folder is what was sent to it."""
    tree = options.source_tree
    if tree is None or inside_job():
        return []
    working = train_py_to_try(tree)
    if working != committed_train_py(options.repo).replace("\r\n", "\n"):
        return [] if options.dirty else [LEFT_OUT.format(file=tree / TRAIN_FILE)]
    if committed_around(tree) is not None:
        return []
    return [
        f"{tree} is not in a git repository: the branch starts from its {TRAIN_FILE} as it is now, edits included; to tell "
        f"them apart, run `{START_GIT}` there before you edit it"
    ]


def failed_start(store: Store, branch: str) -> str | None:
    """The commit of the branch's last baseline, if it failed; None if a baseline was measured or none is decided yet."""
    if store.baseline(branch) is not None or store.unfinished(branch):
        return None
    records = store.records(branch)
    return records[-1].experiment.commit if records else None


def created_at(repo: Path, branch: str) -> str:
    """The commit that a branch was created at; its head if git doesn't know, or the branch has left that commit."""
    positions = positions_of(repo, branch)
    head = run_git(repo, "rev-parse", branch_ref(branch)).strip()
    return positions[-1] if positions and is_ancestor(repo, positions[-1], head) else head


def committed_train_py(repo: Path) -> str:
    """The checkout's committed train.py. Raises UserError if there is none."""
    text = head_train_py(repo)
    if text is None:
        raise UserError(f"{TRAIN_FILE} isn't committed in {repo}: commit it first.")
    return text


def fitted_edit(plan: LoopPlan, committed: str, working: str, *, recipe: Recipe | None) -> str:
    """An edit of the committed train.py as the same edit of the one with the profile's starting hyperparameters."""
    fitted, _ = fit_to_profile(working, plan.contract.profile, free_memory(plan), recipe=recipe)
    edited = {} if problem_with(working) else changed_constants(committed, working)
    edits = {constant: new for constant, (_, new) in edited.items() if new is not None}
    return write_constants(fitted, edits) if edits else fitted


def free_memory(plan: LoopPlan) -> int | None:
    """Bytes of GPU memory that the device batch must fit into; None on a device without a GPU."""
    return plan.device.free_bytes if plan.device.kind == "cuda" else None


def _new_branch(plan: LoopPlan, options: FarmOptions, *, baseline_commit: str, group: str) -> Branch:
    return Branch(
        name=plan.branch_name,
        tag=options.tag,
        loop=plan.number,
        profile=plan.contract.profile,
        contract_json=plan.contract.to_json(),
        score_fingerprint=plan.data.score_fingerprint(plan.contract),
        data_fingerprint=plan.data.data_fingerprint,
        platform=platform_identity(plan.device),
        baseline_commit=baseline_commit,
        created=utc_now(),
        group=group,
        rule=options.rule,
    )
