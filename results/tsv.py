"""results.tsv: experiments in the five columns of karpathy/autoresearch.

People and agents add rows and notes of their own to the same file. What the farm's records don't explain stays where it is, in
the file that has it: two checkouts' files may have different rows, and none is copied from one to the other.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from research.files import move_aside, write_atomically
from research.formatting import one_line
from results.experiment import Decision, ExperimentRecord
from results.outlines import AnyRecord

HEADER = "commit\tval_bpb\tmemory_gb\tstatus\tdescription"

STATUSES: dict[Decision, str] = {"keep": "keep", "discard": "discard", "crash": "crash", "invalid": "crash"}
"""The file's status by decision; lost experiments are left out."""

MEASURED = "measured"
"""The status of a control, a confirmation or a run of a wave, which is no step of the branch: readers who look for keeps,
discards and crashes pass it over."""


MOST_READS = 5
"""How often a table is read again at most, when somebody has written it while its new text was made."""


def write_results_tsv(
    path: Path, records: Iterable[ExperimentRecord], *, others: Iterable[ExperimentRecord] = ()
) -> Path | None:
    """Writes, atomically, one line for each decided experiment, in the order given, into the table that is there or a new one.

    What somebody adds to the file meanwhile is taken up.
    Lines that no record wrote stay in place: a person's rows and notes. Those of `others`, the experiments of branches whose
    scores need not compare with these, leave the table; the journal has them. A new row comes before rows, a person's too,
    that name the commit of a later record, else after the table's last row; and where rows of `others` made way, a baseline
    heads the table, since readers take the first keep for the baseline. A file that is no such table is moved to
    `results.tsv.1`, or the next free number, and that path is returned.

    val_bpb has six decimals; memory_gb is in GiB with one decimal. Both are 0 for a crash, as the format has it.
    """
    target = path.resolve() if path.is_symlink() else path
    own, theirs, aside = list(records), list(others), None
    for _ in range(MOST_READS):
        version = _version(target)
        before = _read(target)
        if before is None:
            aside = move_aside(path)
            target, before, version = path, [], None
        kept = _without(before, theirs, own)
        lines = _merged(kept, own, heads=len(kept) < len(before))
        if _version(target) == version:
            break
    write_atomically(target, ("\n".join(lines) + "\n").encode("utf-8", "surrogateescape"))
    return aside


def _version(path: Path) -> tuple[int, int, int] | None:
    """What changes when somebody writes a file; None if there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def commits_in(path: Path) -> list[str]:
    """The commit of each row of a table, as its first column has it; none if there is no such file, or it is no table."""
    return [line.split("\t")[0].strip() for line in _lines(path) if _is_row(line)]


def rows_of_others(paths: Iterable[Path], records: Iterable[AnyRecord]) -> dict[Path, list[str]]:
    """The commits of the rows in each of these tables that none of the records wrote; files without such a row are left out."""
    rows = {path: [_without_status(line) for line in _lines(path) if _is_row(line)] for path in paths}
    written = set(_rows_so_far(list(records))) if any(rows.values()) else set()
    others = {path: [row.split("\t")[0].strip() for row in its if row not in written] for path, its in rows.items()}
    return {path: commits for path, commits in others.items() if commits}


def _lines(path: Path) -> list[str]:
    """The lines of a table; none if there is no such file, it can't be read, or it is no table."""
    try:
        return _read(path) or []
    except OSError:
        return []


def _read(path: Path) -> list[str] | None:
    """The lines of a table, with what isn't UTF-8 escaped; none if the file is missing or empty. None if it is no table."""
    try:
        text = path.read_bytes().decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return []
    except IsADirectoryError:
        return None
    lines = text.removeprefix("\ufeff").removesuffix("\n").split("\n") if text.strip() else []
    is_table = not lines or any(_is_header(line) or _is_row(line) for line in lines)
    return lines if is_table else None


def _without(lines: Sequence[str], others: Sequence[ExperimentRecord], own: Sequence[ExperimentRecord]) -> list[str]:
    """The lines that the other experiments didn't write."""
    theirs = set(_rows_so_far(others)) - set(_rows_so_far(own))
    return [line for line in lines if _without_status(line) not in theirs]


