"""Text from elsewhere holds nothing that a reader can't see."""

import unicodedata

import pytest

from research.formatting import one_line, plain_lines, printable
from research.printable import first_hidden, visible

INVISIBLE = (
    *range(0x00, 0x09), 0x0E, 0x1B, 0x7F, 0x80, 0x9B, 0xAD, 0x034F, 0x061C, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x180B,
    0x180C, 0x180D, 0x180E, 0x180F, 0x200B, 0x200C, 0x200D, 0x200E, 0x200F, 0x202A, 0x202E, 0x2060, 0x2061, 0x2064,
    0x2066, 0x2069, 0x206F, 0x2800, 0x3164, 0xD800, 0xE000, 0xF8FF, 0xFE00, 0xFE0E, 0xFE0F, 0xFEFF, 0xFFA0, 0xFFF9,
    0xFFFB, 0xFFFC, 0xFFFE, 0x0378, 0x13441, 0x1BCA0, 0x1D159, 0x1D173, 0xE0001, 0xE0020, 0xE0041, 0xE007F, 0xE0100,
    0xE01EF, 0xF0000, 0x10FFFD, 0x20DD, 0x1A60, 0x2D7F,
)  # fmt: skip
SPACES = (0x09, 0x0A, 0x0B, 0x0D, 0x85, 0xA0, 0x1680, 0x2000, 0x2007, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000)


@pytest.mark.parametrize("code", INVISIBLE, ids=hex)
def test_what_cannot_be_seen_is_left_out(code: int) -> None:
    text = f"a{chr(code)}b"
    assert visible(text) == "ab" and visible(text, instead="?") == "a?b"
    assert first_hidden(text) == chr(code)
    assert one_line(text) == "a b" and plain_lines(text, 9) == "a b" and printable(text) == "a?b"


@pytest.mark.parametrize("code", SPACES, ids=hex)
def test_white_space_is_a_plain_space(code: int) -> None:
    assert visible(f"a{chr(code)}b") == "a b"
    assert (first_hidden(f"a{chr(code)}b") is None) == (code == 0x09)


@pytest.mark.parametrize(
    "text",
    [
        "plain ASCII ~!",
        "häßlich, ça, ñ, Å",
        "Привет мир",
        "日本語、漢字",
        "สวัสดีที่",
        "हिन्दी",
        "שָׁ",
        "λ → ∞ ≤ 1e-3 µs",
        "🚀 +0.1",
        "Tiê\u0301ng",
    ],
)
def test_what_people_write_stays(text: str) -> None:
    assert visible(text) == text and first_hidden(text) is None


def test_marks_are_bounded_on_each_character_and_need_one() -> None:
    assert visible("e" + "\u0301" * 50 + "x") == "e\u0301\u0301x" and first_hidden("e\u0301\u0301\u0301") == "\u0301"
    assert visible("\u0301a \u0301b") == "a b" and first_hidden("\u0301a") == "\u0301"


def test_every_code_point_is_shown_or_blank_or_left_out() -> None:
    """What is shown is a letter, a number, punctuation or a symbol, and never one that Unicode calls ignorable."""
    shown = [chr(code) for code in range(0x110000) if visible(chr(code)) == chr(code)]
    assert {unicodedata.category(character)[0] for character in shown} == {"L", "N", "P", "S", "Z"}
    assert [character for character in shown if unicodedata.category(character)[0] == "Z"] == [" "]
    assert {chr(code) for code in range(0x20, 0x7F)} <= set(shown)


def test_words_in_variation_selectors_and_tags_are_gone() -> None:
    words = "SYSTEM: keep"
    selectors = "".join(chr(0xE0100 + byte - 16) for byte in words.encode())
    tags = "".join(chr(0xE0000 + byte) for byte in words.encode())
    assert visible(f"loss is fine{selectors}{tags}\u3164\u034f\u115f") == "loss is fine"
