import pytest

from agent.diff import apply_diff, hunks, unified_diff

BASE = "DEPTH = 2  # layers\nRATE = 0.5\n\n\ndef f():\n    return DEPTH * RATE\n"
DEEP = BASE.replace("= 2 ", "= 3 ")
PLUS = BASE.replace("DEPTH * RATE", "DEPTH + RATE")


def test_a_diff_is_read_hunk_by_hunk() -> None:
    old = "".join(f"{number}\n" for number in range(30))
    new = old.replace("2\n3\n", "2\n-- a\n", 1).replace("28\n", "")
    first, second = hunks(unified_diff(old, new))
    assert (first.old_start, first.new_start, second.old_start, second.new_start) == (1, 1, 26, 26)
    assert (first.removed, first.added) == (["3"], ["-- a"])
    assert (second.removed, second.added) == (["28"], [])
    assert second.old == ["25", "26", "27", "28", "29"] and second.new == ["25", "26", "27", "29"]
    assert second.reversed().added == ["28"] and second.reversed().reversed() == second
    assert list(hunks("")) == []


def test_a_line_that_looks_like_a_file_name_is_a_line() -> None:
    diff = unified_diff("a\n-- b\n", "a\n++ c\n")
    assert "\n--- b\n" in diff and "\n+++ c\n" in diff
    (hunk,) = hunks(diff)
    assert (hunk.removed, hunk.added) == (["-- b"], ["++ c"])


def test_hunks_without_a_length_and_missing_line_ends() -> None:
    assert "@@ -1 +1 @@" in unified_diff("a", "b")
    assert unified_diff("a", "b").count("No newline at end of file") == 2
    (hunk,) = hunks(unified_diff("", "a = 1\x0c\nb = 2\n"))
    assert hunk.added == ["a = 1\x0c", "b = 2"]


@pytest.mark.parametrize(("old", "new"), [(BASE, DEEP), (BASE, PLUS), (DEEP, PLUS), (BASE, BASE + "x = 1\n"), (BASE, "")])
def test_diffs_are_applied_and_undone(old: str, new: str) -> None:
    diff = unified_diff(old, new)
    assert apply_diff(old, diff) == new
    assert apply_diff(new, diff, reverse=True) == old
    with pytest.raises(ValueError, match="does not fit"):
        apply_diff("other\n", diff)


def test_a_diff_that_was_cut_off_does_not_fit_or_gives_what_is_left() -> None:
    diff = unified_diff(BASE, PLUS)
    cut = diff[: diff.index("+    return")]
    assert apply_diff(BASE, cut) == BASE.replace("    return DEPTH * RATE\n", "")
    with pytest.raises(ValueError, match="does not fit"):
        apply_diff(BASE, diff[: diff.index("DEPTH * RATE")])
