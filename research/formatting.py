"""Formatting of numbers, times and lines for people, in all packages. Standard library only."""

from datetime import UTC, datetime

from research.printable import kind_of, visible


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """`1 experiment`, `12 experiments`; `plural` is for a noun that takes more than an s."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def shortened(text: str, limit: int) -> str:
    """`text`, cut to `limit` characters if it is longer; the last one is then an ellipsis."""
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def one_line(text: str, limit: int | None = None) -> str:
    """`text` on one line, cut to `limit` characters: white space and what can't be seen become single spaces."""
    line = " ".join(visible(text, instead=" ").split())
    return line if limit is None else shortened(line, limit)


def plain_lines(text: str, limit: int) -> str:
    """`text` with its lines, cut to `limit` characters, of visible characters only."""
    lines = text[: 4 * limit].replace("\r\n", "\n").split("\n")
    return shortened("\n".join(visible(line, instead=" ").rstrip() for line in lines).strip(), limit)


def printable(name: object) -> str:
    """A path or another name as any terminal can show it: what can't be seen, and bytes that are not UTF-8, become `?`."""
    return "".join(character if character == " " or kind_of(character) in ("shown", "mark") else "?" for character in str(name))


def is_text(text: str) -> bool:
    """Whether a string can be written as UTF-8: Python keeps bytes that it can't decode as surrogates, which can't."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def utc_now() -> str:
    """The present time as ISO 8601, UTC, to the millisecond: `2026-03-08T20:00:00.000Z`."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def duration(seconds: float) -> str:
    """`45s`, `12m 05s`, `3h 07m`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02}m"


def size(count: float) -> str:
    """A number of bytes in decimal units: `42 bytes`, `200 kB`, `1.4 GB`."""
    if count < 1e3:
        return counted(round(count), "byte")
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= scale:
            return f"{count / scale:,.1f} {unit}"
    return f"{count / 1e3:.0f} kB"
