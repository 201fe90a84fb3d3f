"""The stand-in's cache of prompts counts as the API documents it."""

from typing import Any

from agent.researchers.stand_in.prompt_cache import LEAST_TOKENS, LIFETIMES_S, LOOKBACK, PromptCache

HOUR: dict[str, Any] = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
FIVE: dict[str, Any] = {"cache_control": {"type": "ephemeral"}}


def block(text: str, tokens: int = 2_000, **mark: Any) -> dict[str, Any]:
    return {"type": "text", "text": text + "x" * (4 * tokens - len(text)), **mark}


def request(*blocks: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(blocks)}], **more}


def counts(cache: PromptCache, asked: dict[str, Any]) -> tuple[int, int, int, int]:
    """(thousands of tokens read, written for an hour, for five minutes, not cached)."""
    usage = cache.usage(asked)
    written = usage["cache_creation"]
    assert usage["cache_creation_input_tokens"] == sum(written.values())
    values = (usage["cache_read_input_tokens"], written["ephemeral_1h_input_tokens"], written["ephemeral_5m_input_tokens"],
              usage["input_tokens"])  # fmt: skip
    read, hour, five, rest = (round(value / 1_000) for value in values)
    return read, hour, five, rest


def test_what_begins_like_an_earlier_request_is_read_up_to_its_breakpoint() -> None:
    cache = PromptCache()
    first = request(block("a", **HOUR), block("b"), cache_control={"type": "ephemeral"})
    assert counts(cache, first) == (0, 2, 2, 0)
    assert counts(cache, first) == (4, 0, 0, 0)
    assert counts(cache, request(block("a", **HOUR), block("c"))) == (2, 0, 0, 2)
    assert counts(cache, request(block("z"), block("a", **HOUR))) == (0, 4, 0, 0)
    assert counts(cache, request(block("a"), block("b"))) == (0, 0, 0, 4)


def test_a_conversation_that_goes_on_reads_what_was_there() -> None:
    cache, so_far = PromptCache(), [block("0", 2_000)]
    counts(cache, request(*so_far, cache_control={"type": "ephemeral"}))
    so_far += [block(str(n), 100) for n in range(1, 6)]
    assert counts(cache, request(*so_far, cache_control={"type": "ephemeral"}))[0] == 2
    far = [*so_far, *(block(f"far {n}", 100) for n in range(LOOKBACK + 1))]
    assert counts(cache, request(*far, cache_control={"type": "ephemeral"}))[0] == 0


def test_it_forgets_after_a_while_and_short_beginnings_at_once() -> None:
    now = [0.0]
    cache = PromptCache(clock=lambda: now[0])
    asked = request(block("a", **HOUR), block("b", **FIVE))
    counts(cache, asked)
    now[0] += LIFETIMES_S["5m"] - 1
    assert counts(cache, asked)[0] == 4
    now[0] += LIFETIMES_S["5m"] + 1
    assert counts(cache, asked) == (2, 0, 2, 0)
    now[0] += LIFETIMES_S["1h"] + 1
    assert counts(cache, asked)[0] == 0
    short = request(block("c", LEAST_TOKENS // 2, **HOUR))
    assert counts(cache, short) == counts(cache, short) == (0, 0, 0, 1)
