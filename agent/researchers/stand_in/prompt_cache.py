"""The cache of prompts as the Messages API has it: what a request reads from it, and what it writes into it.

A request marks breakpoints, up to four, and one more for its last block if it asks for that at the top. What begins like an
earlier request is read up to where that had a breakpoint, at most LOOKBACK blocks before one of its own.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

CHARACTERS_PER_TOKEN = 4
UNCACHED_TOKENS = 3
"""What the API counts at least as read without the cache."""

LOOKBACK = 20
"""Blocks before a breakpoint among which the end of an earlier prompt is looked for."""

LEAST_TOKENS = 1024
"""A shorter beginning isn't cached. Some models need four times as much."""

LIFETIMES_S: Mapping[str, float] = {"5m": 300.0, "1h": 3_600.0}
"""How long a beginning is remembered after it was last used."""

MOST_REMEMBERED = 100_000
"""Beginnings of prompts that the cache holds."""


@dataclass(frozen=True, kw_only=True)
class _Block:
    text: str
    ttl: str | None
    """The lifetime of the beginning that ends here; None: no breakpoint."""


class PromptCache:
    """Remembers the beginnings of prompts."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` tells seconds."""
        self._clock = clock
        self._known: dict[int, tuple[str, float]] = {}
        """Each beginning's lifetime, and when it was last used."""

    def usage(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The input tokens of a request by kind, as the API reports them."""
        blocks = _blocks(request)
        ends = list(accumulate(len(block.text) // CHARACTERS_PER_TOKEN for block in blocks))
        beginnings = list(accumulate((block.text for block in blocks), lambda so_far, text: f"{hash(so_far)} {text}"))
        marked = [place for place, block in enumerate(blocks) if block.ttl is not None]
        known = self._longest_known([hash(text) for text in beginnings], marked)
        read = 0 if known is None else ends[known]
        written = {"5m": 0, "1h": 0}
        for place in marked:
            ttl = blocks[place].ttl or "5m"
            if ends[place] < LEAST_TOKENS:
                continue
            self._known[hash(beginnings[place])] = (ttl, self._clock())
            written[ttl] += max(0, ends[place] - read - sum(written.values()))
        rest = (ends[-1] if ends else 0) - read - sum(written.values())
        if len(self._known) > MOST_REMEMBERED:
            self._known.clear()
        return {
            "input_tokens": max(rest, UNCACHED_TOKENS),
            "cache_read_input_tokens": read,
            "cache_creation_input_tokens": sum(written.values()),
            "cache_creation": {"ephemeral_5m_input_tokens": written["5m"], "ephemeral_1h_input_tokens": written["1h"]},
        }

    def _longest_known(self, beginnings: list[int], marked: list[int]) -> int | None:
        """The last block of the longest beginning that is remembered, whose lifetime begins anew."""
        places = {place - back for place in marked for back in range(LOOKBACK) if place >= back}
        for place in sorted(places, reverse=True):
            ttl, used = self._known.get(beginnings[place], ("5m", float("-inf")))
            if self._clock() - used <= LIFETIMES_S[ttl]:
                self._known[beginnings[place]] = (ttl, self._clock())
                return place
        return None


def _blocks(request: Mapping[str, Any]) -> list[_Block]:
    """The blocks of a prompt in the API's order: tools, system, messages."""
    found: list[Mapping[str, Any]] = list(request.get("tools") or ())
    system = request.get("system") or ()
    found += [{"type": "text", "text": system}] if isinstance(system, str) else system
    for turn in request["messages"]:
        content = turn["content"]
        inside = [{"type": "text", "text": content}] if isinstance(content, str) else content
        found += [{"role": turn["role"], **block} for block in inside]
    blocks = [_Block(text=_without_marks(block), ttl=_ttl(block.get("cache_control"))) for block in found]
    of_all = _ttl(request.get("cache_control"))
    if of_all is not None and blocks:
        blocks[-1] = _Block(text=blocks[-1].text, ttl=blocks[-1].ttl or of_all)
    return blocks


def _without_marks(block: Mapping[str, Any]) -> str:
    return json.dumps({name: value for name, value in block.items() if name != "cache_control"})


def _ttl(mark: Any) -> str | None:
    if not isinstance(mark, dict):
        return None
    return "1h" if mark.get("ttl") == "1h" else "5m"