def _rows_so_far(records: Sequence[AnyRecord]) -> dict[str, list[int]]:
    """Every row that these records have had, less its status, with the positions of its records."""
    found: dict[str, list[int]] = {}
    for index, record in enumerate(records):
        for row in {_row(record, runs) for runs in range(len(record.runs) + 1)} - {None}:
            found.setdefault(_without_status(str(row)), []).append(index)
    return found


def _merged(before: Sequence[str], records: Sequence[ExperimentRecord], *, heads: bool) -> list[str]:
    """The lines of the file with these records' rows: those that are there brought up to date, the others added.

    `heads`: a baseline goes to the top, if none of the rows is there.
    """
    rows = {index: row for index, record in enumerate(records) if (row := _row(record, len(record.runs))) is not None}
    earlier = _rows_so_far(records)
    commits = {record.experiment.commit[:7]: index for index, record in reversed(list(enumerate(records)))}
    lines: list[str] = []
    places: list[int] = []  # of each line's record among `records`; -1 for other lines
    for line in before if any(_is_header(line) for line in before) else [HEADER, *before]:
        known = [index for index in earlier.get(_without_status(line), ()) if index in rows]
        heads = heads and not known
        lines.append(rows.pop(known[0]) if known else line)
        places.append(known[0] if known else commits.get(line.split("\t")[0].strip(), -1) if _is_row(line) else -1)
    end = 1 + max(at for at, line in enumerate(lines) if _is_header(line) or _is_row(line))
    first, latest = min(rows, default=-1), max(places)
    for index, row in rows.items():
        heads = heads and records[index].experiment.kind == "baseline"
        is_latest = index >= latest  # nearly always: looking for its place would take the square of the rows' time
        at = _at_top(lines) if heads and index == first else end if is_latest else _before_later(places, index)
        lines.insert(at, row)
        places.insert(at, index)
        end, latest = end + 1, max(latest, index)
    return lines


def _at_top(lines: Sequence[str]) -> int:
    return 1 + next(at for at, line in enumerate(lines) if _is_header(line))


def _before_later(places: Sequence[int], index: int) -> int:
    """Before the first line whose record has a later place than this one."""
    return next(at for at, place in enumerate(places) if place > index)


def rows_so_far(record: ExperimentRecord) -> set[tuple[str, float | None]]:
    """The commit, as rows have it, and the score of every row that a record has had, from one run to all; None: no score."""
    told = [
        ExperimentRecord(experiment=record.experiment, runs=record.runs[:runs]).val_bpb for runs in range(len(record.runs) + 1)
    ]
    return {(record.experiment.commit[:7], None if val_bpb is None else round(val_bpb, 6)) for val_bpb in told}


def _row(record: AnyRecord, runs: int) -> str | None:
    """An experiment's row as it was written after its first runs; None for one that isn't written."""
    status = STATUSES.get(record.verdict.decision) if record.verdict else None
    if status is None:
        return None
    if record.is_measurement:
        status = MEASURED
    then = record.after(runs)
    val_bpb, memory = then.val_bpb, then.peak_memory_mb
    score, memory_gb = "0.000000", "0.0"
    if status != "crash":
        score = "" if val_bpb is None else f"{val_bpb:.6f}"
        memory_gb = "" if memory is None else f"{memory / 1024:.1f}"
    description = one_line(_described(record).replace('"', "'")).encode(errors="replace").decode()
    return "\t".join((record.experiment.commit[:7], score, memory_gb, status, description))


def _described(record: AnyRecord) -> str:
    """The title, which says of the baseline again, under fresh seeds or as a control, that it is no idea."""
    kind, title = record.experiment.kind, record.experiment.title
    return f"{kind}: {title}" if kind in ("control", "confirm") and not title.startswith(kind) else title


def _is_header(line: str) -> bool:
    return line.rstrip().lower() == HEADER


def _is_row(line: str) -> bool:
    columns = line.split("\t")
    return len(columns) == 5 and columns[3].strip() in (*STATUSES.values(), MEASURED)


def _without_status(row: str) -> str:
    """A row less its status, which another decision on the same runs may have changed."""
    columns = row.rstrip("\r").split("\t")
    return "\t".join((*columns[:3], *columns[4:]))
