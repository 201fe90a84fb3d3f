"""What a coding agent's output says of its tokens, its cost and its failure, read so that no odd output is an error.

What it reports in US dollars is taken as it is (`native-reported`); tokens alone are priced by the list if it has the model
(`list-price-estimate`); without either the cost is `missing`, which never counts as nothing.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agent.researchers.coding_agents import OutputKind
from agent.researchers.prices import PRICES, Price
from research.formatting import one_line
from results.experiment import CostBasis, Usage
from results.researcher_costs import weakest

MAX_BYTES = 64_000_000
"""Bytes at the end of the output that are read; what the reports stand in comes last."""

MAX_TOKENS = 10**10
"""A larger reported number of tokens isn't believed."""

MAX_USD = 100_000.0
"""A larger reported cost of one proposal isn't believed."""

_LINE_OF_OBJECT = re.compile(r'^\{(?!"type":"message_update")', re.M)
"""Where an object begins. pi repeats the whole message for each of its parts, and its end once more: those are left out."""

Event = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class AgentOutput:
    """What the output of one proposal says."""

    usage: Usage
    """One answer's: the sum of all requests that the agent made."""
    problem: str | None = None
    """What the agent says went wrong, in one line; None if it says nothing of the kind."""


@dataclass(frozen=True, kw_only=True)
class _Spent:
    """Tokens and US dollars as an agent reports them; None where it reports no dollars."""

    model: str | None = None
    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0
    usd: float | None = None


def read_output(path: Path, kind: OutputKind, *, model: str | None, prices: Mapping[str, Price] = PRICES) -> AgentOutput:
    """What the output in a file says; `model` is what was asked for, None if the agent chose one."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - MAX_BYTES))
        text = file.read().decode("utf-8", errors="replace")
    events = list(_objects(text))
    read_spent, read_problem = _READERS[kind]
    return AgentOutput(usage=_usage(read_spent(events), model, prices), problem=_line(read_problem(events)))


def _objects(text: str) -> Iterator[Event]:
    """The JSON objects that begin at a line's start, whatever stands between them."""
    decoder = json.JSONDecoder()
    end = 0
    for start in _LINE_OF_OBJECT.finditer(text):
        if start.start() < end:  # inside of the one before
            continue
        try:
            value, end = decoder.raw_decode(text, start.start())
        except (ValueError, RecursionError):
            continue
        yield value


def _usage(spent: Iterable[_Spent], model: str | None, prices: Mapping[str, Price]) -> Usage:
    every = list(spent)
    largest = max(every, key=lambda part: part.input + part.output + part.cache_read + part.cache_write, default=_Spent())
    costs = [_cost(part if part.model else replace(part, model=model), prices) for part in every]
    known = [usd for usd, _ in costs if usd is not None]
    return Usage(
        model=largest.model or model,
        input_tokens=sum(part.input for part in every),
        output_tokens=sum(part.output for part in every),
        cache_read_tokens=sum(part.cache_read for part in every),
        cache_write_tokens=sum(part.cache_write for part in every),
        cost_usd=sum(known) if known else None,
        cost_basis=weakest({basis for _, basis in costs}) or "missing",
        answers=1,
    )


def _cost(spent: _Spent, prices: Mapping[str, Price]) -> tuple[float | None, CostBasis]:
    if spent.usd is not None:
        return spent.usd, "native-reported"
    price = None if spent.model is None else prices.get(spent.model)
    if price is None or not spent.input + spent.output + spent.cache_read + spent.cache_write:
        return None, "missing"
    usd = price.cost(input=spent.input, output=spent.output, cache_read=spent.cache_read, cache_write_5m=spent.cache_write)
    return usd, "list-price-estimate"


# --- claude: one object at the end ----------------------------------------------------------------------------------------


def _result(events: Iterable[Event]) -> Event:
    return next((event for event in reversed(list(events)) if event.get("type") == "result"), {})


def _spent_of_result(events: Iterable[Event]) -> list[_Spent]:
    """The cost of all models in one sum, as the agent gives it; its tokens by model if it tells them."""
    result = _result(events)
    usd, models = _usd(result.get("total_cost_usd")), _object(result.get("modelUsage"))
    parts = [
        _Spent(
            model=_line(model),
            input=_count(_object(told).get("inputTokens")),
            output=_count(_object(told).get("outputTokens")),
            cache_read=_count(_object(told).get("cacheReadInputTokens")),
            cache_write=_count(_object(told).get("cacheCreationInputTokens")),
        )
        for model, told in models.items()
    ]
    usage = _object(result.get("usage"))
    if not parts and usage:
        parts = [
            _Spent(
                input=_count(usage.get("input_tokens")),
                output=_count(usage.get("output_tokens")),
                cache_read=_count(usage.get("cache_read_input_tokens")),
                cache_write=_count(usage.get("cache_creation_input_tokens")),
            )
        ]
    if usd is None:
        return parts
    first, *others = parts or [_Spent()]
    return [replace(first, usd=usd), *(replace(part, usd=0.0) for part in others)]


def _problem_of_result(events: Iterable[Event]) -> object:
    result = _result(events)
    if not result.get("is_error") and str(result.get("subtype", "success")) == "success":
        return None
    return result.get("result") or _first(result.get("errors")) or result.get("subtype")


# --- codex: events, of which the end of a turn has the sum -------------------------------------------------------------------


def _spent_of_turns(events: Iterable[Event]) -> list[_Spent]:
    told = [_object(event.get("usage")) for event in events if event.get("type") == "turn.completed"]
    usage = told[-1] if told else {}
    if not usage:
        return []
    read, written = _count(usage.get("cached_input_tokens")), _count(usage.get("cache_write_input_tokens"))
    fresh = max(0, _count(usage.get("input_tokens")) - read - written)  # it counts cached ones as well
    return [_Spent(input=fresh, output=_count(usage.get("output_tokens")), cache_read=read, cache_write=written)]


