"""Numbers, times and lines as people read them."""

from datetime import datetime, timedelta

from research.formatting import counted, duration, one_line, plain_lines, shortened, size, utc_now


def test_only_one_is_singular() -> None:
    said = [counted(number, "training row") for number in (0, 1, 2, 12_000)]
    assert said == ["0 training rows", "1 training row", "2 training rows", "12,000 training rows"]
    assert [counted(number, "process", "processes") for number in (1, 2)] == ["1 process", "2 processes"]


def test_one_line_has_no_line_breaks_or_control_characters() -> None:
    assert one_line(" a\tb\r\n\n c\x1b[31m d\u2028e ") == "a b c [31m d e"
    assert one_line("one two three", 8) == "one two…" and one_line("one two", 7) == "one two"


def test_what_is_shortened_is_never_longer_than_its_limit() -> None:
    assert [shortened("abcdef", limit) for limit in (1, 5, 6, 7)] == ["…", "abcd…", "abcdef", "abcdef"]


def test_the_present_time_is_utc_to_the_millisecond() -> None:
    now = utc_now()
    assert len(now) == len("2026-03-08T20:00:00.000Z") and now.endswith("Z")
    assert datetime.fromisoformat(now).utcoffset() == timedelta(0)


def test_durations_and_sizes() -> None:
    assert [duration(s) for s in (0, 59.6, 725, 11_220)] == ["0s", "1m 00s", "12m 05s", "3h 07m"]
    assert [size(n) for n in (200_000, 1.44e9, 3e6, 2.5e15)] == ["200 kB", "1.4 GB", "3.0 MB", "2,500.0 TB"]


def test_plain_lines_are_lines_without_control_characters() -> None:
    assert plain_lines(" a\x00b \r\n\x1b[1mc\u202e\n\n", 80) == "a b\n [1mc"
    assert len(plain_lines("x\n" * 999, 40)) <= 40 and plain_lines("", 9) == ""
