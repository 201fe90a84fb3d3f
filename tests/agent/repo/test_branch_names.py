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


@pytest.mark.parametrize("name", ["", "-x", "a/b", "a b", "a..b", "a.lock", "x.", ".x", "ü", "a\nb", "a" * 101])
def test_a_name_that_git_or_a_folder_cannot_have_is_refused(name: str) -> None:
    check_name("mar5-gpu0.2_x", "tag")
    with pytest.raises(UserError, match="tag"):
        check_name(name, "tag")
