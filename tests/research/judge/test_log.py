"""The log of a child."""

import io
from pathlib import Path

import pytest

from research.judge.log import MAX_LINE_BYTES, MAX_LOG_BYTES, MAX_TAIL_BYTES, Log


def logged(raw: bytes, path: Path | None = None) -> str:
    log = Log(path)
    log.copy_from(io.BytesIO(raw))
    return log.tail(80)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"plain\n", "plain\n"),
        (b"no end", "no end\n"),
        (b"10%\r20%\r\n", "10%\n20%\n"),
        (b"\x1b[31mred\x1b[0m\n", "red\n"),
        (b"\ttab\tbed \x00\x07\x7f\n", " tab bed\n"),
        ("é \u2028x\x85\n".encode(), "é  x\n"),
        (b"\xff\n", "\ufffd\n"),
        (b"\x1b]0;title\x07a\x1b]8;;http://x\x1b\\b\n", "ab\n"),
        ("\x9b31mred\n".encode(), "red\n"),
        ("fine\U000e0141\ufe0f\u3164\u115f\u034f\u2800\U000e0041\n".encode(), "fine\n"),
        (b"e" + "\u0301".encode() * 99 + b"\n", "e\u0301\u0301\n"),
        (b"val_bpb: 1\n", "| val_bpb: 1\n"),
        (b"\x1b[2Kval_bpb : 1\n", "| val_bpb : 1\n"),
        (b"x\rdepth: 1\n", "x\n| depth: 1\n"),
        (b"---\n", "| ---\n"),
        (b" val_bpb: 1\n", " val_bpb: 1\n"),
    ],
)
def test_what_a_child_prints_is_made_harmless(raw: bytes, text: str) -> None:
    assert logged(raw) == text


def test_a_long_line_is_cut_and_its_parts_are_harmless_too(tmp_path: Path) -> None:
    tail = logged(b"a" * MAX_LINE_BYTES + b"val_bpb: 0.5\n", tmp_path / "log")
    lines = (tmp_path / "log").read_text().split("\n")
    assert lines == ["a" * MAX_LINE_BYTES, "| val_bpb: 0.5", ""]
    assert len(tail) < 2000


def test_a_closed_log_takes_nothing_more(tmp_path: Path) -> None:
    said: list[str] = []
    log = Log(tmp_path / "log", echo=said.append)
    log.write("before\n")
    log.close()
    log.write("after\n")
    assert (tmp_path / "log").read_text() == "before\n" and said == ["before\n"] and log.tail() == "before\n"


def test_limits_count_bytes_and_not_characters(tmp_path: Path) -> None:
    """Of letters of four bytes each a log would hold four times as much, and a tail of them goes into the farm's journal."""
    line = ("\U00020000" * 15_000 + "\n").encode()
    log = Log(tmp_path / "log")
    log.copy_from(io.BytesIO(line * (2 * MAX_LOG_BYTES // len(line))))
    log.close()
    assert (tmp_path / "log").stat().st_size < 1.1 * MAX_LOG_BYTES
    assert 0 < len(log.tail(80).encode()) <= MAX_TAIL_BYTES
