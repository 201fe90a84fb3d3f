"""`farm try` in a user's own checkout: which branch it uses, what it says, and that no edit is lost."""

import asyncio
import os
import re
import signal
import subprocess
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from agent.adoption import was_ever_committed
from agent.repo.git_command import run_git
from agent.shared_research import is_still_wanted
from cluster.by_hand import (
    cut_off_try,
    earlier_try,
    give_back,
    is_anything_requested,
    leave_results,
    note_try,
    proposal_by_hand,
    run_what_is_requested,
    tell_that_words_have_no_edit,
)
from cluster.home import Home
from cluster.local_api import connect
from cluster.person_requests import Ask
from cluster.person_requests import record as record_request
from research.errors import UserError
from research.result import RunResult, RunSpec
from tests.agent.samples import TRAIN_PY
from tests.agent.test_loop import make_loop, result  # noqa: F401 - a fixture
from tests.cluster.tiny_checkout import BAD_LR, GOOD_LR, Checkout, decision_of

TERMS = ("--devices", "cpu", "--budget", "1")


@pytest.fixture
def checkout(quick_checkout: Checkout) -> Checkout:
    return quick_checkout


def branch(checkout: Checkout) -> str:
    return checkout.git("branch", "--show-current").strip()


def after(marker: str, output: str) -> str:
    """The rest of the line that holds `marker`."""
    assert marker in output, output
    return output.split(marker)[1].splitlines()[0]


def type_in(checkout: Checkout, command: str) -> None:
    subprocess.run(command, shell=True, cwd=checkout.folder, check=True, capture_output=True)


def test_what_it_prints_leads_back(checkout: Checkout) -> None:
    """To the branch from before, and to an edit that was not kept; with a tag, and then without one."""
    checkout.edit("LR = 0.000001", f"LR = {BAD_LR}")
    edited = checkout.train_py.read_text()
    output = checkout.farm("try", "--tag", "one", *TERMS)
    assert "discard" in output and branch(checkout) == "autoresearch/one"
    assert checkout.train_py.read_text() != edited
    type_in(checkout, after("to restore your edit: ", output))
    assert checkout.train_py.read_text() == edited
    type_in(checkout, "git checkout HEAD -- research/train.py")
    type_in(checkout, after("back with: ", output))
    assert branch(checkout) == "main"

    checkout.git("switch", "--quiet", "autoresearch/one")
    checkout.edit("LR = 0.000001", f"LR = {GOOD_LR}")
    output = checkout.farm("try", *TERMS)
    assert decision_of(output) in ("keep", "discard") and "back with" not in output
    assert checkout.rows("SELECT DISTINCT branch FROM history") == [["autoresearch/one"]]


def test_a_tag_that_is_asked_for_counts_more_than_the_branch_checked_out(checkout: Checkout) -> None:
    checkout.git("switch", "--quiet", "--create", "autoresearch/one")
    output = checkout.farm("try", "--tag", "two", *TERMS)
    assert "keep" in output and "tag two starts from autoresearch/one" in output
    assert branch(checkout) == "autoresearch/two"
    assert checkout.rows("SELECT DISTINCT branch FROM history") == [["autoresearch/two"]]

    logged = (checkout.home / "logs/farm.log.jsonl").read_text()
    refused = checkout.farm("try", "--tag", "one", *TERMS, status=2)
    assert "git switch autoresearch/one" in refused and len(refused.splitlines()) == 1
    assert logged == (checkout.home / "logs/farm.log.jsonl").read_text(), "what was refused is no way to resume"
    assert "'a..b'" in checkout.farm("try", "--tag", "a..b", *TERMS, status=2)
    checkout.git("worktree", "add", "--quiet", "elsewhere", "autoresearch/one")
    assert f"is checked out in {checkout.folder / 'elsewhere'}" in checkout.farm("try", "--tag", "one", *TERMS, status=2)
    assert branch(checkout) == "autoresearch/two"


