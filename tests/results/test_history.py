"""The journal read as records, and experiments and branches found by what people call them."""

from pathlib import Path

import pytest

from research.errors import UserError
from results.experiment import ExperimentRecord, Head, Verdict
from results.group_entries import GAIN, HEAD, RULING, Ruled
from results.group_state import estimates
from results.groups import head_event, ruling_event
from results.head_gain import ExpectedGain, gain_event
from results.history import BranchHistory, HistoryFollower, branch_named, experiment_named, read_history
from results.store import Store
from tests.results.history_samples import history_of
from tests.results.new_home import with_tables
from tests.results.result_samples import add, make_branch, make_experiment, make_run


@pytest.fixture
def histories(store: Store) -> list[BranchHistory]:
    """Two finished experiments and one that runs on the first branch; a newer branch with a baseline of another tag."""
    add(store, 0, "keep", 0.99)
    add(store, 1, "discard", 0.995)
    store.add_experiment(make_experiment(2))
    later = make_experiment(0, branch="autoresearch/mar9", commit="f" * 40, created="2026-03-09T20:00:00Z")
    store.add_branch(make_branch("autoresearch/mar9", created="2026-03-09T19:00:00Z"))
    store.add_experiment(later)
    store.add_run(later.id, make_run("later", 0.97))
    store.add_verdict(later.id, Verdict(decision="keep", reason="baseline"))
    return read_history(store.journal.path)


def test_records_are_the_stores(store: Store, histories: list[BranchHistory]) -> None:
    for history in histories:
        of_store = store.records(history.branch.name)
        assert [(r.experiment, r.verdict) for r in history.records] == [(r.experiment, r.verdict) for r in of_store]
        assert [[run.run_id for run in r.runs] for r in history.records] == [[run.run_id for run in r.runs] for r in of_store]


def test_the_newest_branch_is_last_and_its_last_keep_the_head(histories: list[BranchHistory]) -> None:
    assert [history.branch.tag for history in histories] == ["mar8", "mar9"]
    assert [history.head.experiment.id for history in histories if history.head] == ["mar8-0000", "mar9-0000"]


def test_the_latest_verdict_counts(store: Store) -> None:
    add(store, 0, "keep", 0.99)
    store.add_run("mar8-0000", make_run("again", 0.98))
    store.add_verdict("mar8-0000", Verdict(decision="discard", reason="not again"))
    [history] = read_history(store.journal.path)
    assert history.keeps == [] and history.head is None
    assert [one.verdict.decision for one in history.group.decisions["mar8-0000"]] == ["keep", "discard"]


def test_without_a_journal_there_is_no_history(tmp_path: Path) -> None:
    assert read_history(tmp_path / "journal.jsonl") == []


@pytest.mark.parametrize(
    ("name", "id"),
    [
        ("mar8-0001", "mar8-0001"),
        ("0001ccc", "mar8-0001"),
        ("fffff", "mar9-0000"),
        ("0", "mar9-0000"),  # on the newest branch
        ("mar9", "mar9-0000"),
    ],
)
def test_an_experiment_is_found_by_id_commit_or_number(histories: list[BranchHistory], name: str, id: str) -> None:
    assert experiment_named(histories, name).experiment.id == id


def test_ids_that_an_ambiguous_name_leaves_out_are_counted() -> None:
    many = [ExperimentRecord(experiment=make_experiment(number)) for number in range(1, 9)]
    with pytest.raises(UserError, match=r"any of 8 experiments .*mar8-0005 and 3 more"):
        experiment_named([history_of(many)], "mar8")


