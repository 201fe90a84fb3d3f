"""Functions of texts that remember their answers."""

import pytest

from research.remembered_texts import Remembered


def test_an_answer_is_found_once_or_told() -> None:
    asked: list[str] = []

    @Remembered
    def length(text: str, more: int = 0) -> int:
        asked.append(text)
        if not text:
            raise ValueError
        return len(text) + more

    assert [length("abc"), length("abc"), length("abc", 1), length("abc", more=2)] == [3, 3, 4, 5]
    assert asked == ["abc"] * 3
    length.tell(7, "told")
    assert length.knows("told") and length("told") == 7 and not length.knows("")
    for _ in range(2):
        with pytest.raises(ValueError):
            length("")
    assert asked[-2:] == ["", ""]


def test_arguments_are_told_apart_and_the_oldest_answers_are_forgotten() -> None:
    joined = Remembered(lambda one, other: f"{one}|{other}", most=3)
    assert joined("a", "bc") == "a|bc" and joined("ab", "c") == "ab|c"
    for number in range(3):
        joined("n", str(number))
    assert not joined.knows("a", "bc") and joined.knows("n", "2")
