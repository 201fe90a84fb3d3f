"""A researcher that asks a Claude model through the Messages API: one conversation per idea, built afresh from the store.

Each answer's cost is recorded as it arrives, and the worst case of each call is reserved before it is made. If the model's turn
breaks (an unreadable answer, a refusal, an error that lasts) while train.py already holds an edit that can be tried, the model
is asked once more; then the edit is tried as it stands. Without such an edit the proposal fails.
"""

import asyncio
import random
import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import anthropic
import httpx2
from anthropic import AsyncAnthropic, omit

from agent.researcher import BudgetSpent, Context, NotConfigured, ProposalFailed
from agent.researchers.budget import Budget, all_reserved, least_free_usd
from agent.researchers.claude_answer import CHARACTERS_PER_TOKEN, Answer, Tokens, read_answer
from agent.researchers.claude_conversation import ClaudeConversation
from agent.researchers.claude_docs import Docs
from agent.researchers.claude_draft import Draft
from agent.researchers.claude_editor import Editor
from agent.researchers.claude_failures import (
    LONGEST_RETRY_PAUSE_S,
    MAX_RETRIES,
    RETRY_PAUSE_S,
    Unavailable,
    answer_was_lost,
    api_failure,
    failure_of,
    failure_of_transport,
)
from agent.researchers.claude_prompt import system_of
from agent.researchers.claude_repair import MAX_REPAIRS, Repair, repair_due
from agent.researchers.claude_tools import TOOLS
from agent.researchers.prices import PRICES, PRICES_AS_OF, Price
from research.errors import UserError
from research.formatting import counted, one_line
from results.experiment import Proposal, Usage
from results.researcher_costs import total

DEFAULT_MODEL = "claude-opus-5-5"
MAX_TURNS = 40
MAX_TOKENS = 32_000
"""Limit for one response, thinking included."""
LEAST_TOKENS = 4_000
"""Limit below which a response is not worth asking for, where little is left of a budget."""
INACTIVITY_S = 120.0
"""Seconds of silence after which an answer is given up: while it comes, the API sends something every few seconds."""
LONGEST_ANSWER_S = 1_800.0
"""Seconds after which an answer is given up that still comes."""

Effort = Literal["low", "medium", "high", "xhigh", "max"]
EFFORTS: tuple[Effort, ...] = ("low", "medium", "high", "xhigh", "max")
"""How much a model thinks, as the API takes it."""