@pytest.mark.parametrize(
    ("name", "words"),
    [("mar8-00", "could be any of 3"), ("nosuch", "farm sql --home x 'SELECT"), ("", "No experiment"), ("1", "No experiment")],
)
def test_what_is_not_found_or_ambiguous_is_said(histories: list[BranchHistory], name: str, words: str) -> None:
    with pytest.raises(UserError) as refused:
        experiment_named(histories, name, ask="farm sql --home x")
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("name", "found"),
    [(None, "autoresearch/mar9"), ("mar8", "autoresearch/mar8"), ("autoresearch/mar8", "autoresearch/mar8")],
)
def test_a_branch_is_found_by_name_or_tag(histories: list[BranchHistory], name: str | None, found: str) -> None:
    assert branch_named(histories, name).branch.name == found


def test_of_a_tags_loops_the_best_comparable_one_is_found(store: Store) -> None:
    for loop, (val_bpb, platform) in enumerate([(0.98, "one"), (0.97, "one"), (0.5, "other"), (0.99, "one")]):
        name = f"autoresearch/night-gpu{loop}"
        created = f"2026-03-1{loop}T20:00:00Z"
        store.add_branch(make_branch(name, tag="night", loop=loop, platform=platform, created=created))
        experiment = make_experiment(0, branch=name, created=created)
        store.add_experiment(experiment)
        store.add_run(experiment.id, make_run(experiment.id, val_bpb))
        store.add_verdict(experiment.id, Verdict(decision="keep", reason="baseline"))
    histories = read_history(store.journal.path)
    assert branch_named(histories, "night").branch.loop == 1
    assert branch_named(histories, "night-gpu0").branch.loop == 0
    with pytest.raises(UserError, match=r"night \(night-gpu0, night-gpu1, night-gpu2, night-gpu3\), mar8"):
        branch_named(histories, "nosuch")


GROUP = "autoresearch/night"


@pytest.fixture
def shared(store: Store) -> list[BranchHistory]:
    """Two branches on one head, which is an idea of the first and, for a moment, was one of the second."""
    for loop, name in enumerate(("autoresearch/night-a", "autoresearch/night-b")):
        created = f"2026-03-1{loop}T20:00:00Z"
        store.add_branch(make_branch(name, tag="night", loop=loop, group=GROUP, created=created))
        for number, (decision, score) in enumerate((("keep", 0.99), ("keep", 0.98 - 0.001 * loop), ("discard", 1.0))):
            slots, commit = (f"{name}{number}",), f"{loop}{number}" * 20
            one = make_experiment(number, branch=name, commit=commit, created=created, slots=slots)
            store.add_experiment(one)
            store.add_run(one.id, make_run(one.id, score, seed=number))
            store.add_verdict(one.id, Verdict(decision=decision, reason="so it is"))  # type: ignore[arg-type]
    for loop, expected in ((1, 0.982), (0, 0.983)):
        head = Head(commit=f"{loop}1" * 20, experiment_id=f"night-{'ab'[loop]}-0001", scores=(), expected=expected)
        store.add_event(HEAD, head_event(GROUP, head, "an idea"))
    store.add_event(RULING, ruling_event(GROUP, Ruled(ruling="bar", patches=("night-b-0001",), reason="a person dropped it")))
    confirmed = make_experiment(9, branch="autoresearch/night-b", kind="confirm", commit="01" * 20)
    store.add_experiment(confirmed)
    store.add_run(confirmed.id, make_run("fresh", 0.5))
    store.add_verdict(confirmed.id, Verdict(decision="keep", reason="whatever it says"))
    return [history for history in read_history(store.journal.path) if history.branch.tag == "night"]


def test_branches_of_a_group_have_one_head_and_the_stores_estimates(store: Store, shared: list[BranchHistory]) -> None:
    """All of it from the journal alone, which can be read while a farm holds the store."""
    group = shared[0].group
    assert all(history.group is group for history in shared)
    assert {history.head.experiment.id for history in shared if history.head} == {"night-a-0001"}
    told = [(head.commit, head.experiment_id, head.expected, head.patches) for head in store.groups.heads(GROUP)]
    assert [(head.commit, head.experiment_id, head.expected, head.patches) for head in group.heads] == told
    assert group.state is not None and estimates(group.state) == estimates(store.groups.state(GROUP))
    assert "night-b-0001" in group.state.farm.barred
    assert [history.baseline.experiment.branch for history in shared if history.baseline] == [h.branch.name for h in shared]


