"""The table `history_rows`: what the view `history` shows of each experiment, brought up to date before queries.

A view that puts a row together from all runs reads all of them for any question. Here a row is put together when its records
are new: the newest experiments of a million are found without reading the others. Live records are taken into account before
the next query of others and not with each insert, since a statement of so many columns takes milliseconds to plan.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping

import duckdb

OWN_TABLES = ("history_rows", "history_state")
"""Names of the tables behind the view. Lists of what can be queried leave them out: the view shows all that counts."""

EARLIER = (
    *("tag", "decision", "status", "val_bpb", "runs", "effect", "helps", "gain", "needed", "sigma", "peak_memory_mb"),
    *("num_params", "reported_steps", "reported_tokens", "reported_mfu_percent", "reported_depth", "reported_peak_memory_mb"),
    *("reported_recompiles", "reported_kernel", "training_seconds", "startup_seconds", "scoring_seconds", "total_seconds"),
    *("platform", "profile", "score_fingerprint", "reason", "is_shown"),
)
"""The columns that later records change."""

_ROWS = """
    SELECT
        e.seq, b.id IS NOT NULL AND v.decision IS DISTINCT FROM 'lost' AS is_shown,
        e.id, e.branch, b.tag, e.number, e.kind, e.commit, e.title, e.hypothesis, e.researcher,
        CASE WHEN e.kind IN ('control', 'confirm', 'wave') AND v.decision = 'discard' THEN 'measured' ELSE v.decision END
            AS decision,
        m.status, m.val_bpb, coalesce(m.runs, 0) AS runs, CAST(v.record ->> '$.effect' AS DOUBLE) AS effect,
        CAST(v.record ->> '$.helps' AS DOUBLE) AS helps, v.gain, v.needed, v.sigma, m.peak_memory_mb, m.num_params,
        m.reported_steps, m.reported_tokens, m.reported_mfu_percent, m.reported_depth, m.reported_peak_memory_mb,
        m.reported_recompiles, m.reported_kernel, m.training_seconds, m.startup_seconds, m.scoring_seconds, m.total_seconds,
        e.lines_added, e.lines_removed, e.cost_usd, e.tokens, b.platform, b.profile, b.score_fingerprint, e.created, v.reason
    FROM experiments e
    LEFT JOIN branches b ON b.id = e.branch
    LEFT JOIN (
        SELECT
            experiment_id, count(*) AS runs, arg_max(status, seq) AS status,
            avg(val_bpb) FILTER (status = 'ok') AS val_bpb, max(peak_memory_mb) AS peak_memory_mb,
            max(num_params) AS num_params, avg(reported_steps) AS reported_steps,
            avg(reported_tokens) AS reported_tokens, avg(reported_mfu_percent) AS reported_mfu_percent,
            max(reported_depth) AS reported_depth, max(reported_peak_memory_mb) AS reported_peak_memory_mb,
            max(reported_recompiles) AS reported_recompiles, arg_max(reported_kernel, seq) AS reported_kernel,
            avg(training_seconds) AS training_seconds, avg(startup_seconds) AS startup_seconds,
            avg(scoring_seconds) AS scoring_seconds, avg(total_seconds) AS total_seconds
        FROM runs WHERE status <> 'lost' AND {of_runs} GROUP BY experiment_id
    ) m ON m.experiment_id = e.id
    LEFT JOIN (
        SELECT * FROM verdicts WHERE {of_verdicts}
        QUALIFY row_number() OVER (PARTITION BY experiment_id ORDER BY seq DESC) = 1
    ) v ON v.experiment_id = e.id
    WHERE {of_experiments}
"""
"""The rows of some experiments but for `best_so_far`, from these runs and verdicts."""

_WITH_BEST = """
    WITH r AS MATERIALIZED ({rows}), kept AS (
        SELECT branch, number, min(val_bpb) OVER (PARTITION BY branch ORDER BY number) AS best
        FROM ({kept}) WHERE decision = 'keep' AND val_bpb IS NOT NULL
    )
    SELECT r.*, kept.best AS best_so_far
    FROM r ASOF LEFT JOIN kept ON kept.branch = r.branch AND kept.number <= r.number ORDER BY r.seq
