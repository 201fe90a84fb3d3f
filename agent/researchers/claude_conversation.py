"""The conversation with a Claude model about one idea: what is said and answered, and what each reason to stop means."""

import json
from dataclasses import dataclass, field
from typing import Any, cast

from anthropic.types import MessageParam, TextBlockParam, ToolResultBlockParam

from agent.diff import unified_diff
from agent.researcher import Context, ProposalFailed
from agent.researchers.claude_answer import Answer, Tokens, ToolCall
from agent.researchers.claude_draft import MAX_REFUSALS, Draft
from agent.researchers.claude_editor import EditRefused
from agent.researchers.claude_prompt import TASK, opening, system_of
from agent.researchers.claude_repair import Repair
from agent.researchers.claude_tools import TOOLS
from agent.researchers.history_text import as_data
from research.formatting import counted
from results.experiment import Usage

MAX_IDLE_TURNS = 3
"""Answers in a row without a tool call after which the proposal ends."""

MAX_CUT_OFFS = 3
"""Answers that reach the limit of their length after which the proposal ends."""

HIDDEN_TOKENS = 2_000
"""The most tokens that the API adds to a request by itself: what it tells the model about tools."""


@dataclass(kw_only=True)
class ClaudeConversation:
    """The conversation about one idea."""

    context: Context
    draft: Draft
    repair: Repair | None
    usage: Usage
    """The sum over all answers so far."""
    messages: list[MessageParam] = field(init=False)
    """The last one is always the user's."""
    idle_turns: int = field(default=0, init=False)
    cut_offs: int = field(default=0, init=False)
    has_begun_anew: bool = field(default=False, init=False)
    _known: int = field(default=0, init=False)
    """Tokens up to the last answer, as the API has counted them; 0 before the first."""
    _since: int = field(default=0, init=False)
    """Number of messages that these tokens cover."""

    def __post_init__(self) -> None:
        self.messages = [opening(self.context, self.repair)]
        self._fixed = json.dumps([system_of(self.context), TOOLS])

    @property
    def characters(self) -> int:
        """Characters of the next request."""
        return len(json.dumps(self.messages)) + len(self._fixed)

    @property
    def most_input_tokens(self) -> int:
        """A number that the next request's input tokens can't exceed, since no token is shorter than a byte."""
        if not self._known:
            return self.characters + HIDDEN_TOKENS
        return self._known + len(json.dumps(self.messages[self._since :])) + HIDDEN_TOKENS

    def say(self, text: str) -> None:
        """Adds text to the user's last message."""
        cast(list[Any], self.messages[-1]["content"]).append({"type": "text", "text": text})

    def heard(self, tokens: Tokens) -> None:
        """Takes note of what the API has counted for the messages so far and its answer to them."""
        if not tokens.estimated:
            self._since = len(self.messages)
            self._known = tokens.input + tokens.cache_read + tokens.cache_write_5m + tokens.cache_write_1h

    async def respond(self, answer: Answer) -> None:
        """Runs the tools that the model called, in order, and adds both turns. Raises ProposalFailed if that leads nowhere."""
        if answer.stop_reason == "model_context_window_exceeded":
            self._begin_anew()
            return
        self._count(answer)
        results: list[ToolResultBlockParam | TextBlockParam] = []
        is_cut_off = answer.stop_reason == "max_tokens"
        for number, call in enumerate(answer.calls, start=1):
            is_half = is_cut_off and number == len(answer.calls) and bool(answer.content[-1].get("type") == "tool_use")
            results.append(await self._result(call, is_half))
        if answer.content:  # the API refuses an empty turn
            self.messages.append({"role": "assistant", "content": cast(Any, list(answer.content))})
            self.messages.append({"role": "user", "content": results})
        if len(self.draft.refusals) > MAX_REFUSALS:
            raise ProposalFailed(f"The model's submissions were refused {MAX_REFUSALS + 1} times: {self.draft.refusals[-1]}")
        if answer.stop_reason == "pause_turn" and not results:
            self.say("Go on.")
        elif is_cut_off:
            self.say("Your answer was cut off since it was too long: think less, and make smaller edits.")
        elif not results:
            self.say("Nothing has been submitted yet: edit train.py, then call submit.")

    def _count(self, answer: Answer) -> None:
        """Ends the proposal if answers say nothing for long, or are too long again and again."""
        self.idle_turns = 0 if answer.calls else self.idle_turns + 1
        self.cut_offs += answer.stop_reason == "max_tokens"
        if self.cut_offs >= MAX_CUT_OFFS:
            raise ProposalFailed(f"The model's answer was cut off (max_tokens) {MAX_CUT_OFFS} times.")
        if self.idle_turns >= MAX_IDLE_TURNS:
            raise ProposalFailed(f"The model called no tool in {counted(self.idle_turns, 'answer')}.")

    async def _result(self, call: ToolCall, is_half: bool) -> ToolResultBlockParam:
        try:
            if is_half:
                raise EditRefused("Your answer was cut off in this call, which was not carried out.")
            text, failed = await self.draft.use(call.name, call.input), False
        except EditRefused as refusal:
            text, failed = str(refusal), True
        return {"type": "tool_result", "tool_use_id": call.id, "content": text, "is_error": failed}

    def _begin_anew(self) -> None:
        """Begins the conversation once more, with the edit so far: it has become longer than the model can read."""
        if self.has_begun_anew or len(self.messages) == 1:
            raise ProposalFailed("The model's answer was cut off (model_context_window_exceeded).")
        self.has_begun_anew, self._known, self._since = True, 0, 0
        self.messages = [opening(self.context, self.repair)]
        made = unified_diff(self.context.train_py, self.draft.editor.text)
        edit = f"\n\n{as_data('edit', made)}" if made else " It is as the head."
        self.say(f"This conversation was too long, and begins anew. The editor has your edit so far.{edit}\n\n{TASK}")
