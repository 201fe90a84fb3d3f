"""The database's schema as numbered steps: each runs once, in order, and is never edited after its release.

Agents read this schema through SQL, so tables, views and columns carry comments. No table holds an audit score: those stay in
the journal, out of reach of any query by an agent.
"""

from collections.abc import Callable

import duckdb

from results.column_comments import m017_comments
from results.costs_view import TOKENS, m014_costs_by_researcher, m015_costs_of_calls
from results.history_rows import m019_history_rows
from results.history_view import m018_narrow_history
from results.table_comments import (
    COSTS_COMMENT,
    DECIDING_COMMENTS,
    DECIDING_HISTORY_COMMENTS,
    DECISION_COMMENT,
    FOREIGN_COMMENT,
    FOREIGN_COMMENTS,
    GROUP_COMMENTS,
    HEADS_COMMENTS,
    HISTORY_COMMENTS,
    KIND_COMMENT,
    LEADERBOARD_COMMENT,
    LEADERBOARD_COMMENTS,
    NEAR_MISSES_COMMENT,
    TABLE_COMMENTS,
    WORK_COMMENTS,
)
from results.work_view import m013_work_by_now


class UnknownSchema(Exception):
    """The file was written by a newer version, or is not a store."""


def migrate(connection: duckdb.DuckDBPyConnection) -> None:
    """Brings the database up to the newest schema. Raises UnknownSchema if it is newer than this code."""
    connection.execute("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)")
    (version,) = connection.execute("SELECT coalesce(max(version), 0) FROM schema_version").fetchall()[0]
    if version > len(MIGRATIONS):
        raise UnknownSchema(f"schema version {version}; this code knows {len(MIGRATIONS)}")
    if version == len(MIGRATIONS):
        return
    connection.execute("BEGIN")  # one transaction: a new home is made in less time, and whole or not at all
    for step in MIGRATIONS[version:]:
        step(connection)
    connection.execute("INSERT INTO schema_version SELECT unnest(range(?, ?))", [version + 1, len(MIGRATIONS) + 1])
    connection.execute("COMMIT")


def _m001_tables(connection: duckdb.DuckDBPyConnection) -> None:
    """One table for each kind of journal record. `seq` is the record's place in the journal, from 1."""
    connection.execute("""
        CREATE TABLE branches (
            seq BIGINT NOT NULL, id VARCHAR PRIMARY KEY, tag VARCHAR NOT NULL, loop INTEGER NOT NULL,
            profile VARCHAR NOT NULL, platform VARCHAR NOT NULL, score_fingerprint VARCHAR NOT NULL,
            data_fingerprint VARCHAR NOT NULL, baseline_commit VARCHAR NOT NULL, created TIMESTAMP, record VARCHAR
        );
        CREATE TABLE experiments (
            seq BIGINT NOT NULL, id VARCHAR PRIMARY KEY, branch VARCHAR NOT NULL, number INTEGER NOT NULL,
            kind VARCHAR NOT NULL, commit VARCHAR NOT NULL, parent_commit VARCHAR NOT NULL, title VARCHAR NOT NULL,
            hypothesis VARCHAR NOT NULL, researcher VARCHAR NOT NULL, parents VARCHAR[], changes JSON, diff VARCHAR,
            lines_added INTEGER, lines_removed INTEGER, model VARCHAR, cost_usd DOUBLE, tokens BIGINT,
            proposal_seconds DOUBLE, created TIMESTAMP, record VARCHAR
        );
        CREATE TABLE runs (
            seq BIGINT NOT NULL, id VARCHAR PRIMARY KEY, experiment_id VARCHAR NOT NULL, status VARCHAR NOT NULL,
            reason VARCHAR, seed BIGINT, device VARCHAR, val_bpb DOUBLE, training_seconds DOUBLE,
            startup_seconds DOUBLE, scoring_seconds DOUBLE, total_seconds DOUBLE, peak_memory_mb DOUBLE,
            num_params BIGINT, consistency_mean DOUBLE, consistency_max DOUBLE, reported_steps BIGINT,
            reported_tokens BIGINT, reported_mfu_percent DOUBLE, reported_depth BIGINT,
            reported_peak_memory_mb DOUBLE, reported_recompiles BIGINT, reported_kernel VARCHAR, log_tail VARCHAR,
            created TIMESTAMP, record VARCHAR
        );
        CREATE TABLE verdicts (
            seq BIGINT NOT NULL, id VARCHAR PRIMARY KEY, experiment_id VARCHAR NOT NULL, decision VARCHAR NOT NULL,
            reason VARCHAR NOT NULL, gain DOUBLE, needed DOUBLE, sigma DOUBLE, created TIMESTAMP, record VARCHAR
        );
        CREATE TABLE events (
            seq BIGINT NOT NULL, id VARCHAR PRIMARY KEY, kind VARCHAR NOT NULL, created TIMESTAMP, record VARCHAR
        );
    """)