"""
"""Rows with the lowest score of their branch's keeps up to them."""

_STORED, _NEW = (f"SELECT branch, number, decision, val_bpb FROM {rows}" for rows in ("history_rows", "r"))

_KNOWN_AND_LAST = """
    SELECT (SELECT max(position) FROM history_state), max(last) FROM (
        SELECT max(seq) AS last FROM branches UNION ALL SELECT max(seq) FROM experiments
        UNION ALL SELECT max(seq) FROM runs UNION ALL SELECT max(seq) FROM verdicts
    )
"""
"""The position of the last record that the rows take into account, and of the last one there is; NULL without any."""

VIEW = """
    CREATE OR REPLACE VIEW history AS
    SELECT
        id, branch, tag, number, kind, commit, title, hypothesis, researcher, decision, status, val_bpb, runs, effect, helps,
        gain, needed, sigma, peak_memory_mb, num_params, reported_steps, reported_tokens, reported_mfu_percent, reported_depth,
        reported_peak_memory_mb, reported_recompiles, reported_kernel, training_seconds, startup_seconds, scoring_seconds,
        total_seconds, lines_added, lines_removed, cost_usd, tokens, platform, profile, score_fingerprint, created, reason,
        best_so_far
    FROM history_rows WHERE is_shown
"""
"""Creates the view. It reads one table, whose rows stand in the order of their experiments: without a join or a sort DuckDB
reads whole rows of those alone that it returns."""

STATE_COMMENT = "Up to which record of the journal history_rows is up to date."

TABLE_COMMENT = "The rows of the view history, which leaves lost experiments out: ask that view."

OWN_COMMENTS = {
    "seq": "The place of the experiment's record in the journal, from 1.",
    "is_shown": "Whether the view history shows it.",
}


def m019_history_rows(connection: duckdb.DuckDBPyConnection) -> None:
    """The rows of the view `history`, stored: who asks for a few no longer has all runs read."""
    ((comment,),) = connection.execute("SELECT comment FROM duckdb_views() WHERE view_name = 'history'").fetchall()
    columns = connection.execute(
        "SELECT column_name, comment FROM duckdb_columns() WHERE table_name = 'history' AND comment IS NOT NULL"
    ).fetchall()
    rows = _ROWS.format(of_experiments="true", of_runs="true", of_verdicts="true")
    connection.execute(f"CREATE TABLE history_rows AS {_WITH_BEST.format(rows=rows, kept=_NEW)}")
    connection.execute("CREATE TABLE history_state (position BIGINT NOT NULL)")
    connection.execute(f"INSERT INTO history_state SELECT coalesce(max(last), 0) FROM ({_KNOWN_AND_LAST}) AS t(known, last)")
    connection.execute(VIEW)
    comments = [
        f"VIEW history IS {_literal(comment)}",
        f"TABLE history_rows IS {_literal(TABLE_COMMENT)}",
    ]  # new ones have none
    comments += [
        f"COLUMN {where}.{name} IS {_literal(text)}" for where in ("history", "history_rows") for name, text in columns
    ]
    comments += [f"COLUMN history_rows.{name} IS {_literal(text)}" for name, text in OWN_COMMENTS.items()]
    comments += [
        f"TABLE history_state IS {_literal(STATE_COMMENT)}",
        f"COLUMN history_state.position IS {_literal(STATE_COMMENT)}",
    ]
    connection.execute(";".join(f"COMMENT ON {one}" for one in comments))