def test_a_try_that_was_cut_off_is_finished_and_not_made_twice(checkout: Checkout) -> None:
    """Also where it is kept then, so that the edit is the head's."""
    assert "keep" in checkout.farm("try", "--tag", "one", *TERMS)
    checkout.edit("LR = 0.000001", f"LR = {GOOD_LR}")
    cut_off_while_training(checkout, "one-0001")
    output = checkout.farm("try", *TERMS)
    assert "resuming one-0001" in output and decision_of(output) == "keep"

    checkout.edit(f"LR = {GOOD_LR}", f"LR = {BAD_LR}")
    cut_off_while_training(checkout, "one-0002")
    assert " restore " not in checkout.farm("status"), "the edit is there"
    checkout.edit(f"LR = {BAD_LR}", "LR = 0.5")
    checkout.git("switch", "--quiet", "--create", "elsewhere")
    told = after("interrupted: one-0002", checkout.farm("status"))
    assert "one-0002" in after("That begins", checkout.farm("drop", "one-0001")), "the try that it needs would be refused"
    assert checkout.farm("drop", "one-0001", "--undo")
    for command in re.findall("`(git .*?)`", told):
        type_in(checkout, command)
    assert branch(checkout) == "autoresearch/one" and f"LR = {BAD_LR}" in checkout.train_py.read_text()
    output = checkout.farm("try", *TERMS)
    assert "resuming one-0002" in output and decision_of(output) == "discard"
    assert f"LR = {GOOD_LR}" in checkout.train_py.read_text()

    rows = checkout.rows("SELECT number, count(*) FROM history WHERE number > 0 GROUP BY number ORDER BY number")
    assert rows == [[1, 1], [2, 1]], "what was decided on the first may have changed by the second, on a busy machine"
    mix_with_a_commit(checkout)


def mix_with_a_commit(checkout: Checkout) -> None:
    """A commit of the user's with a row of theirs in results.tsv, and then an edit: the next try records both, and keeps the
    row; an --again is not forgotten without a word.
    """
    checkout.edit(f"LR = {GOOD_LR}", "LR = 0.02")
    checkout.git("commit", "--quiet", "--message", "by hand", "research/train.py")
    table = checkout.folder / "results.tsv"
    own = "\t".join((checkout.git("rev-parse", "--short=7", "HEAD").strip(), "1.234567", "0.1", "keep", "by hand"))
    table.write_text(table.read_text() + own + "\n")
    output = checkout.farm("try", "--again", *TERMS)
    assert "--again" in after("one-0003 (by hand) had waited", output) and "LR = 0.02" in checkout.train_py.read_text()
    assert checkout.rows("SELECT runs FROM history WHERE id = 'one-0003'") == [[1]]
    assert "by hand" in checkout.farm("status", "one") and own in table.read_text()


def cut_off_while_training(checkout: Checkout, experiment_id: str) -> None:
    """Starts a try, and presses Ctrl-C as soon as it trains; until then it answers other commands, as `farm run` does."""
    edited = checkout.train_py.read_text()
    farm = checkout.start("try", *TERMS)
    log = checkout.home / "runs" / f"{experiment_id}-1" / "run.log"
    deadline = time.monotonic() + 60
    while not (log.exists() and "step" in log.read_text()):
        assert time.monotonic() < deadline and farm.poll() is None
        time.sleep(0.05)
    client = connect(Home(checkout.home))
    assert client is not None and client.status()["tag"] == "one"
    os.killpg(farm.pid, signal.SIGINT)
    output, _ = farm.communicate(timeout=30)
    assert farm.returncode == 130, output
    assert checkout.train_py.read_text() == edited


BROKEN = "def build_model(:"


def commit_train_py(checkout: Checkout, old: str, new: str) -> None:
    checkout.edit(old, new)
    checkout.git("commit", "--quiet", "--all", "--message", "an edit of my own")


def test_a_first_commit_that_fails_can_be_mended_by_hand(checkout: Checkout) -> None:
    """The error is one line, which says what to do; the same tag and another one both go on from what is committed then."""
    commit_train_py(checkout, "def build_model():", BROKEN)
    failed = checkout.farm("try", "--tag", "one", *TERMS, status=2).splitlines()[-1]
    assert "research/train.py" in failed and "line 19" in failed and "commit it" in failed
    assert branch(checkout) == "main", "it is refused before anything is started"
    checkout.edit(BROKEN, "def build_model():")
    failed = checkout.farm("try", "--tag", "one", *TERMS, status=2).splitlines()[-1]
    assert "research/train.py" in failed and "line 19" in failed and "commit it" in failed

    checkout.git("commit", "--quiet", "--all", "--message", "mended")
    checkout.edit("LR = 0.000001", f"LR = {GOOD_LR}")
    assert "baseline failed (" in checkout.farm("status") and "farm show one-0000" in checkout.farm("status")
    said = checkout.farm("try", *TERMS)
    assert decision_of(said) == "keep" and "1 commit of yours" in said and "mended" in said
    assert "-LR = 0.000001" in checkout.farm("diff") and BROKEN not in checkout.farm("diff")
    assert decision_of(checkout.farm("try", "--tag", "two", *TERMS)) == "keep"
    rows = checkout.rows("SELECT id, decision FROM history ORDER BY id")
    expected = {"one-0000": "crash", "one-0001": "keep", "one-0002": "keep", "two-0000": "keep"}
    assert dict(rows) == expected


