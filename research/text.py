"""How people say it: for the texts of all packages. Standard library only."""


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """`1 experiment`, `12 experiments`; `plural` for a noun that takes more than an s."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"
