"""The morning report as one HTML file: it needs no script, and asks no host for anything."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from markupsafe import Markup

from cluster.dashboard.headlines import headlines
from cluster.dashboard.site import FOLDER, make_environment
from cluster.home import Home, home_option
from cluster.morning_report.group_report import group_report
from cluster.morning_report.next_steps import next_steps
from research.command_hints import to_type
from research.files import move_aside, write_atomically
from research.formatting import utc_now
from results.history import BranchHistory
from results.plot import DRAWN_BY, is_free
from results.report import REPORT_NOTE

TEMPLATE = Path(__file__).with_name("report.html")


def write_report(path: Path, home: Home, histories: Sequence[BranchHistory]) -> Path | None:
    """Writes the report on some branches of a home, atomically. Returns where a file is now that was there and isn't a report.

    Raises OSError.
    """
    text = report_html(home, histories)
    aside = None if is_free(path) else move_aside(path)
    write_atomically(path, text)
    return aside


def report_html(home: Home, histories: Sequence[BranchHistory]) -> str:
    """The whole file, about the heads of these branches, the newest first."""
    option = home_option(home)
    commands = partial(_command, option=option)
    groups = [group_report(one) for one in headlines(histories, home.runs)]
    style = (FOLDER / "static" / "farm.css").read_text(encoding="utf-8")
    template = make_environment().from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        generator=DRAWN_BY,
        style=Markup(style),  # the package's own file
        made=utc_now(),
        groups=[(one, next_steps(one.headline, near_misses=one.near_misses_in_all, to_type=commands)) for one in groups],
        note=REPORT_NOTE,
        command=commands,
    )


def _command(words: str, *, option: str) -> str:
    """A command of `farm` as its reader can type it, with the home that it is about."""
    name, _, rest = words.removeprefix("farm ").partition(" ")
    return to_type(" ".join(filter(None, (f"farm {name}{option}", rest))))
