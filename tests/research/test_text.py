"""One of a thing is said otherwise than none or several."""

from research.text import counted


def test_only_one_is_singular() -> None:
    said = [counted(number, "training row") for number in (0, 1, 2, 12_000)]
    assert said == ["0 training rows", "1 training row", "2 training rows", "12,000 training rows"]
    assert [counted(number, "process", "processes") for number in (1, 2)] == ["1 process", "2 processes"]