def test_what_was_tried_or_changes_no_code_is_refused_in_one_line(make_loop) -> None:  # noqa: F811
    """With the earlier result and the way to run it all the same."""
    deep = TRAIN_PY.replace("DEPTH = 2", "DEPTH = 3")

    async def tries() -> None:
        loop = make_loop(lambda experiment, spec: result(spec, 1.5))
        await loop.start()
        assert earlier_try(loop, deep, TRAIN_PY, again=False) is None
        first = await loop.try_now(proposal_by_hand(TRAIN_PY, deep, None))
        for text, facts in (
            (deep.replace("# layers", "# more layers"), ("mar8-0001", "discard", "1.5", "--again")),
            (TRAIN_PY.replace("# layers", ""), ("comments", "--again")),
            (TRAIN_PY, ("no edit to try",)),
        ):
            with pytest.raises(UserError) as refused:
                earlier_try(loop, text, TRAIN_PY, again=False)
            assert all(fact in str(refused.value) for fact in facts) and "\n" not in str(refused.value)
        (path := loop.worktree.folder / "research" / "train.py").write_text(noted := deep.replace("# layers", "# my note"))
        for tried, left in ((None, noted), (noted, TRAIN_PY)):  # what is on no record stays
            give_back(SimpleNamespace(source_tree=None), loop, first, tried)
            assert path.read_text() == left
        assert first.verdict is not None
        waits = replace(first, verdict=replace(first.verdict, decision="keep"))  # and the head is another
        path.write_text(deep)
        give_back(SimpleNamespace(source_tree=None), loop, waits, deep)
        assert path.read_text() == TRAIN_PY, "else the next edit would be tried together with this one"
        again = earlier_try(loop, deep, TRAIN_PY, again=True)
        assert again is not None and again.experiment.id == first.experiment.id
        baseline = earlier_try(loop, TRAIN_PY, TRAIN_PY, again=True)
        assert baseline is not None
        baseline = await loop.try_again(baseline, proposal_by_hand(TRAIN_PY, TRAIN_PY, None))
        assert (baseline.experiment.number, len(baseline.runs)) == (0, 3)

    asyncio.run(tries())


def test_a_try_that_is_cut_off_after_its_verdict_is_not_made_again(make_loop) -> None:  # noqa: F811
    """The same command leaves its results: of an edit that parses or not, kept or not, and of another run of it."""
    better, worse, broken = (TRAIN_PY.replace("DEPTH = 2", new) for new in ("DEPTH = 3", "DEPTH = 4", "DEPTH = = 5"))
    scores = {0: 1.5, 1: 1.0, 2: 1.9}

    def run(number: int, spec: RunSpec) -> RunResult:
        return result(spec, scores[number]) if number in scores else result(spec, None, status="crash")

    async def tries() -> None:
        loop = make_loop(lambda experiment, spec: run(experiment.number, spec))
        await loop.start()
        for text in (better, worse, broken):
            head = loop.worktree.train_py(loop.head().commit)
            record = await loop.try_now(proposal_by_hand(head, text, None))
            assert cut_off_try(loop, text) == record and cut_off_try(loop, text + "# edited since\n") is None
            note_try(loop, record, has_ended=True)
            assert cut_off_try(loop, text) is None
        record = loop.store.record("mar8-0002")
        note_try(loop, record, has_ended=False)
        assert cut_off_try(loop, worse) is None  # it was cut off before it had another run
        again = await loop.try_again(record, proposal_by_hand(TRAIN_PY, worse, None))
        assert cut_off_try(loop, worse) == again and len(again.runs) == len(record.runs) + 1
        note_try(loop, again, has_ended=True)
        assert cut_off_try(loop, worse) is None

    asyncio.run(tries())


def test_a_commit_by_hand_that_was_dropped_is_no_try_that_was_cut_off(make_loop) -> None:  # noqa: F811
    deep = TRAIN_PY.replace("DEPTH = 2", "DEPTH = 3")

    async def tries() -> None:
        loop = make_loop(lambda experiment, spec: result(spec, 1.5 if experiment.number == 0 else 1.0))
        await loop.start()
        (loop.worktree.folder / "research" / "train.py").write_text(deep)
        run_git(
            loop.worktree.folder,
            "-c",
            "user.name=a",
            "-c",
            "user.email=a@b",
            "commit",
            "--quiet",
            "--all",
            "--message",
            "by hand",
        )
        [adopted] = await loop.adopt()
        assert cut_off_try(loop, deep) is None
        record_request(loop.store, Ask(what="drop", group=loop.shared.group, idea=adopted.experiment.id))
        assert cut_off_try(loop, deep) is None and was_ever_committed(loop.shared.state(), adopted.experiment)
        await run_what_is_requested(loop)
        assert cut_off_try(loop, deep) is None

    asyncio.run(tries())


