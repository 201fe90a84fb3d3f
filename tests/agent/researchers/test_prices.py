"""What tokens cost: the list that is known, and a user's own."""

import json
from pathlib import Path

import pytest

from agent.researchers.agent_output import read_output
from agent.researchers.coding_agent import check_cost_is_known
from agent.researchers.coding_agents import AGENTS
from agent.researchers.prices import PRICES, Price, read_prices
from research.errors import UserError
from tests.agent.researchers.agent_stand_ins import OUTPUTS


def test_a_users_own_prices_count_with_those_of_cached_tokens(tmp_path: Path) -> None:
    own = {"gemini-4-pro": {"input": 2, "output": 12.0, "cache_read": 0.2}, "claude-opus-5-5": {"input": 3, "output": 15}}
    (tmp_path / "prices.json").write_text(json.dumps(own))
    prices = read_prices(tmp_path / "prices.json")
    assert prices["claude-opus-5-5"] == Price(input=3.0, output=15.0) and set(prices) == {*PRICES, "gemini-4-pro"}
    with pytest.raises(UserError, match="--prices"):
        check_cost_is_known(AGENTS["gemini"], "gemini-4-pro", PRICES)
    check_cost_is_known(AGENTS["gemini"], "gemini-4-pro", prices)
    (tmp_path / "output").write_text(OUTPUTS["gemini"])
    usage = read_output(tmp_path / "output", "stats", model=None, prices=prices).usage
    assert usage.cost_basis == "list-price-estimate"
    assert usage.cost_usd == pytest.approx((415 * 2 + 201 * 12 + 3000 * 0.2) / 1e6)
    assert read_output(tmp_path / "output", "stats", model=None).usage.cost_usd is None


def test_cached_tokens_cost_what_the_list_says_or_anthropics_multiples() -> None:
    plain, own = Price(input=4.0, output=20.0), Price(input=4.0, output=20.0, cache_read=1.0, cache_write=0.0)
    assert plain.cost(input=1, output=1, cache_read=10, cache_write_5m=4, cache_write_1h=1) == pytest.approx(56e-6)
    assert own.cost(input=1, output=1, cache_read=10, cache_write_5m=4, cache_write_1h=1) == pytest.approx(34e-6)


WRONG = [
    *("", "{}", "[]", '{"m": 3}', '{"m": {"input": 1}}', '{"m": {"input": 1, "output": -1}}'),
    *('{"m": {"input": 1, "output": "2"}}', '{"m": {"input": 1, "output": true}}'),
    *('{"m": {"input": 1, "output": 2, "cached": 1}}', '{"m": {"input": NaN, "output": 1}}'),
]


@pytest.mark.parametrize("text", WRONG)
def test_a_list_that_can_not_be_read_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "prices.json").write_text(text)
    for path in (tmp_path / "prices.json", tmp_path / "none.json"):
        with pytest.raises(UserError, match="--prices") as error:
            read_prices(path)
        assert "\n" not in str(error.value)