class ClaudeResearcher:
    """Lets a model edit train.py in memory until it submits an idea."""

    name = "claude"

    def __init__(self, *, model: str = DEFAULT_MODEL, effort: str | None = None, budgets: Sequence[Budget] = (),
                 client: AsyncAnthropic | None = None, retry_pause_s: float = RETRY_PAUSE_S, max_turns: int = MAX_TURNS,
                 inactivity_s: float = INACTIVITY_S, prices: Mapping[str, Price] = PRICES) -> None:  # fmt: skip
        """`client` must not retry by itself, since each attempt's cost counts. `effort` is one of EFFORTS; None: the API's own.

        Raises UserError, for instance NotConfigured without a key.
        """
        self.model, self.effort = model, checked_effort(effort)
        self.price, self.budgets = prices.get(model), tuple(budgets)
        if self.budgets and self.price is None:
            unknown = f"the price of {model} isn't known (as of {PRICES_AS_OF})"
            raise UserError(
                f"--max-cost can't be enforced, since {unknown}: give it by --prices FILE, or choose another --model."
            )
        self._client = client or _default_client()
        self._retry_pause_s, self._max_turns, self._inactivity_s = retry_pause_s, max_turns, inactivity_s
        self._docs = Docs()
        self._told: Counter[str] = Counter()
        """How often the model was told of each crash."""

    async def propose(self, context: Context) -> Proposal:
        """Asks the model until it submits an idea. Raises BudgetSpent, ProposalFailed, or NotConfigured for a bad key."""
        started = time.monotonic()
        repair = self._repair(context)
        usage = Usage(researcher=self.name, model=self.model, cost_usd=None if self.price is None else 0.0,
                      proposal=uuid.uuid4().hex)  # fmt: skip
        editor = Editor(context.train_py if repair is None else repair.train_py)
        draft = Draft(context=context, editor=editor, docs=self._docs, repaired="" if repair is None else repair.id)
        conversation = ClaudeConversation(context=context, draft=draft, repair=repair, usage=usage)
        try:
            await self._until_submitted(conversation)
        except (BudgetSpent, ProposalFailed, NotConfigured) as end:
            if not draft.is_usable:
                if isinstance(end, ProposalFailed):
                    end.usage = conversation.usage
                raise
            draft.submit_unfinished(str(end))
        return draft.proposal(self.name, replace(conversation.usage, seconds=time.monotonic() - started))

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()

    def _repair(self, context: Context) -> Repair | None:
        """The crash of its own that the model is to mend now; None without one, or if it was told of it often enough."""
        repair = None if context.guidance.suggestion is not None else repair_due(context, self.name)
        if repair is None or self._told[repair.id] >= MAX_REPAIRS:
            return None
        self._told[repair.id] += 1
        return repair

    async def _until_submitted(self, conversation: ClaudeConversation) -> None:
        asked_again = False
        for _ in range(self._max_turns):
            try:
                await conversation.respond(await self._answer(conversation))
            except ProposalFailed as failure:
                if asked_again or not conversation.draft.is_usable:
                    raise
                asked_again = True
                conversation.say(
                    f"Your last answer could not be used: {failure} train.py is as your last edit left it. Call submit."
                )
            if conversation.draft.submission is not None:
                return
        raise ProposalFailed(f"The model submitted nothing in {counted(self._max_turns, 'turn')}.")

    async def _answer(self, conversation: ClaudeConversation) -> Answer:
        """The next answer that can be used, asked for again while the API is busy. Raises ProposalFailed, for instance."""
        pause = self._retry_pause_s
        for attempt in range(MAX_RETRIES + 1):
            try:
                return await self._reserve_and_ask(conversation)
            except Unavailable as failure:
                asked_for = failure.retry_after_s or 0.0
                if attempt == MAX_RETRIES or asked_for > LONGEST_RETRY_PAUSE_S:
                    raise
                await asyncio.sleep(max(pause * random.uniform(1.0, 1.5), asked_for))  # loops don't come back all at once
                pause *= 2
        raise AssertionError("the last attempt returns or raises")

    async def _reserve_and_ask(self, conversation: ClaudeConversation) -> Answer:
        """One request, whose worst case is kept of every limit meanwhile. Raises BudgetSpent if it doesn't fit."""
        if self.price is None:
            return await self._ask(conversation, MAX_TOKENS)
        read_usd = self.price.cost(input=0, output=0, cache_write_1h=conversation.most_input_tokens)
        free = least_free_usd(self.budgets, conversation.context)
        most = MAX_TOKENS
        if free is not None:
            most = max(LEAST_TOKENS, min(MAX_TOKENS, int((free - read_usd) / self.price.cost(input=0, output=1))))
        async with all_reserved(self.budgets, read_usd + self.price.cost(input=0, output=most), conversation.context):
            return await self._ask(conversation, most)

    async def _ask(self, conversation: ClaudeConversation, max_tokens: int) -> Answer:
        """One request. Whatever it costs is recorded before anything is made of the answer."""
        characters, started, body = conversation.characters, time.monotonic(), bytearray()
        try:
            async with asyncio.timeout(LONGEST_ANSWER_S):
                status = await self._receive(conversation, max_tokens, body)
        except (anthropic.AnthropicError, httpx2.HTTPError, TimeoutError, asyncio.CancelledError) as error:
            if body or answer_was_lost(error):
                self._charge(conversation, _tokens_of_lost(bytes(body), characters), started)
            if isinstance(error, asyncio.CancelledError):  # the farm ends
                raise
            if isinstance(error, anthropic.AnthropicError):
                raise failure_of(error, self.model) from error
            raise failure_of_transport(error) from error
        answer = read_answer(bytes(body), characters_sent=characters)
        if answer.tokens is not None:
            self._charge(conversation, answer.tokens, started)
            conversation.heard(answer.tokens)
        if answer.error:
            raise api_failure(status, answer.error, self.model)
        if answer.is_broken:
            raise Unavailable(answer.problem or "")
        if answer.problem is not None:
            raise ProposalFailed(answer.problem)
        return answer

    async def _receive(self, conversation: ClaudeConversation, max_tokens: int, body: bytearray) -> int:
        """Fills the body with the answer as it comes. Returns the status. Raises errors of the SDK and of its transport."""
        async with self._client.messages.with_streaming_response.create(
            model=self.model,
            max_tokens=max_tokens,
            stream=True,
            thinking={"type": "adaptive"},
            output_config=omit if self.effort is None else {"effort": self.effort},
            cache_control={"type": "ephemeral"},
            system=system_of(conversation.context),
            tools=TOOLS,
            messages=conversation.messages,
            timeout=self._inactivity_s,
        ) as response:
            async for part in response.iter_bytes():
                body.extend(part)
            return response.status_code

    def _charge(self, conversation: ClaudeConversation, tokens: Tokens, started: float) -> None:
        """Records one answer's tokens and cost."""
        usage = _usage(self.model, tokens, self.price)
        usage = replace(usage, seconds=time.monotonic() - started, proposal=conversation.usage.proposal)
        conversation.context.charge(usage)
        conversation.usage = total((conversation.usage, usage))


