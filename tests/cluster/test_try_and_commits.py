"""`farm try` together with what people do by hand: commits, rows of results.tsv, another run, a tree without git."""

import subprocess

import pytest

from results.tsv import HEADER
from tests.cluster.test_by_hand import TERMS, commit_train_py, cut_off_while_training
from tests.cluster.tiny_checkout import BAD_LR, GOOD_LR, Checkout, decision_of

MINE = ["1234567\t1.042310\t11.8\tkeep\tby hand", "", "a note"]


@pytest.fixture
def checkout(quick_checkout: Checkout) -> Checkout:
    return quick_checkout


def test_commits_by_hand_and_tries_are_one_history(checkout: Checkout) -> None:
    """From a branch whose baseline was measured by hand; another run of the head; the table keeps what was in it."""
    table = checkout.folder / "results.tsv"
    table.write_text("\n".join([HEADER, *MINE]) + "\n")
    checkout.git("switch", "--quiet", "--create", "autoresearch/one")
    start = checkout.git("rev-parse", "HEAD").strip()
    commit_train_py(checkout, "LR = 0.000001", f"LR = {GOOD_LR}")
    mine = checkout.git("rev-parse", "HEAD").strip()
    checkout.edit(f"LR = {GOOD_LR}", f"LR = {BAD_LR}")
    output = checkout.farm("try", "-m", "slower", *TERMS)
    assert "1 commit made by hand" in output
    rows = checkout.rows("SELECT number, commit, decision, title FROM history ORDER BY number")
    assert rows[:2] == [[0, start, "keep", "baseline"], [1, mine, "keep", "an edit of my own"]]
    assert rows[2][2:] == ["discard", "slower"] and checkout.git("rev-parse", "HEAD").strip() == mine
    assert f"LR = {GOOD_LR}" in checkout.train_py.read_text()
    lines = table.read_text().splitlines()
    assert lines[:2] == [HEADER, MINE[0]] and lines[-2:] == MINE[1:] and len(lines) == 7

    checkout.edit(f"LR = {GOOD_LR}", f"LR = {GOOD_LR}  # a note of mine")
    (aside,) = [line for line in checkout.farm("try", "--again", "-m", "my words", *TERMS).splitlines() if "aside" in line]
    assert all(fact in aside for fact in ("one-0001", "-m", "comments")) and "a note of mine" in checkout.train_py.read_text()
    assert checkout.rows("SELECT count(DISTINCT seed) FROM runs WHERE experiment_id = 'one-0001'") == [[2]]
    assert checkout.rows("SELECT decision FROM history WHERE number = 1") == [["keep"]]


def test_a_try_that_was_cut_off_can_be_abandoned(checkout: Checkout) -> None:
    assert "keep" in checkout.farm("try", "--tag", "one", *TERMS)
    checkout.edit("LR = 0.000001", f"LR = {BAD_LR}")
    cut_off_while_training(checkout, "one-0001")
    checkout.edit(f"LR = {BAD_LR}", f"LR = {GOOD_LR}")
    edited = checkout.train_py.read_text()
    refused = checkout.farm("try", *TERMS, status=2).splitlines()[-1]
    assert "one-0001" in refused and checkout.train_py.read_text() == edited
    _, abandon, _, restore, _ = refused.split("`")
    checkout.farm("abandon", *abandon.partition(" abandon ")[2].split())
    assert decision_of(checkout.farm("try", *TERMS)) == "keep"
    assert checkout.rows("SELECT experiment_id, decision FROM verdicts ORDER BY 1") == [
        ["one-0000", "keep"],
        ["one-0001", "lost"],
        ["one-0002", "keep"],
    ]
    subprocess.run(restore, shell=True, check=True, cwd=checkout.folder)
    assert f"LR = {BAD_LR}" in checkout.train_py.read_text()


def test_a_folder_of_a_larger_repository_is_tried_where_it_lies(checkout: Checkout) -> None:
    """The baseline is what is committed there; the larger repository gets no branch and no commit."""
    mono = checkout.folder.parent / "mono"
    mono.mkdir()
    for words in (["init", "--quiet"], ["config", "user.name", "T"], ["config", "user.email", "t@localhost"]):
        subprocess.run(["git", *words], cwd=mono, check=True)
    checkout.git("checkout-index", "--all", f"--prefix={mono}/lab/")
    for words in (["add", "."], ["commit", "--quiet", "--message", "all"]):
        subprocess.run(["git", *words], cwd=mono, check=True)
    lab = Checkout(folder=mono / "lab", cache=checkout.cache)
    refs = lab.git("for-each-ref")
    lab.edit("LR = 0.000001", f"LR = {GOOD_LR}")
    edited = lab.train_py.read_text()
    assert decision_of(lab.farm("try", "--tag", "one", *TERMS)) == "keep" and lab.train_py.read_text() == edited
    lab.edit(f"LR = {GOOD_LR}", f"LR = {BAD_LR}")
    worse = lab.train_py.read_text()
    output = lab.farm("try", "--tag", "one", *TERMS)
    assert decision_of(output) == "discard" and lab.train_py.read_text() == edited
    subprocess.run(output.split("to restore your edit: ")[1].splitlines()[0], shell=True, check=True, cwd=lab.folder)
    assert lab.train_py.read_text() == worse
    assert lab.rows("SELECT number, decision FROM history ORDER BY number") == [[0, "keep"], [1, "keep"], [2, "discard"]]
    assert lab.git("for-each-ref") == refs and (lab.folder / "run.log").exists()
    assert (lab.folder / "results.tsv").read_text().count("\n") == 4