def test_a_confirmation_is_neither_a_keep_nor_a_score_of_the_head(shared: list[BranchHistory]) -> None:
    assert shared[0].group.head is not None and shared[0].group.head.scores == (0.98,)
    assert all(len(history.keeps) == 2 for history in shared)


@pytest.mark.parametrize("name", ["night", GROUP])
def test_of_branches_on_one_head_the_one_that_made_it_is_found(shared: list[BranchHistory], name: str) -> None:
    assert branch_named(shared, name).branch.name == "autoresearch/night-a"


def test_a_recorded_gain_counts_until_more_is_recorded_or_the_head_moves(store: Store, shared: list[BranchHistory]) -> None:
    group, told = shared[0].group, ExpectedGain(baseline=1.0, gain=0.25, low=0.2, high=0.3, sigma=0.01)
    assert group.head is not None and group.gain is not None and group.gain != told
    for commit, records, counts in (("f" * 40, 0, False), (group.head.commit, -1, False), (group.head.commit, 0, True)):
        store.add_event(GAIN, gain_event(GROUP, commit, len(group.entries) + records, told))
        now = next(history.group for history in read_history(store.journal.path) if history.group.name == GROUP)
        assert (now.gain == told) == counts


def test_heads_are_compared_by_what_is_expected_of_them(store: Store) -> None:
    """By now: neither a lucky score wins, nor what was expected when one became the head."""
    for loop, (score, expected) in enumerate(((0.90, 0.97), (0.95, 0.96))):
        name = f"autoresearch/two-{loop}"
        store.add_branch(make_branch(name, tag="two", loop=loop))
        one = make_experiment(0, branch=name)
        store.add_experiment(one)
        store.add_run(one.id, make_run(one.id, score))
        store.add_verdict(one.id, Verdict(decision="keep", reason="baseline"))
        head = Head(commit=one.commit, experiment_id=one.id, scores=(), expected=score)
        store.add_event(HEAD, head_event(name, head, ""))
        gain = ExpectedGain(baseline=1.0, gain=1.0 - expected, low=0.0, high=0.1, sigma=0.01)
        store.add_event(GAIN, gain_event(name, one.commit, 2, gain))
    assert branch_named(read_history(store.journal.path), "two").branch.loop == 1


def test_what_follows_a_journal_knows_what_a_reader_of_all_of_it_knows(tmp_path: Path) -> None:
    follower = HistoryFollower(tmp_path / "journal.jsonl")
    assert follower.histories() == []
    with Store.open(with_tables(tmp_path)) as store:
        store.add_branch(make_branch())
        add(store, 0, "keep", 1.0)
        first = follower.histories()
        assert [len(one.records) for one in first] == [1] and follower.histories() is first
        add(store, 1, "discard", 1.1)
        store.add_verdict("mar8-0001", Verdict(decision="keep", reason="more runs"))
    now = follower.histories()
    (told,) = read_history(tmp_path / "journal.jsonl")
    assert [(one.records, one.costs, one.group.decisions) for one in now] == [(told.records, told.costs, told.group.decisions)]


def test_a_journal_that_is_another_one_by_now_is_read_from_its_beginning(tmp_path: Path) -> None:
    for name, decision in (("one", "keep"), ("other", "discard")):
        with Store.open(with_tables(tmp_path / name)) as store:
            store.add_branch(make_branch())
            add(store, 0, decision, 1.0)
    journal = tmp_path / "one" / "journal.jsonl"
    follower = HistoryFollower(journal)
    assert follower.histories()[0].records[0].outcome == "keep"
    (tmp_path / "other" / "journal.jsonl").replace(journal)
    assert [one.outcome for one in follower.histories()[0].records] == ["discard"]
