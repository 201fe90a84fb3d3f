"""The SQL console: one SELECT in the address, its result, saved queries, and the schema beside them."""

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cluster.dashboard.reader import Row
from cluster.dashboard.site import Site
from research.errors import UserError
from results.query import Table

SHOWN_ROWS = 1_000

LONGEST_QUERY = 20_000

SAVED: Mapping[str, str] = {
    "What is kept, best first": "SELECT rank, id, title, val_bpb, effect, helps\nFROM leaderboard\nLIMIT 20",
    "What nearly worked": "SELECT id, title, effect, low, high, helps\nFROM near_misses\nLIMIT 20",
    "Which constants were changed, and what came of it": (
        "SELECT name, old, new, decision, effect, id\nFROM changes JOIN history ON id = experiment_id\n"
        "ORDER BY name, effect DESC"
    ),
    "Why runs fail": (
        "SELECT status, reason, count(*) AS runs\nFROM runs\nWHERE status NOT IN ('ok', 'lost')\n"
        "GROUP BY ALL\nORDER BY runs DESC\nLIMIT 20"
    ),
    "Who finds what": (
        "SELECT researcher, count(*) AS ideas, count(*) FILTER (decision = 'keep') AS kept, sum(cost_usd) AS cost_usd\n"
        "FROM history\nWHERE kind IN ('explore', 'manual')\nGROUP BY researcher\nORDER BY kept DESC"
    ),
    "Where the devices' time goes": (
        "SELECT device, sum(training_seconds) / sum(total_seconds) AS training,\n"
        "       sum(startup_seconds) / sum(total_seconds) AS startup, sum(scoring_seconds) / sum(total_seconds) AS scoring\n"
        "FROM runs\nGROUP BY device"
    ),
    "What changed its mind": (
        "SELECT experiment_id, title, before, decision, reason, created\nFROM decisions\nWHERE before <> decision\n"
        "ORDER BY created DESC\nLIMIT 20"
    ),
}
"""Queries to begin with, by what they answer."""

TABLES = """
SELECT table_name AS name, comment, true AS is_table FROM duckdb_tables() WHERE NOT internal AND table_name <> 'schema_version'
UNION ALL SELECT view_name, comment, false FROM duckdb_views() WHERE NOT internal
ORDER BY is_table, name
"""

COLUMNS = """
SELECT table_name AS "table", column_name AS name, data_type AS type, comment FROM duckdb_columns()
WHERE NOT internal ORDER BY column_index
"""

LINKED = ("id", "experiment_id", "experiment")
"""Columns whose values are ids of experiments, where there is one."""


def console_routes(site: Site) -> list[Route]:
    """The page."""

    def page(request: Request) -> Response:
        query = request.query_params.get("q", "")[:LONGEST_QUERY]
        table, problem = answer(site, query)
        return site.page(
            request, "sql.html", title="SQL", query=query, table=table, problem=problem, saved=SAVED, schema=schema(site),
            numeric=numeric(table), linked=LINKED, records=site.snapshot().records,
        )  # fmt: skip

    return [Route("/sql", page)]


def answer(site: Site, query: str) -> tuple[Table | None, str]:
    """The result of a query, and why there is none; neither for an empty one."""
    if not query.strip():
        return None, ""
    try:
        return site.reader.table(query, max_rows=SHOWN_ROWS), ""
    except UserError as error:
        return None, str(error)


def numeric(table: Table | None) -> list[bool]:
    """Whether each column holds numbers alone, which are aligned on their right."""
    if table is None:
        return []
    return [all(isinstance(row[at], int | float | None) for row in table.rows) for at in range(len(table.columns))]


def schema(site: Site) -> list[tuple[Row, list[Row]]]:
    """The views and tables with their columns, the views first: they are made for people."""
    columns: dict[str, list[Row]] = {}
    for row in site.reader.rows(COLUMNS):
        columns.setdefault(row["table"], []).append(row)
    tables: list[Any] = site.reader.rows(TABLES)
    tables.sort(key=lambda row: (row["name"] != "history", row["is_table"], row["name"]))
    return [(row, columns.get(row["name"], [])) for row in tables]