def test_a_merge_that_was_cut_off_is_not_run_once_the_drop_is_undone(make_loop) -> None:  # noqa: F811
    async def tries() -> None:
        loop = make_loop(lambda experiment, spec: result(spec, 1.5 if experiment.number == 0 else 1.0))
        await loop.start()
        kept = await loop.try_now(proposal_by_hand(TRAIN_PY, TRAIN_PY.replace("DEPTH = 2", "DEPTH = 3"), None))
        drop = Ask(what="drop", group=loop.shared.group, idea=kept.experiment.id)
        record_request(loop.store, drop)
        request = loop.shared.last_run()
        assert request is not None and request.kind == "merge"
        merge = loop._new.of_request(request)  # the farm ends before it has run
        assert is_still_wanted(loop.shared, loop.store.record(merge.id))
        record_request(loop.store, replace(drop, what="undo drop"))
        assert await loop.start() == [] and loop.store.record(merge.id).runs == ()
        verdict = loop.store.record(merge.id).verdict
        assert verdict is not None and verdict.decision == "lost" and "no longer wanted" in verdict.reason
        assert loop.head().patches == (kept.experiment.id,) and not is_anything_requested(loop)

    asyncio.run(tries())


def test_without_an_edit_what_a_person_has_dropped_leaves_the_head(make_loop) -> None:  # noqa: F811
    async def tries() -> None:
        loop = make_loop(lambda experiment, spec: result(spec, 1.5 if experiment.number == 0 else 1.0))
        await loop.start()
        kept = await loop.try_now(proposal_by_hand(TRAIN_PY, TRAIN_PY.replace("DEPTH = 2", "DEPTH = 3"), None))
        assert loop.head().patches == (kept.experiment.id,) and not is_anything_requested(loop)
        record_request(loop.store, Ask(what="drop", group=loop.shared.group, idea=kept.experiment.id))
        assert is_anything_requested(loop)
        merge = await run_what_is_requested(loop)
        assert merge is not None and merge.experiment.kind == "merge"
        said: list[str] = []
        farm = SimpleNamespace(display=SimpleNamespace(say=said.append))
        for words in ("my words", None):
            tell_that_words_have_no_edit(farm, merge, words)
        assert len(said) == 1 and "-m 'my words' left aside" in said[0] and merge.experiment.id in said[0]
        assert loop.head().patches == () and not is_anything_requested(loop)
        assert loop.worktree.train_py(loop.worktree.head()) == TRAIN_PY

    asyncio.run(tries())


def test_a_foreign_file_beside_a_train_py_that_git_cant_commit_is_moved_aside_and_named(make_loop, tmp_path) -> None:  # noqa: F811
    tree, told = tmp_path / "zip", []
    (tree / "research").mkdir(parents=True)
    (tree / "research" / "train.py").write_text(TRAIN_PY)
    (tree / "results.tsv").write_text("my notes\n")

    async def tries() -> None:
        loop = make_loop(lambda experiment, spec: result(spec, 1.5))
        loop.observer.on_event = lambda kind, **fields: told.append((kind, fields["file"]))
        await loop.start()
        give_back(SimpleNamespace(source_tree=tree), loop, loop.store.record("mar8-0000"), TRAIN_PY)

    asyncio.run(tries())
    assert told == [("moved_aside", str(tree / "results.tsv.1"))]
    assert (tree / "results.tsv.1").read_text() == "my notes\n" and "baseline" in (tree / "results.tsv").read_text()


def test_what_cannot_be_written_after_a_try_is_one_line(make_loop, tmp_path) -> None:  # noqa: F811
    """A folder stands for a file that the system refuses to write: the experiment is on record, and the command goes on."""
    said: list[str] = []
    (tmp_path / "tree" / "run.log").mkdir(parents=True)
    options = SimpleNamespace(source_tree=tmp_path / "tree", repo=tmp_path)
    farm = SimpleNamespace(options=options, home=Home(tmp_path / "home"), display=SimpleNamespace(say=said.append))

    async def tries() -> None:
        loop = make_loop(lambda experiment, spec: result(spec, 1.5))
        await loop.start()
        record = loop.store.record("mar8-0000")
        log = farm.home.runs / record.runs[-1].run_id / "run.log"
        log.parent.mkdir(parents=True)
        log.touch()
        leave_results(farm, loop, record, TRAIN_PY)

    asyncio.run(tries())
    assert len(said) == 1 and str(tmp_path / "tree" / "run.log") in said[0]
    assert (tmp_path / "tree" / "results.tsv").is_file()