def _problem_of_turns(events: Iterable[Event]) -> object:
    found = [event for event in events if event.get("type") in ("turn.failed", "error")]
    return None if not found else _object(found[-1].get("error")).get("message") or found[-1].get("message")


# --- gemini: one object with statistics --------------------------------------------------------------------------------------


def _spent_of_stats(events: Iterable[Event]) -> list[_Spent]:
    stats = next((_object(event["stats"]) for event in reversed(list(events)) if "stats" in event), {})
    parts = []
    for model, told in _object(stats.get("models")).items():
        tokens = _object(_object(told).get("tokens"))
        cached = _count(tokens.get("cached"))
        written = _count(tokens.get("candidates")) + _count(tokens.get("thoughts"))
        fresh = max(0, _count(tokens.get("prompt")) - cached) + _count(tokens.get("tool"))
        parts.append(_Spent(model=_line(model), input=fresh, output=written, cache_read=cached))
    return parts


def _problem_of_stats(events: Iterable[Event]) -> object:
    return next((_object(event["error"]).get("message") for event in reversed(list(events)) if event.get("error")), None)


# --- opencode: an event for the end of each step -----------------------------------------------------------------------------


def _spent_of_steps(events: Iterable[Event]) -> list[_Spent]:
    parts = []
    for event in events:
        if event.get("type") != "step_finish":
            continue
        part = _object(event.get("part"))
        tokens = _object(part.get("tokens"))
        cache = _object(tokens.get("cache"))
        parts.append(
            _Spent(
                input=_count(tokens.get("input")),
                output=_count(tokens.get("output")) + _count(tokens.get("reasoning")),
                cache_read=_count(cache.get("read")),
                cache_write=_count(cache.get("write")),
                usd=_usd(part.get("cost")),
            )
        )
    return parts


def _problem_of_steps(events: Iterable[Event]) -> object:
    found = [_object(event.get("error")) for event in events if event.get("type") == "error"]
    return None if not found else _object(found[-1].get("data")).get("message") or found[-1].get("name")


# --- pi: an event for the end of each message --------------------------------------------------------------------------------


def _messages(events: Iterable[Event]) -> list[Event]:
    """The model's messages: each is repeated in later events, but ends once."""
    ended = [_object(event.get("message")) for event in events if event.get("type") == "message_end"]
    return [message for message in ended if message.get("role") == "assistant"]


def _spent_of_messages(events: Iterable[Event]) -> list[_Spent]:
    parts = []
    for message in _messages(events):
        usage = _object(message.get("usage"))
        parts.append(
            _Spent(
                model=_line(message.get("model")),
                input=_count(usage.get("input")),
                output=_count(usage.get("output")),
                cache_read=_count(usage.get("cacheRead")),
                cache_write=_count(usage.get("cacheWrite")),
                usd=_usd(_object(usage.get("cost")).get("total")),
            )
        )
    return parts


def _problem_of_messages(events: Iterable[Event]) -> object:
    messages = _messages(events)
    failed = bool(messages) and messages[-1].get("stopReason") in ("error", "aborted")
    return messages[-1].get("errorMessage") or messages[-1]["stopReason"] if failed else None


# --- the Agent Client Protocol, by acp_client.py ------------------------------------------------------------------------------


def _spent_of_protocol(events: Iterable[Event]) -> list[_Spent]:
    """The session's cost so far as the agent has told it last, and the tokens of its turn."""
    told = [event for event in events if event.get("acp") in ("cost", "end")]
    costs = [_usd(event.get("amount")) for event in told if event["acp"] == "cost" and event.get("currency") == "USD"]
    end = next((event for event in reversed(told) if event["acp"] == "end"), {})
    usage = _object(end.get("usage"))
    if not costs and not usage:
        return []
    return [
        _Spent(
            model=_line(end.get("model")),
            input=_count(usage.get("input_tokens")),
            output=_count(usage.get("output_tokens")) + _count(usage.get("thought_tokens")),
            cache_read=_count(usage.get("cached_read_tokens")),
            cache_write=_count(usage.get("cached_write_tokens")),
            usd=costs[-1] if costs else None,
        )
    ]


def _problem_of_protocol(events: Iterable[Event]) -> object:
    told = [event for event in events if event.get("acp") in ("end", "error")]
    last = told[-1] if told else {}
    if last.get("acp") == "end":
        return None if last.get("stop_reason") == "end_turn" else f"It stopped: {last.get('stop_reason')}."
    return last.get("message")


_READERS = {
    "result": (_spent_of_result, _problem_of_result),
    "turns": (_spent_of_turns, _problem_of_turns),
    "stats": (_spent_of_stats, _problem_of_stats),
    "steps": (_spent_of_steps, _problem_of_steps),
    "messages": (_spent_of_messages, _problem_of_messages),
    "protocol": (_spent_of_protocol, _problem_of_protocol),
}


def _object(value: object) -> Event:
    return value if isinstance(value, dict) else {}


def _first(value: object) -> object:
    return value[0] if isinstance(value, list) and value else None


def _line(value: object) -> str | None:
    return one_line(value.encode("utf-8", "replace").decode(), 300) if isinstance(value, str) and value.strip() else None


def _count(value: object) -> int:
    """A reported number of tokens; 0 if it isn't one."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_TOKENS else 0


def _usd(value: object) -> float | None:
    """A reported cost; None if it isn't one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value <= MAX_USD else None
