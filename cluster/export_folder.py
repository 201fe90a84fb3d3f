"""A folder with a home's history for others to read: Parquet, results.tsv of each branch, and a dataset card.

It is a dataset of the Hugging Face hub as it lies there. What a person has changed in it since is moved aside, never lost.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agent.repo.branch_names import short_name
from cluster.home import Home
from research.errors import UserError
from research.files import cure_of_refused_write, move_aside, sha256_of, write_atomically
from research.formatting import counted, size, utc_now
from results.counts import count
from results.history import BranchHistory, by_head
from results.tsv import write_results_tsv

if TYPE_CHECKING:
    from results.parquet_export import Exported

MANIFEST, CARD = "export.json", "README.md"
"""The file that lists what the farm has written there, and the dataset card."""

DATA, RESULTS = "data", "results"
"""The folders with Parquet files, and with a results.tsv of each branch."""

FIRST = "history"
"""The table that is shown first."""


def write_folder(folder: Path, home: Home, histories: Sequence[BranchHistory]) -> list[str]:
    """Writes or renews the folder. Returns lines on what is there now, and on what was moved aside.

    Raises UserError if it holds anything else, or can't be written.
    """
    from results.parquet_export import export_tables

    known = _known_files(folder)
    try:
        aside = [move_aside(path) for name, digest in known.items()
                 if (path := folder / name).is_file() and sha256_of(path) != digest]  # fmt: skip
        tables = export_tables(home.journal, folder / DATA)
        written = [table.path for table in tables]
        for history in histories:
            written.append(folder / RESULTS / f"{short_name(history.branch.name).replace('/', '-')}.tsv")
            write_results_tsv(written[-1], history.records)
        write_atomically(folder / CARD, card(histories, tables))
        written.append(folder / CARD)
        files = {str(path.relative_to(folder)): sha256_of(path) for path in written}
        write_atomically(folder / MANIFEST, json.dumps(_manifest(files, tables), indent=1) + "\n")
    except OSError as error:
        cure = cure_of_refused_write(error)
        raise UserError(f"{folder} can't be written ({error.strerror}): {cure}, or choose another.") from None
    total = size(sum(path.stat().st_size for path in written))
    rows = counted(sum(table.rows for table in tables), "row")
    branches = counted(len(histories), "branch", "branches")
    told = f"{folder}: {counted(len(tables), 'table')} with {rows}, and results.tsv of {branches}; {total}"
    return [told, *(f"what a person had changed is now {path}" for path in aside)]


def files_in(folder: Path) -> list[str]:
    """The names of the files that the farm has written to a folder, the manifest included."""
    return [MANIFEST, *_known_files(folder)]


def _known_files(folder: Path) -> dict[str, str]:
    """The files of an earlier export, each with its checksum; none in a folder that is new or empty.

    Raises UserError for a folder that holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: name a folder, which is made if there is none.")
    if not folder.exists() or not any(folder.iterdir()):
        return {}
    try:
        return {str(name): str(digest) for name, digest in json.loads((folder / MANIFEST).read_text())["files"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        raise UserError(f"{folder} holds files that are no export of the farm's: name a new or empty folder.") from None


def _manifest(files: dict[str, str], tables: "Sequence[Exported]") -> dict[str, object]:
    from results.parquet_export import SCHEMA_VERSION

    return {"schema_version": SCHEMA_VERSION, "made": utc_now(), "rows": {one.name: one.rows for one in tables}, "files": files}


def card(histories: Sequence[BranchHistory], tables: "Sequence[Exported]") -> str:
    """The dataset card: what the hub reads, then what people do."""
    from huggingface_hub import DatasetCardData

    from results.parquet_export import SCHEMA_VERSION

    ordered = sorted((one for one in tables if one.rows), key=lambda one: (one.name != FIRST, one.name))
    configs = [
        {
            "config_name": one.name,
            "data_files": f"{DATA}/{one.name}.parquet",
            **({"default": True} if one.name == FIRST else {}),
        }
        for one in ordered
    ]
    about = DatasetCardData(pretty_name="History of an autoresearch farm", tags=["autoresearch", "pretraining", "experiments"],
                            configs=configs)  # fmt: skip
    lines = [
        "# History of an autoresearch farm",
        "",
        "What AI agents tried on a pretraining script, what each run scored (`val_bpb`, validation bits per byte, lower is "
        "better), and what was kept. Scores compare within one platform and one score fingerprint.",
        "",
        *_heads(histories),
        "",
        f"The tables are those of `farm sql`, schema version {SCHEMA_VERSION}; each file says its version and what its columns "
        f"are in its metadata. `{RESULTS}/` has a results.tsv of each branch. Audit scores are left out.",
        *(line for one in ordered for line in _about(one)),
    ]
    return f"---\n{about.to_yaml()}\n---\n\n" + "\n".join(lines) + "\n"


def _heads(histories: Sequence[BranchHistory]) -> list[str]:
    """A line for each head: where it stands, and of how many experiments."""
    lines = []
    for sharing in by_head(histories):
        group, branch = sharing[0].group, sharing[0].branch
        counts = count(group.records)
        where = f"{branch.platform}, profile {branch.profile}"
        lines.append(f"- **{short_name(group.name)}** ({where}): {counts.experiments}, {counts.keeps}; {group.standing}")
    return lines


def _about(table: "Exported") -> list[str]:
    from results.table_formats import markdown_row

    columns = [markdown_row((f"`{name}`", comment)) for name, comment in table.columns.items()]
    heading = ["", "| column | |", "| --- | --- |", *columns] if columns else []
    return ["", f"## {table.name}", "", f"{counted(table.rows, 'row')}. {' '.join(table.comment.split())}".rstrip(), *heading]
