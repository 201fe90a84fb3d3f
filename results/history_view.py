"""The view `history`: one row per experiment, with what its runs and its latest verdict say."""

import duckdb

HISTORY = """
    CREATE OR REPLACE VIEW history AS
    WITH measured AS (
        SELECT
            experiment_id, count(*) AS runs, arg_max(status, seq) AS status,
            avg(val_bpb) FILTER (status = 'ok') AS val_bpb, max(peak_memory_mb) AS peak_memory_mb,
            max(num_params) AS num_params, avg(reported_steps) AS reported_steps,
            avg(reported_tokens) AS reported_tokens, avg(reported_mfu_percent) AS reported_mfu_percent,
            max(reported_depth) AS reported_depth, max(reported_peak_memory_mb) AS reported_peak_memory_mb,
            max(reported_recompiles) AS reported_recompiles, arg_max(reported_kernel, seq) AS reported_kernel,
            avg(training_seconds) AS training_seconds, avg(startup_seconds) AS startup_seconds,
            avg(scoring_seconds) AS scoring_seconds, avg(total_seconds) AS total_seconds
        FROM runs WHERE status <> 'lost' GROUP BY experiment_id
    ), decided AS (
        SELECT experiment_id, decision, reason, gain, needed, sigma, CAST(record ->> '$.effect' AS DOUBLE) AS effect,
               CAST(record ->> '$.helps' AS DOUBLE) AS helps
        FROM latest_verdicts
    ), kept AS (
        SELECT experiment_id, avg(val_bpb) AS val_bpb FROM runs
        WHERE status = 'ok' AND experiment_id IN (
            SELECT experiment_id FROM verdicts GROUP BY experiment_id HAVING arg_max(decision, seq) = 'keep'
        )
        GROUP BY experiment_id
    ), progress AS (
        SELECT x.seq, min(kept.val_bpb) OVER (PARTITION BY x.branch ORDER BY x.number) AS best_so_far
        FROM experiments x LEFT JOIN kept ON kept.experiment_id = x.id
    )
    SELECT
        e.id, e.branch, b.tag, e.number, e.kind, e.commit, e.title, e.hypothesis, e.researcher,
        CASE WHEN e.kind IN ('control', 'confirm', 'wave') AND v.decision = 'discard' THEN 'measured' ELSE v.decision END
            AS decision,
        m.status, m.val_bpb, coalesce(m.runs, 0) AS runs, v.effect, v.helps, v.gain, v.needed, v.sigma, m.peak_memory_mb,
        m.num_params, m.reported_steps, m.reported_tokens, m.reported_mfu_percent, m.reported_depth,
        m.reported_peak_memory_mb, m.reported_recompiles, m.reported_kernel, m.training_seconds, m.startup_seconds,
        m.scoring_seconds, m.total_seconds, e.lines_added, e.lines_removed, e.cost_usd, e.tokens, b.platform, b.profile,
        b.score_fingerprint, e.created, v.reason, p.best_so_far
    FROM experiments e
    JOIN branches b ON b.id = e.branch
    LEFT JOIN progress p ON p.seq = e.seq
    LEFT JOIN measured m ON m.experiment_id = e.id
    LEFT JOIN decided v ON v.experiment_id = e.id
    WHERE e.id NOT IN (SELECT experiment_id FROM verdicts GROUP BY experiment_id HAVING arg_max(decision, seq) = 'lost')
    ORDER BY e.seq
"""
"""Creates the view. DuckDB holds all that a window or the inner side of a join reads, so those read few columns. What
was lost is left out by a join of its own: DuckDB takes a comparison with 'lost' for one that most rows fail, and would hold all
texts as the smaller side."""


def m018_narrow_history(connection: duckdb.DuckDBPyConnection) -> None:
    """The view `history` with the same answers from less memory: of a million experiments the latest can be asked for."""
    ((comment,),) = connection.execute("SELECT comment FROM duckdb_views() WHERE view_name = 'history'").fetchall()
    columns = connection.execute(
        "SELECT column_name, comment FROM duckdb_columns() WHERE table_name = 'history' AND comment IS NOT NULL"
    ).fetchall()
    connection.execute(HISTORY)
    connection.execute(f"COMMENT ON VIEW history IS '{_quoted(comment)}'")  # a new view has none
    for column, text in columns:
        connection.execute(f"COMMENT ON COLUMN history.{column} IS '{_quoted(text)}'")


def _quoted(text: str) -> str:
    return text.replace("'", "''")
