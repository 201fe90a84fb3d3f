"""`farm report --html FILE` and `--card FILE`: writes the files, and says where they are."""

from collections.abc import Callable, Sequence
from pathlib import Path

from cluster.home import Home
from cluster.replaced_files import check_may_replace
from research.errors import UserError
from research.files import user_path
from research.formatting import size
from results.history import BranchHistory


def write_files(home: Home, histories: Sequence[BranchHistory], *, html: str | None, card: str | None) -> list[str]:
    """Writes what is asked for. Returns a line on each file. Raises UserError if one can't be written."""
    targets = [Path(name) for name in (html, card) if name is not None]
    if len({path.resolve() for path in targets}) < len(targets):
        raise UserError("--html and --card name one file: give each its own.")
    for option, name in (("--html", html), ("--card", card)):
        if name is not None:
            check_may_replace(user_path(name, instead=f"another path for {option}"), home, option=option)
    if card is not None and Path(card).suffix.lower() != ".png":
        raise UserError(f"--card {card}: the picture is a PNG, so give it a name that ends in .png.")
    lines = []
    if html is not None:
        from cluster.morning_report.page import write_report

        lines += _written("report", html, "--html", lambda path: write_report(path, home, histories))
    if card is not None:
        from cluster.morning_report.card_of import card_of, newest_head
        from results.card import write_card

        drawn = card_of(newest_head(home, histories))
        lines += _written("picture", card, "--card", lambda path: write_card(path, drawn))
    return lines


def _written(what: str, name: str, option: str, write: Callable[[Path], Path | None]) -> list[str]:
    path = user_path(name, instead=f"another path for {option}")
    if path.is_dir():
        raise UserError(f"{option} {path}: that is a folder, so name a file in it.")
    try:
        aside = write(path)
    except OSError as error:
        raise UserError(f"{option} {path} can't be written ({error.strerror}): choose another place.") from None
    moved = [f"what was there is no {what} of the farm's: it is now {aside}"] if aside is not None else []
    return [f"{what}: {path} ({size(path.stat().st_size)})", *moved]
