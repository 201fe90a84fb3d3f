"""The pages that compare ideas, branches and researchers: progress, near-misses, lineage, cost."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cluster.dashboard.combinations import barred, combinations, in_waves, rivals
from cluster.dashboard.headlines import Headline
from cluster.dashboard.pictures import stairs
from cluster.dashboard.progress_points import points_sql, progress_json
from cluster.dashboard.reader import Estimates
from cluster.dashboard.site import Site
from cluster.home import home_option
from research.command_hints import to_type
from results.experiment import Head
from results.group_state import IdeaEstimate
from results.outlines import Outline
from results.researcher_yields import Yield, yields

MOST_NEAR_MISSES, MOST_COMBINATIONS, MOST_HEADS, MOST_BARRED, MOST_KEEPS = 200, 50, 200, 50, 200
"""Rows of the lists, the newest or the likeliest ones."""

RESEARCHER_COSTS = """
SELECT coalesce(researcher, '') AS researcher, coalesce(model, '') AS model, count(*) AS answers, sum(tokens) AS tokens,
       sum(cost_usd) AS cost_usd, bool_or(estimated) AS estimated,
       string_agg(DISTINCT cost_basis, ', ') AS basis
FROM costs GROUP BY 1, 2 ORDER BY cost_usd DESC NULLS LAST
"""

DEVICE_TIMES = """
SELECT device, count(*) AS runs, count(*) FILTER (status = 'ok') AS scored, sum(training_seconds) AS training,
       sum(startup_seconds) AS startup, sum(scoring_seconds) AS scoring, sum(total_seconds) AS total
FROM runs GROUP BY device ORDER BY device
"""

DUTY = """
SELECT worker, count(*) AS runs, min(began) AS first, max(ended) AS last,
       sum(epoch(ended - began)) / nullif(epoch(max(ended) - min(began)), 0) AS duty
FROM work WHERE worker IS NOT NULL AND ended IS NOT NULL GROUP BY worker ORDER BY worker
"""


def insight_routes(site: Site) -> list[Route]:
    """The pages and the points of the chart."""

    def progress(request: Request) -> Response:
        found = [(one, stairs(one.fall)) for one in site.snapshot().headlines]
        keeps = {one.name: one.group.latest(is_decided_keep, MOST_KEEPS) for one, _ in found}
        totals = {one.name: sum(map(is_decided_keep, one.group.outlines)) for one, _ in found}
        return site.page(request, "progress.html", title="Progress", headlines=found, keeps=keeps, totals=totals)

    def points(request: Request) -> Response:
        estimates, headlines = site.reader.estimates(wait_s=0.5), site.snapshot().headlines
        rows = site.reader.rows(points_sql(headlines, estimates)) if headlines else []
        return Response(progress_json(headlines, rows, estimates), media_type="application/json")

    def near_misses(request: Request) -> Response:
        return site.page(request, "near_misses.html", title="Near-misses", **near_miss_parts(site))

    def lineage(request: Request) -> Response:
        snapshot = site.snapshot()
        found = [(one, list(heads_of(one))[::-1][:MOST_HEADS], branches_of(one)) for one in snapshot.headlines]
        named = snapshot.outlines(id for _, steps, _ in found for step in steps for id in (*step.added, *step.left_out))
        return site.page(request, "lineage.html", title="Lineage", lines=found, known=named)

    def cost(request: Request) -> Response:
        return site.page(request, "cost.html", title="Cost", **cost_parts(site))

    return [
        Route("/progress", progress),
        Route("/progress.json", points),
        Route("/near-misses", near_misses),
        Route("/lineage", lineage),
        Route("/cost", cost),
    ]


def near_miss_parts(site: Site) -> dict[str, Any]:
    """The near-misses with what all runs say of them, and what was run of several ideas together."""
    estimates, records = site.reader.estimates(), site.snapshot().records
    likeliest = sorted((row for row in estimates.of.values() if row["is_near_miss"]), key=lambda row: -row["helps"])
    near = [(row, records[row["id"]]) for row in likeliest[:MOST_NEAR_MISSES] if row["id"] in records]
    groups = []
    for headline in site.snapshot().headlines:
        together = combinations(headline, records)
        groups.append((headline, together[:MOST_COMBINATIONS], in_waves(together), barred(headline, records, MOST_BARRED)))
    waves = {id: told for _, _, found, _ in groups for id, told in found.items()}
    titles = site.snapshot().outlines(waves)
    return {
        "estimates": estimates,
        "near": near,
        "near_total": estimates.near_misses,
        "rivals": rivals([record for _, record in near]),
        "groups": groups,
        "waves": sorted(waves.items(), key=lambda item: -item[1].gain),
        "titles": {id: outline.experiment.title for id, outline in titles.items()},
        "combine": to_type(f"farm combine{home_option(site.reader.home)}"),
    }


@dataclass(frozen=True, kw_only=True)
class HeadStep:
    """A head of a group and how it came from the one before."""

    head: Head
    made_by: Outline
    added: tuple[str, ...]
    left_out: tuple[str, ...]
    """Ids of the experiments whose ideas came into it and left it."""
    reason: str


def heads_of(headline: Headline) -> Iterator[HeadStep]:
    """The heads of a group after its baseline, oldest first."""
    before: frozenset[str] = frozenset()
    place, outlines = headline.group.place_of, headline.group.outlines
    events = [event for event in headline.group.head_events if event["experiment"] in place]
    for head, event in zip(headline.group.heads, events, strict=True):
        inside = frozenset(head.patches)
        yield HeadStep(
            head=head,
            made_by=outlines[place[head.experiment_id]],
            added=tuple(one for one in head.patches if one not in before),
            left_out=tuple(sorted(before - inside)),
            reason=str(event.get("reason", "")),
        )
        before = inside


def is_decided_keep(outline: Outline) -> bool:
    """Whether the latest decision on an experiment is that it is kept."""
    return outline.verdict is not None and outline.verdict.decision == "keep"


def branches_of(headline: Headline) -> list[dict[str, Any]]:
    """A row for each branch of a group: its experiments and what the head has of them."""
    inside = set(headline.group.head.patches) if headline.group.head else set()
    return [
        {
            "branch": history.branch,
            "done": sum(outline.is_done for outline in history.outlines),
            "kept": sum(outline.is_idea and is_decided_keep(outline) for outline in history.outlines),
            "in_head": sum(outline.experiment.id in inside for outline in history.outlines),
            "is_paused": history.branch.name in headline.group.steering.paused,
        }
        for history in headline.histories
    ]


def cost_parts(site: Site) -> dict[str, Any]:
    """What researchers and devices took, and what came of it."""
    estimates = site.reader.estimates()
    found = [(one, yields_of(one, estimates)) for one in site.snapshot().headlines]
    return {
        "groups": found,
        "estimates": estimates,
        "costs": site.reader.rows(RESEARCHER_COSTS),
        "devices": site.reader.rows(DEVICE_TIMES),
        "duty": {row["worker"]: row for row in site.reader.rows(DUTY)},
    }


def yields_of(headline: Headline, estimates: Estimates) -> Sequence[Yield]:
    """What each researcher of a group has found, and for what; gains are 0 as long as estimates aren't known."""
    group = headline.group
    inside = {
        id: IdeaEstimate(idea=id, **{name: row[name] for name in
                         ("effect", "low", "high", "helps", "price", "in_head", "is_near_miss")})
        for id, row in estimates.of.items()
        if row["in_head"] and row["head_branch"] == group.name
    }  # fmt: skip
    costs = [usage for history in headline.histories for usage in history.costs]
    return yields(group, inside, costs)
