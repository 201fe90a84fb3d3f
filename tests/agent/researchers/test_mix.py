"""Mixes of researchers for the loops of one farm."""

from collections import Counter

import pytest

from agent.researchers.make import check_researcher
from agent.researchers.mix import EXAMPLE, researcher_of_loop, shares_of
from research.errors import UserError


@pytest.mark.parametrize("name", ["search", "claude", "codex", "command:a,b:2", "scripted:a,b.json"])
def test_one_researcher_is_that_of_every_loop(name: str) -> None:
    assert shares_of(name) == {name: 1}
    assert {researcher_of_loop(name, loop) for loop in range(5)} == {name}


@pytest.mark.parametrize(
    "mix", [EXAMPLE, "search:1,claude:1", "pi:3 , gemini:4", "hybrid:1,search:2", "hybrid:codex:2,hybrid:pi:1"]
)
def test_loops_get_the_mixs_proportions_and_repeat_them(mix: str) -> None:
    check_researcher(mix)
    shares = shares_of(mix)
    size = sum(shares.values())
    given = [researcher_of_loop(mix, loop) for loop in range(3 * size)]
    assert Counter(given[:size]) == shares
    assert given == given[:size] * 3
    for loops in range(1, size):  # few loops have about the same proportions
        counts = Counter(given[:loops])
        assert all(abs(counts[name] - loops * share / size) <= 1 for name, share in shares.items())


def test_a_share_that_gives_nothing_is_named_with_its_cure() -> None:
    for name, cure in (
        ("claude:2,search:0", "leave it out"),
        ("search:0", "--researcher search."),
        ("codex:2", "--researcher codex."),
    ):
        with pytest.raises(UserError) as error:
            check_researcher(name)
        assert cure in str(error.value) and EXAMPLE in str(error.value) and "No researcher is called" not in str(error.value)


@pytest.mark.parametrize(
    "mix",
    ["claude:2,", ",", "claude,search", "claude:2,search", "claude:0,search:1", "claude:-1,search:1", "claude:2,serch:1",
     "claude:1.5,search:1", "claude:2,claude:1", "claude:1000000000000,search:1", "search:1,command:x:1", "search:1,scripted:f",
     "search:²,claude:1", "hybrid:serch:1,search:1", "codex:x:1,search:1", "hybrid:search:1,pi:2", "search:1001,claude:1"],
)  # fmt: skip
def test_a_malformed_mix_is_refused_in_one_line(mix: str) -> None:
    with pytest.raises(UserError) as error:
        check_researcher(mix)
    assert "\n" not in str(error.value) and "--researcher" in str(error.value)
