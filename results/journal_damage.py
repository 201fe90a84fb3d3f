"""What people are told of damaged lines of a journal, and which of them keep a farm from starting."""

from collections.abc import Sequence
from pathlib import Path

from research.command_hints import to_type
from research.errors import UserError
from research.formatting import counted
from results.journal import DamagedLine


def check_whole(journal: Path, damaged: Sequence[DamagedLine], *, home_option: str = "") -> None:
    """Raises UserError, one line, if a line is damaged from which anything may follow: a head, a number, a score."""
    counts = [line for line in damaged if not line.is_telemetry]
    if counts:
        raise UserError(f"{damage_in_words(journal, counts)}, so nothing is run: {repair_hint(home_option)}")


def damage_in_words(journal: Path, damaged: Sequence[DamagedLine]) -> str:
    """Which lines of a journal are damaged, in one line."""
    more = f", and {counted(len(damaged) - 1, 'more line')}" if len(damaged) > 1 else ""
    return f"{journal}, line {damaged[0].number}: {damaged[0].problem}{more}; what was recorded there is not known"


def repair_hint(home_option: str = "") -> str:
    """The commands that say what a repair would do, and do it."""
    doctor = to_type(f"farm doctor{home_option}")
    return f"`{doctor}` says what can be done about it, and `{doctor} --repair` does it and keeps a copy."
