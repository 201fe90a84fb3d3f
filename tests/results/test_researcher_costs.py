"""Every answer's cost counts once, in the report, in SQL and for the limit."""

from pathlib import Path

import pytest

from results.experiment import Usage
from results.history import read_history
from results.report import morning_report
from results.researcher_costs import spent_text, total
from results.store import Store
from tests.results.new_home import with_tables
from tests.results.result_samples import make_branch, make_experiment

OTHER = "autoresearch/mar8-gpu1"
ANSWER = Usage(model="m", input_tokens=10, output_tokens=5, cost_usd=0.5, answers=1)


@pytest.fixture
def spent(tmp_path: Path) -> Path:
    """A home whose tag cost $4: an experiment of an earlier version, one with its answers, a failure, and another loop."""
    with Store.open(with_tables(tmp_path)) as store:
        store.add_branch(make_branch())
        store.add_branch(make_branch(OTHER, tag="mar8", loop=1))
        store.add_branch(make_branch("autoresearch/mar9"))
        store.add_experiment(make_experiment(0))
        store.add_experiment(make_experiment(1, usage=Usage(model="m", input_tokens=100, cost_usd=1.0)))
        store.add_event("proposal_dropped", {"branch": make_branch().name, "title": "old", "cost_usd": 0.25})
        store.add_answer(make_branch().name, ANSWER)
        store.add_answer(make_branch().name, ANSWER)
        store.add_experiment(make_experiment(2, usage=total([ANSWER, ANSWER])))
        store.add_answer(make_branch().name, Usage(model="m", input_tokens=9, cost_usd=0.75, estimated=True, answers=1))
        store.add_event("proposal_failed", {"branch": make_branch().name, "reason": "declined", "usage": {"cost_usd": 0.75}})
        store.add_answer(OTHER, Usage(model="m", cost_usd=1.0, answers=1))
        store.add_answer("autoresearch/mar9", Usage(model="m", cost_usd=64.0, answers=1))
        store.add_answer(make_branch().name, Usage(model="unheard of", input_tokens=7, answers=1))
    return tmp_path


def test_limit_sql_and_report_have_one_sum(spent: Path) -> None:
    (spent / "farm.duckdb").unlink()
    with Store.open(with_tables(spent)) as store:
        assert store.spent_usd("mar8") == 4.0 and store.spent_usd("mar9") == 64.0 and store.spent_usd("none") == 0.0
        rows = store.query("SELECT branch, sum(cost_usd), sum(tokens), bool_or(estimated) FROM costs GROUP BY 1").rows
    histories = read_history(spent / "journal.jsonl")
    sums = {history.branch.name: total(history.costs) for history in histories}
    assert {name: (cost, tokens, estimated) for name, cost, tokens, estimated in rows} == {
        name: (usage.cost_usd, usage.tokens, usage.estimated) for name, usage in sums.items()
    }
    assert sums[make_branch().name].cost_usd == 3.0


def test_the_report_says_what_came_to_nothing(spent: Path) -> None:
    history = next(h for h in read_history(spent / "journal.jsonl") if h.branch == make_branch())
    text = morning_report([history])
    assert "about $3.00, 146 tokens ($1.00 of it for proposals that were not tried)" in text


def test_who_was_asked_and_where_the_cost_is_from_can_be_asked_for(tmp_path: Path) -> None:
    told = Usage(researcher="codex", model="m", input_tokens=5, cost_basis="missing", answers=1)
    with Store.open(with_tables(tmp_path)) as store:
        store.add_branch(make_branch())
        store.add_answer(make_branch().name, told)
        store.add_answer(make_branch().name, ANSWER)
        rows = store.query("SELECT researcher, cost_basis, tokens FROM costs").rows
        (history,) = read_history(tmp_path / "journal.jsonl")
    assert [tuple(row) for row in rows] == [("codex", "missing", 5), (None, None, 15)]
    assert "at least $0.50" in morning_report([history])


def test_a_sum_is_as_certain_as_its_least_certain_part() -> None:
    reported, listed = (Usage(cost_usd=1.0, cost_basis=basis) for basis in ("native-reported", "list-price-estimate"))
    unknown = Usage(cost_basis="missing")
    assert total([reported]).cost_basis == "native-reported" and total([Usage(), Usage()]).cost_basis == ""
    assert total([reported, listed]).cost_basis == "list-price-estimate"
    assert total([reported, unknown, listed]).cost_basis == "missing" and total([reported, unknown]).cost_usd == 1.0


def test_the_limit_in_words() -> None:
    assert spent_text(7.2345, 2, "mar8").startswith("$7.23 of $2 spent already")
    assert "mar8" in spent_text(7.2345, 2, "mar8") and "--max-cost" in spent_text(7.2345, 2, "mar8")