def checked_effort(effort: str | None) -> Effort | None:
    """An effort that the API takes. Raises UserError for another one."""
    known = next((one for one in EFFORTS if one == effort), None)
    if effort is not None and known is None:
        raise UserError(f"claude knows no --effort {one_line(effort, 40)!r}: use {', '.join(EFFORTS)}.")
    return known


def _tokens_of_lost(body: bytes, characters_sent: int) -> Tokens:
    """The tokens of an answer of which only so much has arrived, by what that tells, else by the length of what was sent."""
    told = read_answer(body, characters_sent=characters_sent).tokens if body else None
    return told or Tokens(input=characters_sent // CHARACTERS_PER_TOKEN, output=0, estimated=True)


def _usage(model: str, tokens: Tokens, price: Price | None) -> Usage:
    cost = None
    if price is not None:
        cost = price.cost(
            input=tokens.input,
            output=tokens.output,
            cache_read=tokens.cache_read,
            cache_write_5m=tokens.cache_write_5m,
            cache_write_1h=tokens.cache_write_1h,
        )
    return Usage(
        researcher=ClaudeResearcher.name,
        model=model,
        input_tokens=tokens.input,
        output_tokens=tokens.output,
        cache_read_tokens=tokens.cache_read,
        cache_write_tokens=tokens.cache_write_5m + tokens.cache_write_1h,
        cost_usd=cost,
        cost_basis="missing" if cost is None else "list-price-estimate",
        estimated=tokens.estimated,
        answers=1,
    )


def _default_client() -> AsyncAnthropic:
    try:
        client = AsyncAnthropic(max_retries=0)
    except anthropic.AnthropicError as error:
        raise NotConfigured(f"The API's credentials can't be used: {one_line(str(error), 200)}") from None
    for variable, key in (("ANTHROPIC_API_KEY", client.api_key), ("ANTHROPIC_AUTH_TOKEN", client.auth_token)):
        if key is not None and not (key.isascii() and key.isprintable() and " " not in key):
            raise NotConfigured(f"{variable} can't be sent: it holds spaces, line ends or letters that no key has.")
    if client.api_key is None and client.auth_token is None and client.credentials is None:
        raise NotConfigured(
            "The claude researcher needs a key: set ANTHROPIC_API_KEY, or for a gateway ANTHROPIC_AUTH_TOKEN with "
            "ANTHROPIC_BASE_URL, or use --researcher search."
        )
    return client