def bring_history_up_to_date(connection: duckdb.DuckDBPyConnection) -> None:
    """Puts together the rows that records have changed since the last time: all or none, in one transaction.

    A run or a verdict follows its experiment in the journal; a branch whose line was damaged may be recorded again after its
    experiments. One thread at a time calls this.
    """
    with transaction(connection):
        ((known, last),) = connection.execute(_KNOWN_AND_LAST).fetchall()
        if last is None or last <= known:
            return  # nothing is new
        changed = _put_together_again(connection, _earlier(connection, known))
        if changed:
            _find_best_again(connection, f"seq IN {_listed(changed)}")
        new = f"seq > {known}"
        rows = _ROWS.format(of_experiments=f"e.{new}", of_runs=new, of_verdicts=new)
        if connection.execute(f"SELECT 1 FROM experiments WHERE {new} LIMIT 1").fetchall():
            with_best = _WITH_BEST.format(rows=rows, kept=f"{_NEW} UNION ALL {_STORED}")
            connection.execute(f"INSERT INTO history_rows BY NAME {with_best}")
            if connection.execute(f"SELECT 1 FROM history_rows WHERE {new} AND decision = 'keep' LIMIT 1").fetchall():
                _find_best_again(connection, f"{new} AND decision = 'keep'")
        connection.execute("UPDATE history_state SET position = ?", [last])


def holds_all_rows(connection: duckdb.DuckDBPyConnection) -> bool:
    """Whether there is a row of each experiment that was there the last time, and none of another."""
    ((is_whole,),) = connection.execute("""
        SELECT (SELECT count(*) FROM history_rows) =
               (SELECT count(*) FROM experiments WHERE seq <= (SELECT max(position) FROM history_state))
    """).fetchall()
    return bool(is_whole)


def _earlier(connection: duckdb.DuckDBPyConnection, known: int) -> dict[int, str]:
    """The experiments up to the position `known` that a later record changes: their places and ids."""
    new = f"seq > {known}"
    told = connection.execute(f"""
        SELECT experiment_id FROM runs WHERE {new} UNION SELECT experiment_id FROM verdicts WHERE {new}
        EXCEPT SELECT id FROM experiments WHERE {new}
    """).fetchall()
    branches = connection.execute(f"SELECT id FROM branches WHERE {new}").fetchall()
    found: dict[int, str] = {}
    for column, names in (("id", told), ("branch", branches)):
        if names:
            wanted = f"{column} IN {_listed(_literal(name) for (name,) in names)} AND seq <= {known}"
            found |= dict(connection.execute(f"SELECT seq, id FROM experiments WHERE {wanted}").fetchall())
    return found


def _put_together_again(connection: duckdb.DuckDBPyConnection, earlier: Mapping[int, str]) -> list[int]:
    """Puts the rows of these experiments together again. Returns the places of those that are other keeps than before."""
    if not earlier:
        return []
    chosen, since = _listed(earlier), f"seq > {min(earlier)} AND experiment_id IN {_listed(map(_literal, earlier.values()))}"
    keeps = f"SELECT seq, val_bpb FROM history_rows WHERE seq IN {chosen} AND decision = 'keep'"
    before = set(connection.execute(keeps).fetchall())
    rows = _ROWS.format(of_experiments=f"e.seq IN {chosen}", of_runs=since, of_verdicts=since)
    values = ", ".join(f"{name} = x.{name}" for name in EARLIER)
    connection.execute(f"UPDATE history_rows SET {values} FROM ({rows}) x WHERE history_rows.seq = x.seq")
    return [seq for seq, _ in before ^ set(connection.execute(keeps).fetchall())]


def _find_best_again(connection: duckdb.DuckDBPyConnection, of_changed: str) -> None:
    """Corrects the best score so far of the experiments from these rows on, each on its branch."""
    rows = f"""
        SELECT h.seq, h.branch, h.number, h.best_so_far AS was FROM history_rows h JOIN (
            SELECT branch, min(number) AS number FROM history_rows WHERE {of_changed} GROUP BY branch
        ) c ON c.branch = h.branch AND h.number >= c.number
    """
    connection.execute(f"""
        UPDATE history_rows SET best_so_far = x.best_so_far FROM ({_WITH_BEST.format(rows=rows, kept=_STORED)}) x
        WHERE history_rows.seq = x.seq AND x.best_so_far IS DISTINCT FROM x.was
    """)


@contextlib.contextmanager
def transaction(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Commits what is done in the block, or takes it back."""
    connection.execute("BEGIN")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(duckdb.Error):  # there may be no transaction any more
            connection.execute("ROLLBACK")
        raise


def _listed(literals: Iterable[object]) -> str:
    return f"({', '.join(map(str, literals))})"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
