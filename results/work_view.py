"""The view of the queue: one row per run, as the latest event about it says."""

import duckdb

from results.table_comments import WORK_BY_NOW_COMMENT


def m013_work_by_now(connection: duckdb.DuckDBPyConnection) -> None:
    """The view `work` with the reason of a run's present state, and the worker that had it last: a run that was lost and then
    repeated is done for no reason.
    """
    connection.execute("""
        CREATE OR REPLACE VIEW work AS
        WITH told AS (
            SELECT record ->> '$.run' AS run, seq, created,
                   CASE record ->> '$.state' WHEN 'dropped' THEN 'cancelled' ELSE record ->> '$.state' END AS state,
                   record ->> '$.work' AS kind, record ->> '$.branch' AS branch, record ->> '$.experiment' AS experiment,
                   record ->> '$.platform' AS platform, record ->> '$.worker' AS worker, record ->> '$.reason' AS reason,
                   CAST(record ->> '$.repeats' AS INTEGER) AS repeats
            FROM events WHERE kind = 'work'
        )
        SELECT run, arg_max(state, seq) AS state, any_value(kind) AS kind, any_value(branch) AS branch,
               any_value(experiment) AS experiment, any_value(platform) AS platform, max(repeats) AS repeats,
               arg_max(worker, seq) FILTER (worker IS NOT NULL) AS worker,
               nullif(arg_max(coalesce(reason, ''), seq), '') AS reason,
               min(created) FILTER (state = 'waiting') AS queued, min(created) FILTER (state = 'running') AS began,
               CASE WHEN arg_max(state, seq) IN ('done', 'lost', 'cancelled') THEN max(created) END AS ended
        FROM told GROUP BY run ORDER BY min(seq)
    """)
    connection.execute(f"COMMENT ON VIEW work IS '{WORK_BY_NOW_COMMENT}'")
