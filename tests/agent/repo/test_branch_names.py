from pathlib import Path

import pytest

from agent.repo.branch_names import (
    BRANCH_REFS,
    EXPERIMENT_REFS,
    branch_name,
    branch_of_ref,
    branch_ref,
    check_name,
    experiment_id,
    experiment_ref,
    full_name,
    is_farm_branch,
    short_name,
    worktree_folder,
)
from research.errors import UserError


def test_branches_are_named_by_tag_and_loop(tmp_path: Path) -> None:
    assert branch_name("mar5") == "autoresearch/mar5"
    branch = branch_name("mar5", loop="gpu2")
    assert branch == "autoresearch/mar5-gpu2" and is_farm_branch(branch) and not is_farm_branch("main")
    assert short_name(branch) == "mar5-gpu2"
    assert full_name("mar5-gpu2") == branch == full_name(branch)
    assert worktree_folder(tmp_path, branch) == tmp_path / "worktrees" / "mar5-gpu2"


def test_refs_lie_in_the_folders_that_a_bundle_carries() -> None:
    ref = branch_ref(branch_name("mar5"))
    assert ref == "refs/heads/autoresearch/mar5" and ref.startswith(f"{BRANCH_REFS}/")
    assert branch_of_ref(ref) == "autoresearch/mar5"
    assert experiment_id(branch_name("mar5"), 7) == "mar5-0007"
    assert experiment_ref("mar5-0007") == "refs/experiments/mar5-0007" == f"{EXPERIMENT_REFS}/mar5-0007"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "empty"),
        ("-x", "begins with '-'"),
        (".x", "begins with '.'"),
        ("a/b", "it has '/'"),
        ("a b", "it has ' '"),
        ("a\nb", r"it has '\n'"),
        ("\u00e9t\u00e9", "it has '\u00e9'"),
        ("a..b", "two dots"),
        ("x.", "ends in a dot"),
        ("x.lock", "ends in .lock"),
        ("a" * 101, "it has 101 characters"),
        ("HEAD", "git has a meaning"),
        ("head", "git has a meaning"),
        ("FETCH_HEAD", "git has a meaning"),
    ],
)
def test_a_name_that_git_or_a_folder_cannot_have_is_refused_with_the_reason(name: str, why: str) -> None:
    for good in ("mar5-gpu0.2_x", "a" * 100, "overhead", "HEAD-2"):
        check_name(good, "tag")
    with pytest.raises(UserError, match="tag") as refused:
        check_name(name, "tag")
    assert why in str(refused.value) and len(str(refused.value)) < 250 and "\n" not in str(refused.value)
