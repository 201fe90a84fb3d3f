"""The list of experiments, and the page of each."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from agent.diff import unified_diff
from agent.repo.repository import train_py_at
from agent.repo.worktree import commit_exists
from cluster.command_parser import DEFAULT_SEEDS
from cluster.dashboard.coloured import diff_lines
from cluster.dashboard.experiments_list import PAGE_ROWS, STATUSES, Selection, queue_sql, selection_from
from cluster.dashboard.headlines import Headline
from cluster.dashboard.pictures import curves
from cluster.dashboard.site import Site
from research.errors import UserError
from results.experiment import ExperimentRecord
from results.group_history import GroupHistory
from results.history import experiment_named
from results.outlines import ExperimentOutline

BRANCHES = "SELECT id FROM branches ORDER BY seq DESC"
RESEARCHERS = "SELECT DISTINCT researcher FROM experiments ORDER BY 1"
SLOTS = """
SELECT DISTINCT unnest(CAST(record -> '$.slots' AS VARCHAR[])) AS slot
FROM (SELECT record FROM experiments ORDER BY seq DESC LIMIT 5_000) ORDER BY 1
"""
"""What the latest experiments change."""

MOST_SLOTS = 500
"""Names that the filter by what an edit changes proposes."""


def experiment_routes(site: Site) -> list[Route]:
    """The list, its rows, and the page of one experiment."""

    def page(request: Request) -> Response:
        choices: dict[str, Any] = {
            "statuses": list(STATUSES),
            "branches": [row["id"] for row in site.reader.rows(BRANCHES)],
            "researchers": [row["researcher"] for row in site.reader.rows(RESEARCHERS)],
            "slots": [row["slot"] for row in site.reader.rows(f"{SLOTS} LIMIT {MOST_SLOTS}")],
        }
        selection = selection_from(request.query_params)
        return site.page(request, "experiments.html", title="Experiments", **choices, **list_parts(site, selection))

    def rows(request: Request) -> Response:
        selection = selection_from(request.query_params)
        return site.fragment("fragments/experiment_rows.html", **list_parts(site, selection))

    def one(request: Request) -> Response:
        return site.page(request, "experiment.html", **experiment_parts(site, request))

    return [
        Route("/experiments", page),
        Route("/fragments/experiment_rows", rows),
        Route("/experiments/{id:path}", one),
    ]


def list_parts(site: Site, selection: Selection) -> dict[str, Any]:
    """What the list shows."""
    ((total,),) = site.reader.table(selection.count_sql()).rows
    pages = max(1, -(-total // PAGE_ROWS))
    selection = replace(selection, page=min(selection.page, pages))
    rows = site.reader.rows(selection.rows_sql())
    unfinished = [row["id"] for row in rows if row["decision"] is None]
    queue = {row["experiment"]: row for row in site.reader.rows(queue_sql(unfinished))} if unfinished else {}
    return {
        "selection": selection,
        "rows": rows,
        "total": total,
        "first": (selection.page - 1) * PAGE_ROWS + 1,
        "pages_total": pages,
        "queue": queue,
        "is_running": site.reader.is_in_use(),
    }


def experiment_parts(site: Site, request: Request) -> dict[str, Any]:
    """What the page of an experiment shows. Raises HTTPException 404 if there is none of that name."""
    snapshot, name = site.snapshot(), request.path_params["id"]
    record = snapshot.records.get(name)
    if record is None:
        try:
            record = experiment_named(snapshot.histories, name, ask="farm sql")
        except UserError as error:
            raise HTTPException(404, str(error)) from None
    headline = snapshot.headline_of(record.experiment.id)
    assert headline is not None, "each group has one"
    experiment, against = record.experiment, request.query_params.get("against", "parent")
    text, problem = (experiment.diff, "")
    if against == "baseline":
        text, problem = diff_against_baseline(site.reader.home.repositories(), record, headline)
    head = headline.head
    named = [("this experiment", record)]
    named += [("the head", head)] if head is not None and head.experiment.id != experiment.id else []
    baseline = headline.baseline.experiment.id if headline.baseline else ""
    before, after = neighbours(headline.group, experiment.id)
    return {
        "title": experiment.title or experiment.id,
        "record": record,
        "experiment": experiment,
        "headline": headline,
        "decisions": headline.group.decisions.get(experiment.id, ()),
        "estimate": site.reader.estimate_of(experiment.id, wait_s=0.5),
        "diff": diff_lines(text),
        "against": "baseline" if against == "baseline" else "parent",
        "diff_problem": problem,
        "curves": curves(named),
        "parents": [(id, snapshot.records.get(id)) for id in experiment.parents],
        "seeds": DEFAULT_SEEDS,
        "is_confirmable": record.val_bpb is not None and experiment.kind != "baseline" and experiment.id != baseline,
        "audit": [run for run in record.runs if run.audit_bpb is not None],
        "before": before,
        "after": after,
    }


def neighbours(group: GroupHistory, id: str) -> tuple[ExperimentOutline | None, ExperimentOutline | None]:
    """The experiments before and after one on its branch."""
    place, outlines = group.place_of[id], group.outlines
    branch = outlines[place].experiment.branch

    def first(places: range) -> ExperimentOutline | None:
        return next((outlines[at].experiment for at in places if outlines[at].experiment.branch == branch), None)

    return first(range(place)[::-1]), first(range(place + 1, len(outlines)))


def diff_against_baseline(repositories: Sequence[Path], record: ExperimentRecord, headline: Headline) -> tuple[str, str]:
    """The diff of an experiment's train.py against its baseline's, and why there is none."""
    baseline, commit = headline.group.branches[0].baseline_commit, record.experiment.commit
    if headline.baseline is not None:
        baseline = headline.baseline.experiment.commit
    for repository in repositories:
        if commit_exists(repository, commit) and commit_exists(repository, baseline):
            return unified_diff(train_py_at(repository, baseline), train_py_at(repository, commit)), ""
    return "", "The commits are in no git repository here: farm fetch brings those of a farm that runs elsewhere."
