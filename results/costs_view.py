"""The view of what researchers cost: one row per answer of a model."""

import duckdb

from results.table_comments import COSTS_COLUMNS, COSTS_COMMENT

TOKENS = " + ".join(
    f"coalesce(CAST(record ->> '$.{name}' AS BIGINT), 0)"
    for name in ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")
)
"""The SQL expression that sums an event's tokens."""


def m014_costs_by_researcher(connection: duckdb.DuckDBPyConnection) -> None:
    """The view `costs`, by the rule of `results/researcher_costs.py`, with who was asked and where the cost is from."""
    connection.execute(f"""
        CREATE OR REPLACE VIEW costs AS
        WITH paid AS (
            SELECT seq, created, record ->> '$.branch' AS branch, record ->> '$.researcher' AS researcher,
                   record ->> '$.model' AS model, CAST(record ->> '$.cost_usd' AS DOUBLE) AS cost_usd,
                   nullif(record ->> '$.cost_basis', '') AS cost_basis,
                   {TOKENS} AS tokens, coalesce(CAST(record ->> '$.estimated' AS BOOLEAN), false) AS estimated
            FROM events
            WHERE kind = 'answer' OR (kind = 'proposal_dropped' AND record ->> '$.cost_usd' IS NOT NULL)
            UNION ALL
            SELECT seq, created, branch, researcher, model, cost_usd, NULL, tokens, false
            FROM experiments
            WHERE coalesce(CAST(record ->> '$.usage.answers' AS BIGINT), 0) = 0
              AND (cost_usd IS NOT NULL OR tokens IS NOT NULL)
        )
        SELECT p.branch, b.tag, p.created, p.model, p.cost_usd, p.tokens, p.estimated, p.researcher, p.cost_basis
        FROM paid p LEFT JOIN branches b ON b.id = p.branch ORDER BY p.seq
    """)


def m015_costs_of_calls(connection: duckdb.DuckDBPyConnection) -> None:
    """The view `costs` with the tokens by kind, how long each answer took, and the experiment that came of its proposal."""
    kinds = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")
    counted = ", ".join(f"CAST(record ->> '$.{name}' AS BIGINT) AS {name}" for name in kinds)
    connection.execute(f"""
        CREATE OR REPLACE VIEW costs AS
        WITH paid AS (
            SELECT seq, created, record ->> '$.branch' AS branch, record ->> '$.researcher' AS researcher,
                   record ->> '$.model' AS model, CAST(record ->> '$.cost_usd' AS DOUBLE) AS cost_usd,
                   nullif(record ->> '$.cost_basis', '') AS cost_basis, {counted},
                   {TOKENS} AS tokens, coalesce(CAST(record ->> '$.estimated' AS BOOLEAN), false) AS estimated,
                   CAST(record ->> '$.seconds' AS DOUBLE) AS seconds, nullif(record ->> '$.proposal', '') AS proposal,
                   NULL AS own
            FROM events
            WHERE kind = 'answer' OR (kind = 'proposal_dropped' AND record ->> '$.cost_usd' IS NOT NULL)
            UNION ALL
            SELECT seq, created, branch, researcher, model, cost_usd, NULL, NULL, NULL, NULL, NULL, tokens, false, NULL, NULL,
                   id
            FROM experiments
            WHERE coalesce(CAST(record ->> '$.usage.answers' AS BIGINT), 0) = 0
              AND (cost_usd IS NOT NULL OR tokens IS NOT NULL)
        ), asked AS (
            SELECT id, record ->> '$.usage.proposal' AS proposal FROM experiments
            WHERE record ->> '$.usage.proposal' <> ''
        )
        SELECT p.branch, b.tag, p.created, p.model, p.cost_usd, p.tokens, p.estimated, p.researcher, p.cost_basis,
               p.input_tokens, p.output_tokens, p.cache_read_tokens, p.cache_write_tokens, p.seconds,
               coalesce(p.own, a.id) AS experiment
        FROM paid p LEFT JOIN branches b ON b.id = p.branch LEFT JOIN asked a ON a.proposal = p.proposal ORDER BY p.seq
    """)
    connection.execute(f"COMMENT ON VIEW costs IS '{COSTS_COMMENT}'")
    for column, text in COSTS_COLUMNS.items():
        connection.execute(f"COMMENT ON COLUMN costs.{column} IS '{text}'")
