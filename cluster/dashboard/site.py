"""What all pages share: the reader of the home, the templates, and answers in which every text is escaped."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse

from agent.repo.branch_names import short_name
from cluster.dashboard import coloured
from cluster.dashboard.headlines import Headline, headlines
from cluster.dashboard.reader import HomeReader
from cluster.display import reason_alone
from research.command_hints import to_type
from research.formatting import duration, one_line
from research.printable import visible
from results.experiment import ExperimentRecord
from results.head_gain import interval_text
from results.history import BranchHistory
from results.outlines import Outline
from results.query import cell_text
from results.residuals import DeviceResidual, by_device, is_predicted, residuals

FOLDER = Path(__file__).parent

NOTHING = "\N{EN DASH}"
"""What stands for a value that there isn't."""

MINUS = "\N{MINUS SIGN}"

PAGES: Mapping[str, str] = {
    "/": "Overview",
    "/experiments": "Experiments",
    "/progress": "Progress",
    "/near-misses": "Near-misses",
    "/lineage": "Lineage",
    "/cost": "Cost",
    "/sql": "SQL",
    "/integrity": "Integrity",
}
"""The pages, in the order of the navigation."""

MOST_PREDICTED = 500
"""Experiments of a group by which its devices are judged, the latest ones whose scores were predicted."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What the journal says at one moment."""

    histories: list[BranchHistory]
    headlines: list[Headline]

    @property
    def records(self) -> "Records":
        """Each experiment, which is read when it is looked at, by its id."""
        return Records(self.headlines)

    def headline_of(self, id: str) -> Headline | None:
        """The headline of an experiment's group; None for an unknown one."""
        return next((one for one in self.headlines if id in one.group.place_of), None)

    def outlines(self, ids: Iterable[str]) -> dict[str, Outline]:
        """The outlines of these experiments, as far as they are known."""
        found = ((id, self.headline_of(id)) for id in ids)
        return {id: one.group.outlines[one.group.place_of[id]] for id, one in found if one is not None}

    @cached_property
    def residuals(self) -> dict[str, DeviceResidual]:
        """How the latest scores of each device differ from what all runs expect."""
        return by_device(
            residuals(record for one in self.headlines for record in one.group.latest(is_predicted, MOST_PREDICTED))
        )


class Records(Mapping[str, ExperimentRecord]):
    """The experiments of all groups by their ids, each of which is read when it is looked at."""

    def __init__(self, headlines: Sequence[Headline]) -> None:
        self._groups = [headline.group for headline in headlines]

    def __getitem__(self, id: str) -> ExperimentRecord:
        for group in self._groups:
            if id in group.place_of:
                return group.record(id)
        raise KeyError(id)

    def __contains__(self, id: object) -> bool:
        return any(id in group.place_of for group in self._groups)

    def __iter__(self) -> Iterator[str]:
        return (id for group in self._groups for id in group.place_of)

    def __len__(self) -> int:
        return sum(len(group.place_of) for group in self._groups)


@dataclass(frozen=True, kw_only=True)
class Site:
    """The parts that pages are made of."""

    reader: HomeReader
    environment: Environment
    allows_changes: bool
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _latest: list[Snapshot] = field(default_factory=list)

    def snapshot(self) -> Snapshot:
        """What the journal says now; the same as before if nothing is new."""
        histories = self.reader.histories()
        with self._lock:
            if not self._latest or self._latest[0].histories is not histories:
                found = headlines(histories, self.reader.home.runs)
                self._latest[:] = [Snapshot(histories=histories, headlines=found)]
            return self._latest[0]

    def page(self, request: Request, template: str, *, status_code: int = 200, **context: Any) -> HTMLResponse:
        """A whole page."""
        shared = {
            "path": request.url.path,
            "address": f"{request.url.path}{f'?{request.url.query}' if request.url.query else ''}",
            "pages": PAGES,
            "home": self.reader.home.folder,
            "is_running": self.reader.is_in_use(),
            "warnings": self.reader.warnings(),
            "allows_changes": self.allows_changes,
        }
        return HTMLResponse(
            self.environment.get_template(template).render(shared | self.farm_state() | context), status_code=status_code
        )

    def farm_state(self) -> dict[str, str]:
        """What the mark on top of each page says of the farm."""
        if self.reader.running() is not None:
            return {"farm_state": "farm running"}
        return {"farm_state": "farm doesn't answer" if self.reader.silent() else "no farm running"}

    def fragment(self, template: str, **context: Any) -> HTMLResponse:
        """A part of a page."""
        shared = {"allows_changes": self.allows_changes}
        return HTMLResponse(self.environment.get_template(template).render(shared | context))


def make_environment() -> Environment:
    """Templates in which every text is escaped, loses what can't be seen, and in which a name that there isn't is an error."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=shown,
    )
    filters: dict[str, Callable[..., Any]] = {
        "bpb": bpb, "signed": signed, "share": share, "probability": probability, "money": money, "thousands": thousands,
        "duration": _or_nothing(duration), "short": short_name, "when": when, "ago": ago, "one_line": one_line,
        "sql": coloured.sql, "plain": plain, "without": reason_alone, "cell": cell_text,
    }  # fmt: skip
    environment.filters.update(filters)
    environment.globals.update(interval=interval, to_type=to_type, nothing=NOTHING)
    return environment


def shown(value: Any) -> Any:
    """A value as a page shows it: nothing becomes a dash, and a text loses what can't be seen."""
    if value is None:
        return NOTHING
    return visible(value, instead=" ") if isinstance(value, str) and not isinstance(value, Markup) else value


def plain(text: str) -> Markup:
    """A text of several lines, each of which is escaped and loses what can't be seen."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return Markup("\n").join(visible(line.expandtabs(4), instead=" ") for line in lines)


def bpb(value: float | None) -> str:
    """A score, in bits per byte."""
    return NOTHING if value is None else f"{value:.6f}"


def signed(value: float | None, decimals: int = 4) -> str:
    """A gain or another difference, with its sign."""
    if value is None:
        return NOTHING
    rounded = round(value, decimals) + 0.0
    return f"{rounded:+.{decimals}f}".replace("-", MINUS)


def interval(value: float, low: float, high: float) -> str:
    """A gain with the ends of its interval."""
    return interval_text(value, low, high).replace("-", MINUS).replace(", ", " … ")


def probability(value: float | None) -> str:
    """A probability."""
    return NOTHING if value is None else f"{value:.2f}"


def share(value: float | None) -> str:
    """A share in percent."""
    return NOTHING if value is None else f"{value:.0%}"


def money(value: float | None) -> str:
    """US dollars."""
    return NOTHING if value is None else f"${value:,.2f}"


def thousands(value: float | None) -> str:
    """A whole number, with its thousands apart."""
    return NOTHING if value is None else f"{value:,.0f}"


def when(time: str | None) -> str:
    """A time of a record, UTC, to the minute."""
    return NOTHING if not time else f"{_parsed(time):%-d %b %H:%M}"


def ago(time: str | None) -> str:
    """How long a time of a record is past, in its largest unit."""
    if not time:
        return NOTHING
    seconds = max(0.0, (datetime.now(UTC) - _parsed(time)).total_seconds())
    for name, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= length:
            number = int(seconds // length)
            return f"{number} {name}{'' if number == 1 else 's'} ago"
    return "just now"


def _parsed(time: str) -> datetime:
    """A time as the journal or the database has it. Raises ValueError."""
    found = datetime.fromisoformat(time)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _or_nothing(form: Callable[[float], str]) -> Callable[[float | None], str]:
    return lambda value: NOTHING if value is None else form(value)
