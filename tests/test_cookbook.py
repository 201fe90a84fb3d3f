"""Every query of the cookbook, and of the other pages, is one that the store answers."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from results.store import Store
from tests.cluster.dashboard.night import record_night
from tests.test_docs import PAGES, ROOT, command_lines

QUERIES = re.findall(r"^```sql( audit)?\n(.*?)^```", (ROOT / "docs" / "cookbook.md").read_text(encoding="utf-8"), re.M | re.S)

MAY_BE_EMPTY = ("before <> decision",)
"""What a query asks for that the recorded night has none of."""


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    folder: Path = tmp_path_factory.mktemp("cookbook")
    record_night(folder)
    with Store.open(folder) as store:
        yield store


@pytest.mark.parametrize(("audit", "query"), QUERIES, ids=[query.splitlines()[0][:60] for _, query in QUERIES])
def test_a_query_of_the_cookbook_is_answered(night: Store, audit: str, query: str) -> None:
    table = night.query(query, audience="person" if audit else "agent")
    assert table.rows or any(words in query for words in MAY_BE_EMPTY)
    assert all(any(row[at] is not None for row in table.rows) for at in range(len(table.columns))) or not table.rows, (
        "a column of NULL"
    )


def test_the_queries_that_pages_show_on_a_command_line_are_answered(night: Store) -> None:
    lines = [shlex.split(line, comments=True) for page in PAGES for line in command_lines(page) if line.startswith("sql ")]
    queries = {word for words in lines for word in words[1:] if re.match(r"(SELECT|FROM|WITH)\s", word)}
    assert len(queries) > 10
    for query in sorted(queries):
        assert night.query(query).columns, query
