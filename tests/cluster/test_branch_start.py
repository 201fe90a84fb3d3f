"""Where a branch in the user's checkout begins; each worktree is a farm of its own."""

import shutil

from cluster.branch_start import created_at
from cluster.home import find_home
from tests.cluster.test_by_hand import commit_train_py
from tests.cluster.tiny_checkout import Checkout

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


def test_each_worktree_has_a_home_of_its_own(checkout: Checkout) -> None:
    """So that researchers on several GPUs run `farm try` at the same time, each in its own."""
    beside = checkout.folder.parent / "one-gpu1"
    checkout.git("worktree", "add", "--quiet", "-b", f"{BRANCH}-gpu1", str(beside))
    assert find_home(start=beside).folder == beside / "results" / "data"
    assert find_home(start=checkout.folder).folder == checkout.home
