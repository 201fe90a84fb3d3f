"""The list of experiments: what a page's address asks for, as SQL. Filtering, sorting and paging are the database's work."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from urllib.parse import urlencode

from cluster.dashboard.reader import listed, quoted

PAGE_ROWS = 50

STATUSES: Mapping[str, str] = {
    "kept": "decision = 'keep'",
    "discarded": "decision = 'discard'",
    "failed": "decision IN ('crash', 'invalid')",
    "measured": "decision = 'measured'",
    "unfinished": "decision IS NULL",
}
"""What may be asked for -> the condition on the view `history`."""

ORDERS: Mapping[str, str] = {
    "created": "created {way}, number {way}",
    "number": "number {way}, branch",
    "title": "lower(title) {way}",
    "branch": "branch {way}, number DESC",
    "researcher": "researcher {way}, created DESC",
    "decision": "decision {way} NULLS FIRST, created DESC",
    "val_bpb": "val_bpb {way} NULLS LAST",
    "effect": "effect {way} NULLS LAST",
    "helps": "helps {way} NULLS LAST",
    "runs": "runs {way}, created DESC",
    "total_seconds": "total_seconds {way} NULLS LAST",
    "cost_usd": "cost_usd {way} NULLS LAST",
}
"""What the list may be sorted by -> the order."""

DOWNWARDS = ("created", "effect", "helps", "runs", "total_seconds", "cost_usd")
"""Columns that are sorted downwards at first: large ones are of interest."""

COLUMNS = (
    "id, number, kind, title, branch, researcher, decision, status, val_bpb, effect, helps, runs, total_seconds, cost_usd, "
    "created"
)

LONGEST_TEXT = 200
"""Characters of a filter."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What the list shows; empty texts filter nothing."""

    status: str = ""
    branch: str = ""
    researcher: str = ""
    slot: str = ""
    """A constant, function or class that the edit changes."""
    text: str = ""
    """Words in the title or the hypothesis."""
    sort: str = "created"
    down: bool = True
    page: int = 1

    @property
    def where(self) -> str:
        """The condition on the view `history`."""
        parts = [STATUSES[self.status]] if self.status else []
        wanted = {"branch": self.branch, "researcher": self.researcher}
        parts += [f"{name} = {quoted(value)}" for name, value in wanted.items() if value]
        if self.slot:
            parts.append("id IN (SELECT id FROM experiments WHERE list_contains(CAST(record -> '$.slots' AS VARCHAR[]), "
                         f"{quoted(self.slot)}))")  # fmt: skip
        if self.text:
            words, id = quoted(self.text.lower()), quoted(self.text)
            parts.append(f"(contains(lower(title), {words}) OR contains(lower(hypothesis), {words}) OR id = {id})")
        return " AND ".join(parts) or "true"

    def rows_sql(self) -> str:
        """The query for the rows of the page."""
        order = ORDERS[self.sort].format(way="DESC" if self.down else "ASC")
        offset = (self.page - 1) * PAGE_ROWS
        return f"SELECT {COLUMNS} FROM history WHERE {self.where} ORDER BY {order} LIMIT {PAGE_ROWS} OFFSET {offset}"

    def count_sql(self) -> str:
        """The query for the number of rows on all pages."""
        return f"SELECT count(*) AS total FROM history WHERE {self.where}"

    def address(self, **changes: str | int | bool) -> str:
        """The part of a link after `?` for this selection with some changes; what is as usual is left out."""
        wanted = replace(self, **changes)  # type: ignore[arg-type]
        usual = Selection(sort=wanted.sort, down=wanted.sort in DOWNWARDS)
        named = {name: getattr(wanted, name) for name in ("status", "branch", "researcher", "slot", "text", "down", "page")}
        words = {name: int(value) if isinstance(value, bool) else value
                 for name, value in named.items() if value != getattr(usual, name)}  # fmt: skip
        return urlencode(words | ({"sort": wanted.sort} if wanted.sort != "created" else {}))

    def sorted_by(self, column: str) -> str:
        """The part of a link after `?` that sorts by a column, the other way round if it is sorted by that already."""
        down = not self.down if column == self.sort else column in DOWNWARDS
        return self.address(sort=column, down=down, page=1)


def selection_from(query: Mapping[str, str]) -> Selection:
    """What an address asks for. What makes no sense there is as usual."""
    text = {name: query.get(name, "").strip()[:LONGEST_TEXT] for name in ("status", "branch", "researcher", "slot", "text")}
    sort = query.get("sort", "created")
    sort = sort if sort in ORDERS else "created"
    down = {"1": True, "0": False}.get(query.get("down", ""), sort in DOWNWARDS)
    page = query.get("page", "1")
    text["status"] = text["status"] if text["status"] in STATUSES else ""
    return Selection(**text, sort=sort, down=down, page=max(1, int(page)) if page.isdecimal() and len(page) < 7 else 1)


def queue_sql(ids: list[str]) -> str:
    """The query for where unfinished experiments stand in the queue."""
    return (
        "SELECT experiment, arg_max(state, queued) AS state, arg_max(worker, queued) AS worker FROM work "
        f"WHERE experiment IN {listed(ids)} GROUP BY experiment"
    )