def _m002_views(connection: duckdb.DuckDBPyConnection) -> None:
    """The views that people and agents query. Lost runs and experiments say nothing about an idea: only `lost` shows them."""
    connection.execute("""
        CREATE VIEW latest_verdicts AS
        SELECT * FROM verdicts QUALIFY row_number() OVER (PARTITION BY experiment_id ORDER BY seq DESC) = 1;

        CREATE VIEW history AS
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
        )
        SELECT
            e.id, e.branch, b.tag, e.number, e.kind, e.commit, e.title, e.hypothesis, e.researcher, v.decision,
            m.status, m.val_bpb, coalesce(m.runs, 0) AS runs, v.gain, v.needed, v.sigma, m.peak_memory_mb,
            m.num_params, m.reported_steps, m.reported_tokens, m.reported_mfu_percent, m.reported_depth,
            m.reported_peak_memory_mb, m.reported_recompiles, m.reported_kernel, m.training_seconds,
            m.startup_seconds, m.scoring_seconds, m.total_seconds, e.lines_added, e.lines_removed, e.cost_usd,
            e.tokens, b.platform, b.profile, b.score_fingerprint, e.created, v.reason,
            min(CASE WHEN v.decision = 'keep' THEN m.val_bpb END)
                OVER (PARTITION BY e.branch ORDER BY e.number) AS best_so_far
        FROM experiments e
        JOIN branches b ON b.id = e.branch
        LEFT JOIN measured m ON m.experiment_id = e.id
        LEFT JOIN latest_verdicts v ON v.experiment_id = e.id
        WHERE v.decision IS DISTINCT FROM 'lost'
        ORDER BY e.seq;

        CREATE VIEW leaderboard AS
        SELECT
            rank() OVER (PARTITION BY platform, score_fingerprint ORDER BY val_bpb) AS rank,
            id, branch, number, commit, title, val_bpb, runs, gain, peak_memory_mb, platform, score_fingerprint
        FROM history WHERE decision = 'keep' ORDER BY val_bpb;

        CREATE VIEW near_misses AS
        SELECT id, branch, number, commit, title, hypothesis, val_bpb, runs, gain, needed, sigma, platform,
               score_fingerprint
        FROM history WHERE decision = 'discard' AND gain > 0 AND gain <= needed ORDER BY gain / needed DESC;

        CREATE VIEW changes AS
        SELECT e.id AS experiment_id, e.branch, c.key AS name, c.value ->> 0 AS old, c.value ->> 1 AS new
        FROM experiments e, json_each(e.changes) c;

        CREATE VIEW lost AS
        SELECT r.experiment_id, r.id AS run_id, e.branch, e.title, r.reason, r.created
        FROM runs r JOIN experiments e ON e.id = r.experiment_id WHERE r.status = 'lost' ORDER BY r.seq;
    """)


