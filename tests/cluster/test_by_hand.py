"""`farm try` in a user's own checkout: which branch it uses, what it says, and that no edit is lost."""

import subprocess
from pathlib import Path

import pytest
from tiny_checkout import BAD_LR, GOOD_LR, Checkout, make_checkout

TERMS = ("--devices", "cpu", "--budget", "1")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def checkout(tmp_path: Path, cache: Path) -> Checkout:
    return make_checkout(tmp_path / "checkout", cache)


def branch(checkout: Checkout) -> str:
    return checkout.git("branch", "--show-current").strip()


def after(marker: str, output: str) -> str:
    """The rest of the line that holds `marker`."""
    assert marker in output, output
    return output.split(marker)[1].splitlines()[0]


def type_in(checkout: Checkout, command: str) -> None:
    subprocess.run(command, shell=True, cwd=checkout.folder, check=True, capture_output=True)


def test_what_it_prints_leads_back(checkout: Checkout) -> None:
    """To the branch from before; with a tag, and then without one."""
    checkout.edit("LR = 0.000001", f"LR = {BAD_LR}")
    output = checkout.farm("try", "--tag", "one", *TERMS)
    assert "discard" in output and branch(checkout) == "autoresearch/one"
    type_in(checkout, after("back with: ", output))
    assert branch(checkout) == "main"

    checkout.git("switch", "--quiet", "autoresearch/one")
    checkout.edit("LR = 0.000001", f"LR = {GOOD_LR}")
    output = checkout.farm("try", *TERMS)
    assert "keep" in output and "back with" not in output
    assert checkout.rows("SELECT DISTINCT branch FROM history") == [["autoresearch/one"]]


def test_a_tag_that_is_asked_for_counts_more_than_the_branch_checked_out(checkout: Checkout) -> None:
    checkout.git("switch", "--quiet", "--create", "autoresearch/one")
    assert "keep" in checkout.farm("try", "--tag", "two", *TERMS)
    assert branch(checkout) == "autoresearch/two"
    assert checkout.rows("SELECT DISTINCT branch FROM history") == [["autoresearch/two"]]

    refused = checkout.farm("try", "--tag", "one", *TERMS, status=2)
    assert "git switch autoresearch/one" in refused and len(refused.splitlines()) == 1
    assert "git can't start the branch" in checkout.farm("try", "--tag", "a..b", *TERMS, status=2)
    checkout.git("worktree", "add", "--quiet", "elsewhere", "autoresearch/one")
    assert f"is checked out in {checkout.folder / 'elsewhere'}" in checkout.farm("try", "--tag", "one", *TERMS, status=2)
    assert branch(checkout) == "autoresearch/two"
