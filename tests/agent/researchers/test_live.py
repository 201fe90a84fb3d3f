"""A Claude model through the real API, which needs a key and costs money: it runs only if it is asked for.

FARM_LIVE_TESTS=1 ANTHROPIC_API_KEY=... uv run pytest -n 0 -m live tests/agent/researchers/test_live.py
"""

import asyncio
import os

import pytest
from anthropic import AsyncAnthropic

from agent.compare_programs import same_code
from agent.researchers.budget import Budget
from agent.researchers.claude import DEFAULT_MODEL, ClaudeResearcher
from research.files import research_folder
from research.valid_train_py import problem_with
from results.experiment import Proposal, Usage
from tests.agent.samples import make_context, make_record

KEY = os.environ.get("FARM_LIVE_ANTHROPIC_API_KEY", "")
"""The key that tests/conftest.py has put aside from all other tests."""

MODEL = os.environ.get("FARM_LIVE_MODEL", DEFAULT_MODEL)

LIMIT_USD = 4.0

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(not KEY, reason="costs money: FARM_LIVE_TESTS=1 and ANTHROPIC_API_KEY ask for it"),
]


def test_a_real_model_proposes_two_edits_within_the_limit_and_the_second_reads_the_cache() -> None:
    train_py = (research_folder() / "train.py").read_text(encoding="utf-8")
    program = (research_folder().parent / "program.md").read_text(encoding="utf-8")
    charged: list[Usage] = []
    context = make_context(
        (make_record(0), make_record(1, title="MATRIX_LR 0.04 -> 0.08")), train_py, program=program, charge=charged.append,
        spent_usd=lambda: sum(usage.cost_usd or 0.0 for usage in charged),
    )  # fmt: skip

    async def ask() -> list[Proposal]:
        researcher = ClaudeResearcher(
            model=MODEL, budgets=[Budget(LIMIT_USD)], client=AsyncAnthropic(api_key=KEY, max_retries=0)
        )
        try:
            return [await researcher.propose(context) for _ in range(2)]
        finally:
            await researcher.close()

    for proposal in asyncio.run(ask()):
        assert problem_with(proposal.train_py) is None and not same_code(train_py, proposal.train_py)
        assert proposal.title and proposal.hypothesis and proposal.usage.answers >= 1
    assert all(usage.output_tokens > 0 and usage.cost_basis == "list-price-estimate" for usage in charged)
    assert 0 < sum(usage.cost_usd or 0.0 for usage in charged) <= LIMIT_USD
    assert sum(usage.cache_read_tokens for usage in charged[1:]) > 0
    print(f"{len(charged)} answers of {MODEL} for ${sum(usage.cost_usd or 0.0 for usage in charged):.2f}")