def _m003_comments(connection: duckdb.DuckDBPyConnection) -> None:
    """Comments from which an agent learns the schema by SQL alone (duckdb_tables, duckdb_views, duckdb_columns)."""
    tables = {name for (name,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
    for name, text in TABLE_COMMENTS.items():
        connection.execute(f"COMMENT ON {'TABLE' if name in tables else 'VIEW'} {name} IS '{_quoted(text)}'")
    for column, text in HISTORY_COMMENTS.items():
        connection.execute(f"COMMENT ON COLUMN history.{column} IS '{_quoted(text)}'")


def _m004_work(connection: duckdb.DuckDBPyConnection) -> None:
    """The queue and the devices, from the latest event about each."""
    connection.execute("""
        CREATE VIEW work AS
        WITH told AS (
            SELECT record ->> '$.run' AS run, seq, created, record ->> '$.state' AS state, record ->> '$.work' AS kind,
                   record ->> '$.branch' AS branch, record ->> '$.experiment' AS experiment,
                   record ->> '$.platform' AS platform, record ->> '$.worker' AS worker, record ->> '$.reason' AS reason,
                   CAST(record ->> '$.repeats' AS INTEGER) AS repeats
            FROM events WHERE kind = 'work'
        )
        SELECT run, arg_max(state, seq) AS state, any_value(kind) AS kind, any_value(branch) AS branch,
               any_value(experiment) AS experiment, any_value(platform) AS platform, max(repeats) AS repeats,
               any_value(worker) AS worker, any_value(reason) AS reason,
               min(created) FILTER (state = 'waiting') AS queued, min(created) FILTER (state = 'running') AS began,
               min(created) FILTER (state IN ('done', 'lost', 'dropped')) AS ended
        FROM told GROUP BY run ORDER BY min(seq);

        CREATE VIEW workers AS
        SELECT record ->> '$.worker' AS worker, arg_max(record ->> '$.state', seq) AS state,
               any_value(record ->> '$.platform') AS platform,
               nullif(arg_max(coalesce(record ->> '$.reason', ''), seq), '') AS reason,
               min(created) AS first_seen, max(created) AS changed
        FROM events WHERE kind = 'worker' GROUP BY worker ORDER BY min(seq);
    """)
    for view, text in WORK_COMMENTS.items():
        connection.execute(f"COMMENT ON VIEW {view} IS '{_quoted(text)}'")


def _m005_costs(connection: duckdb.DuckDBPyConnection) -> None:
    """What researchers cost, by the rule of `results/researcher_costs.py`."""
    connection.execute(f"""
        CREATE VIEW costs AS
        WITH paid AS (
            SELECT seq, created, record ->> '$.branch' AS branch, record ->> '$.model' AS model,
                   CAST(record ->> '$.cost_usd' AS DOUBLE) AS cost_usd,
                   {TOKENS} AS tokens, coalesce(CAST(record ->> '$.estimated' AS BOOLEAN), false) AS estimated
            FROM events
            WHERE kind = 'answer' OR (kind = 'proposal_dropped' AND record ->> '$.cost_usd' IS NOT NULL)
            UNION ALL
            SELECT seq, created, branch, model, cost_usd, tokens, false
            FROM experiments
            WHERE coalesce(CAST(record ->> '$.usage.answers' AS BIGINT), 0) = 0
              AND (cost_usd IS NOT NULL OR tokens IS NOT NULL)
        )
        SELECT p.branch, b.tag, p.created, p.model, p.cost_usd, p.tokens, p.estimated
        FROM paid p LEFT JOIN branches b ON b.id = p.branch ORDER BY p.seq;
        COMMENT ON VIEW costs IS '{_quoted(COSTS_COMMENT)}';
    """)


def _m006_near_misses(connection: duckdb.DuckDBPyConnection) -> None:
    """The view of near-misses anew: homes of earlier versions have one that also lists what was worse than the head."""
    connection.execute("""
        CREATE OR REPLACE VIEW near_misses AS
        SELECT id, branch, number, commit, title, hypothesis, val_bpb, runs, gain, needed, sigma, platform,
               score_fingerprint
        FROM history WHERE decision = 'discard' AND gain > 0 AND gain <= needed ORDER BY gain / needed DESC
    """)
    connection.execute(f"COMMENT ON VIEW near_misses IS '{_quoted(TABLE_COMMENTS['near_misses'])}'")


def _m007_groups(connection: duckdb.DuckDBPyConnection) -> None:
    """What one head for several branches brings: estimates of ideas, heads, and near-misses by their probability."""
    connection.execute("""
        CREATE TABLE estimates (
            head_branch VARCHAR NOT NULL, id VARCHAR NOT NULL, effect DOUBLE, low DOUBLE, high DOUBLE, helps DOUBLE,
            price DOUBLE, in_head BOOLEAN, is_near_miss BOOLEAN
        );
        CREATE OR REPLACE VIEW near_misses AS
        SELECT h.id, h.branch, h.number, h.commit, h.title, h.hypothesis, h.val_bpb, h.runs, e.effect, e.low, e.high,
               e.helps, e.price, h.gain, h.sigma, h.platform, h.score_fingerprint
        FROM estimates e JOIN history h ON h.id = e.id WHERE e.is_near_miss ORDER BY e.helps DESC;

        CREATE VIEW heads AS
        SELECT record ->> '$.group' AS head_branch, record ->> '$.experiment' AS experiment_id,
               record ->> '$.commit' AS commit, CAST(record ->> '$.expected' AS DOUBLE) AS expected,
               CAST(record -> '$.patches' AS VARCHAR[]) AS patches, record ->> '$.reason' AS reason, created
        FROM events WHERE kind = 'head' ORDER BY seq;

        CREATE VIEW decisions AS
        SELECT v.experiment_id, e.branch, e.title, v.decision, v.reason,
               CAST(v.record ->> '$.effect' AS DOUBLE) AS effect, CAST(v.record ->> '$.low' AS DOUBLE) AS low,
               CAST(v.record ->> '$.high' AS DOUBLE) AS high, CAST(v.record ->> '$.helps' AS DOUBLE) AS helps, v.created,
               lag(v.decision) OVER (PARTITION BY v.experiment_id ORDER BY v.seq) AS before
        FROM verdicts v JOIN experiments e ON e.id = v.experiment_id ORDER BY v.seq;
    """)
    tables = {"estimates"}
    for name, text in GROUP_COMMENTS.items():
        connection.execute(f"COMMENT ON {'TABLE' if name in tables else 'VIEW'} {name} IS '{_quoted(text)}'")
    connection.execute(f"COMMENT ON COLUMN history.kind IS '{_quoted(KIND_COMMENT)}'")


def _m008_foreign(connection: duckdb.DuckDBPyConnection) -> None:
    """Results of other systems that a person has imported; of files with one name the latest."""
    connection.execute("""
        CREATE VIEW foreign_results AS
        WITH latest AS (
            SELECT seq, record FROM events WHERE kind = 'foreign'
            QUALIFY row_number() OVER (PARTITION BY record ->> '$.name' ORDER BY seq DESC) = 1
        ), told AS (
            SELECT seq, record, unnest(CAST(record -> '$.lines' AS JSON[])) AS line FROM latest
        )
        SELECT record ->> '$.name' AS source, CAST(line ->> '$.line' AS INTEGER) AS line, line ->> '$.commit' AS commit,
               CAST(line ->> '$.val_bpb' AS DOUBLE) AS val_bpb, CAST(line ->> '$.memory_gb' AS DOUBLE) AS memory_gb,
               line ->> '$.status' AS status, line ->> '$.description' AS description,
               CAST(line ->> '$.helps' AS DOUBLE) AS helps, line ->> '$.problem' AS problem,
               CAST(record ->> '$.sigma' AS DOUBLE) AS sigma,
               CAST(record ->> '$.reported_gain' AS DOUBLE) AS reported_gain,
               CAST(record ->> '$.estimated_gain' AS DOUBLE) AS estimated_gain,
               CAST(record ->> '$.low' AS DOUBLE) AS low, CAST(record ->> '$.high' AS DOUBLE) AS high
        FROM told ORDER BY seq, CAST(line ->> '$.line' AS INTEGER);
    """)
    connection.execute(f"COMMENT ON VIEW foreign_results IS '{_quoted(FOREIGN_COMMENT)}'")
    for column, text in FOREIGN_COMMENTS.items():
        connection.execute(f"COMMENT ON COLUMN foreign_results.{column} IS '{_quoted(text)}'")


_HISTORY = """
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
        )
        SELECT
            e.id, e.branch, b.tag, e.number, e.kind, e.commit, e.title, e.hypothesis, e.researcher, {decision} AS decision,
            m.status, m.val_bpb, coalesce(m.runs, 0) AS runs, CAST(v.record ->> '$.effect' AS DOUBLE) AS effect,
            CAST(v.record ->> '$.helps' AS DOUBLE) AS helps, v.gain, v.needed, v.sigma, m.peak_memory_mb,
            m.num_params, m.reported_steps, m.reported_tokens, m.reported_mfu_percent, m.reported_depth,
            m.reported_peak_memory_mb, m.reported_recompiles, m.reported_kernel, m.training_seconds,
            m.startup_seconds, m.scoring_seconds, m.total_seconds, e.lines_added, e.lines_removed, e.cost_usd,
            e.tokens, b.platform, b.profile, b.score_fingerprint, e.created, v.reason,
            min(CASE WHEN v.decision = 'keep' THEN m.val_bpb END)
                OVER (PARTITION BY e.branch ORDER BY e.number) AS best_so_far
        FROM experiments e
        JOIN branches b ON b.id = e.branch
        LEFT JOIN measured m ON m.experiment_id = e.id
        LEFT JOIN latest_verdicts v ON v.experiment_id = e.id
        WHERE v.decision IS DISTINCT FROM 'lost'
        ORDER BY e.seq;
"""
"""The view `history` since step 9."""


def _m009_what_decides(connection: duckdb.DuckDBPyConnection) -> None:
    """The estimate that decides beside the raw score, the current head, and runs that were cancelled."""
    connection.execute("CREATE OR REPLACE VIEW history AS" + _HISTORY.format(decision="v.decision"))
    connection.execute("""
        CREATE OR REPLACE VIEW leaderboard AS
        SELECT
            rank() OVER (PARTITION BY platform, score_fingerprint ORDER BY val_bpb) AS rank,
            id, branch, number, commit, title, val_bpb, runs, effect, helps, gain, peak_memory_mb, platform, score_fingerprint
        FROM history WHERE decision = 'keep' ORDER BY val_bpb;

        CREATE OR REPLACE VIEW heads AS
        SELECT record ->> '$.group' AS head_branch, record ->> '$.experiment' AS experiment_id,
               record ->> '$.commit' AS commit, CAST(record ->> '$.expected' AS DOUBLE) AS expected,
               seq = max(seq) OVER (PARTITION BY record ->> '$.group') AS is_current,
               CAST(record -> '$.patches' AS VARCHAR[]) AS patches, record ->> '$.reason' AS reason, created
        FROM events WHERE kind = 'head' ORDER BY seq;
    """)
    _work_with_cancelled(connection)
    _comments_on_what_decides(connection)


def _comments_on_what_decides(connection: duckdb.DuckDBPyConnection) -> None:
    for view, text in DECIDING_COMMENTS.items():
        connection.execute(f"COMMENT ON VIEW {view} IS '{_quoted(text)}'")
    for column, text in {**HISTORY_COMMENTS, "kind": KIND_COMMENT, **DECIDING_HISTORY_COMMENTS}.items():
        connection.execute(f"COMMENT ON COLUMN history.{column} IS '{_quoted(text)}'")
    for column, text in HEADS_COMMENTS.items():
        connection.execute(f"COMMENT ON COLUMN heads.{column} IS '{_quoted(text)}'")


def _work_with_cancelled(connection: duckdb.DuckDBPyConnection) -> None:
    """The view of the queue anew: runs that the end of a farm cut off are cancelled; earlier versions called them dropped."""
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
               any_value(worker) AS worker, any_value(reason) AS reason,
               min(created) FILTER (state = 'waiting') AS queued, min(created) FILTER (state = 'running') AS began,
               min(created) FILTER (state IN ('done', 'lost', 'cancelled')) AS ended
        FROM told GROUP BY run ORDER BY min(seq);
    """)


def _m010_leaderboard_of_tags(connection: duckdb.DuckDBPyConnection) -> None:
    """The leaderboard with the tag of each experiment, by which people choose a branch."""
    connection.execute("""
        CREATE OR REPLACE VIEW leaderboard AS
        SELECT
            rank() OVER (PARTITION BY platform, score_fingerprint ORDER BY val_bpb) AS rank,
            id, branch, tag, number, commit, title, val_bpb, runs, effect, helps, gain, peak_memory_mb, platform,
            score_fingerprint
        FROM history WHERE decision = 'keep' ORDER BY val_bpb
    """)
    connection.execute(f"COMMENT ON VIEW leaderboard IS '{_quoted(DECIDING_COMMENTS['leaderboard'])}'")


def _m011_leaderboard_by_now(connection: duckdb.DuckDBPyConnection) -> None:
    """The leaderboard with what all runs say of its ideas by now, as `estimates` and the report have it."""
    connection.execute("""
        CREATE OR REPLACE VIEW leaderboard AS
        SELECT
            rank() OVER (PARTITION BY h.platform, h.score_fingerprint ORDER BY h.val_bpb) AS rank,
            h.id, h.branch, h.tag, h.number, h.commit, h.title, h.val_bpb, h.runs, e.effect, e.helps, h.gain,
            h.peak_memory_mb, h.platform, h.score_fingerprint
        FROM history h LEFT JOIN estimates e ON e.id = h.id WHERE h.decision = 'keep' ORDER BY h.val_bpb
    """)
    connection.execute(f"COMMENT ON VIEW leaderboard IS '{_quoted(LEADERBOARD_COMMENT)}'")
    for column, text in LEADERBOARD_COMMENTS.items():
        connection.execute(f"COMMENT ON COLUMN leaderboard.{column} IS '{_quoted(text)}'")


def _m012_measurements(connection: duckdb.DuckDBPyConnection) -> None:
    """Controls, confirmations and runs of waves are measurements: a count of discards is one of ideas."""
    kinds = "e.kind IN ('control', 'confirm', 'wave') AND v.decision = 'discard'"
    decision = f"CASE WHEN {kinds} THEN 'measured' ELSE v.decision END"
    connection.execute("CREATE OR REPLACE VIEW history AS" + _HISTORY.format(decision=decision))
    _comments_on_what_decides(connection)
    connection.execute(f"COMMENT ON COLUMN history.decision IS '{_quoted(DECISION_COMMENT)}'")


def _m016_near_misses_of_heads(connection: duckdb.DuckDBPyConnection) -> None:
    """The view of near-misses with the head that each is one of: near-misses are combined and counted per head."""
    connection.execute("""
        CREATE OR REPLACE VIEW near_misses AS
        SELECT h.id, e.head_branch, h.branch, h.number, h.commit, h.title, h.hypothesis, h.val_bpb, h.runs, e.effect, e.low,
               e.high, e.helps, e.price, h.gain, h.sigma, h.platform, h.score_fingerprint
        FROM estimates e JOIN history h ON h.id = e.id WHERE e.is_near_miss ORDER BY e.helps DESC
    """)
    connection.execute(f"COMMENT ON VIEW near_misses IS '{_quoted(NEAR_MISSES_COMMENT)}'")


def _quoted(text: str) -> str:
    return text.replace("'", "''")


MIGRATIONS: tuple[Callable[[duckdb.DuckDBPyConnection], None], ...] = (
    _m001_tables,
    _m002_views,
    _m003_comments,
    _m004_work,
    _m005_costs,
    _m006_near_misses,
    _m007_groups,
    _m008_foreign,
    _m009_what_decides,
    _m010_leaderboard_of_tags,
    _m011_leaderboard_by_now,
    _m012_measurements,
    m013_work_by_now,
    m014_costs_by_researcher,
    m015_costs_of_calls,
    _m016_near_misses_of_heads,
    m017_comments,
    m018_narrow_history,
    m019_history_rows,
)
