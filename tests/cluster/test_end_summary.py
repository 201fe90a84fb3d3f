"""What a farm says when it has ended."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.driver import limit_in_words
from cluster.end_summary import counts_of, summarise, summary_lines
from cluster.status_text import standing, standing_lines
from results.experiment import ExperimentKind, Verdict
from results.group_entries import SUBMISSION, SUBMISSION_ENDED
from results.history import read_history
from results.report import morning_report
from results.store import Store
from results.verdict import abandoned_by_a_person
from tests.results.new_home import with_tables
from tests.results.result_samples import add, make_branch, make_experiment, make_run


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(with_tables(tmp_path / "home")) as opened:
        opened.add_branch(make_branch())
        yield opened


def last_line(store: Store) -> str:
    return summary_lines(summarise(store, [make_branch().name], seconds=60.0, ended="stopped"))[-1]


def test_the_gain_is_the_expected_one_with_its_interval(store: Store) -> None:
    add(store, 0, "keep", 0.99)
    add(store, 1, "keep", 0.989)  # one sigma or two: mostly luck
    found = re.search(r"val_bpb 0.9\d* -> (\S+) expected: gain (\S+) \[(\S+), (\S+)\]", last_line(store))
    assert found is not None, last_line(store)
    head, gain, low, high = map(float, found.groups())
    assert low < gain < high and gain < 0.001 and head > 0.989


def test_ideas_that_are_kept_now_count_once_in_all_texts(store: Store) -> None:
    """Whatever else was kept (baseline, merge), was dropped, or was kept by two loops of one head."""
    shared = make_branch("autoresearch/mar8-b", group=make_branch().name)
    store.add_branch(shared)
    for number in range(3):
        add(store, number, "keep", 0.99 - number / 1000)
    store.add_verdict("mar8-0002", Verdict(decision="discard", reason="dropped: it harms"))
    kinds: dict[int, ExperimentKind] = {1: "explore", 2: "merge"}
    for number, kind in kinds.items():
        again = make_experiment(number, branch=shared.name, kind=kind, commit=str(number) * 40)
        store.add_experiment(again)
        store.add_verdict(again.id, Verdict(decision="keep", reason="kept"))
        store.add_run(again.id, make_run(again.id, 0.98))
    for number in (3, 4):
        store.add_experiment(make_experiment(number))
    store.add_verdict("mar8-0003", abandoned_by_a_person())
    store.add_verdict("mar8-0004", Verdict(decision="lost", reason="the power failed"))
    by_hand = make_experiment(5, kind="manual", commit="5" * 40)
    control = make_experiment(6, kind="control")
    for made in (by_hand, control):
        store.add_experiment(made)
        store.add_verdict(made.id, Verdict(decision="discard", reason="so it is"))
    names = [make_branch().name, shared.name]
    ended = summary_lines(summarise(store, names, seconds=60.0, ended="stopped"))
    assert "4 experiments, 1 kept (in 2 experiments), on" in ended[1]
    assert ended[2].strip() == f"{names[0]}: 3 experiments (1 by hand), 1 baseline, 1 control"
    assert ended[3].strip() == f"{names[1]}: 1 experiment, 1 merge of kept ideas"
    assert counts_of(store, names).words() == "1 kept (in 2 experiments), 2 discarded, 1 lost, 1 abandoned"
    histories = read_history(store.journal.path)
    told = "\n".join(standing_lines(histories))
    assert "the head of 2 branches, with 1 kept idea\n" in told
    assert "mar8: 3 experiments (1 by hand), 1 kept; beside them 1 baseline, 1 control\n" in told
    assert "mar8-b: 1 experiment, 1 kept; beside them 1 merge of kept ideas" in told
    report = morning_report(histories)
    assert "the head of 2 branches, with 1 kept idea\n" in report
    assert (
        "3 experiments (1 by hand): 1 kept, 2 discarded, 0 crashed, 0 invalid; 1 lost by machines and not counted, 1 abandoned"
        in report
    )


def test_the_status_tells_what_was_submitted_and_waits(store: Store) -> None:
    group = make_branch().name
    for number in range(5):
        store.add_event(SUBMISSION, {"branch": group, "id": f"mar8-s{number}", "title": f"try {number}\x1b[31m"})
    store.add_event(SUBMISSION_ENDED, {"branch": group, "id": "mar8-s0", "experiment": "mar8-0001"})
    (history,) = read_history(store.journal.path)
    told = "\n".join(standing_lines([history]))
    assert "4 submissions wait: mar8-s1 (try 1 [31m)" in told and "1 more" in told and "mar8-s0" not in told
    assert list(standing(history)["submissions"]) == ["mar8-s1", "mar8-s2", "mar8-s3", "mar8-s4"]
    for number in range(1, 5):
        store.add_event(SUBMISSION_ENDED, {"branch": group, "id": f"mar8-s{number}", "reason": "it is old"})
    assert "submission" not in "\n".join(standing_lines(read_history(store.journal.path)))


def test_the_reason_of_the_end_agrees_with_what_is_done() -> None:
    assert limit_in_words(6, 6, is_alone=True) == "6 experiments are done" and "1 experiment is" in limit_in_words(
        1, 1, is_alone=True
    )
    resumed = limit_in_words(6, 7, is_alone=True)
    assert resumed.startswith("7 experiments are done") and "limit is 6" in resumed
    assert "6 experiments per branch" in limit_in_words(6, 7, is_alone=False)


def test_a_farm_that_kept_nothing_gained_nothing(store: Store) -> None:
    assert "1 kept" not in last_line(store) and "val_bpb" not in last_line(store)
    add(store, 0, "keep", 0.99)
    add(store, 1, "discard", 0.995)
    assert "the head is still the baseline" in last_line(store)


def test_of_many_branches_some_are_named(store: Store) -> None:
    many = [make_branch().name, *(f"autoresearch/mar8-cpu0-{n}" for n in range(999))]
    lines = summary_lines(summarise(store, many, seconds=60.0, ended="stopped"))
    assert len(lines) < 30 and "984 more" in lines[1] and many[0] in lines[1]
