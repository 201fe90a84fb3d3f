"""What went wrong with a request to the Messages API, sorted by what helps: asking again soon, later, or a person."""

import asyncio
import math
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import anthropic

from agent.researcher import NotConfigured, ProposalFailed
from research.formatting import one_line

MAX_RETRIES = 4
"""A request is repeated this many times while the API is busy or can't be reached."""
RETRY_PAUSE_S, LONGEST_RETRY_PAUSE_S = 1.0, 60.0
"""Seconds before a request is repeated, doubled each time. If the API asks for longer than the second, the proposal fails."""

NEVER_SENT = frozenset({"InvalidURL", "LocalProtocolError", "UnsupportedProtocol"})
"""The transport's errors for a request that can't be sent at all: the address or a header is wrong."""

ANSWER_LOST = frozenset({"DecodingError", "ReadError", "ReadTimeout", "RemoteProtocolError"})
"""The transport's errors after a request was sent: the model may have answered, and that costs."""


class Unavailable(ProposalFailed):
    """The API is busy or can't be reached; the same request may succeed soon."""


def failure_of(error: anthropic.AnthropicError, model: str) -> NotConfigured | ProposalFailed:
    """The failure that an error of the SDK stands for, in one line."""
    if isinstance(error, anthropic.APIStatusError):
        body = error.body if isinstance(error.body, dict) else {}
        told = body.get("error")
        details = told if isinstance(told, dict) else {"message": error.body if isinstance(error.body, str) else str(error)}
        return api_failure(error.status_code, details, model, retry_after_s=retry_after_s(error.response.headers))
    cause = type(error.__cause__).__name__
    if cause in NEVER_SENT:
        why = one_line(str(error.__cause__), 200)
        return NotConfigured(f"The request can't be sent ({why}): check ANTHROPIC_BASE_URL and ANTHROPIC_API_KEY.")
    if not isinstance(error, anthropic.APIConnectionError):
        return ProposalFailed(f"The request failed: {one_line(str(error), 300)}")
    if isinstance(error, anthropic.APITimeoutError):
        return Unavailable("The API did not answer in time.")
    if cause == "TooManyRedirects":
        return ProposalFailed("The API could not be reached: too many redirects.")
    return Unavailable(f"The API could not be reached: {one_line(str(error.__cause__ or error), 300)}")


def failure_of_transport(error: Exception) -> Unavailable:
    """The failure that an answer's end before its time stands for: a lost connection, or silence."""
    if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
        return Unavailable("The API's answer did not come to an end in time.")
    return Unavailable(f"The API's answer broke off: {one_line(str(error) or type(error).__name__, 300)}")


def answer_was_lost(error: BaseException) -> bool:
    """Whether a request was sent and its answer, which may have been paid for, did not arrive, or was not waited for."""
    if isinstance(error, asyncio.CancelledError):
        return True
    return type(error).__name__ in ANSWER_LOST or type(error.__cause__).__name__ in ANSWER_LOST


def api_failure(
    status: int, error: Mapping[str, Any], model: str, *, retry_after_s: float | None = None
) -> NotConfigured | ProposalFailed:
    """The failure that the API's error object stands for. What only a person can mend is NotConfigured."""
    kind, text = error.get("type"), one_line(str(error.get("message") or "no reason given"), 300)
    details = error.get("details")
    code = str(details.get("error_code")) if isinstance(details, dict) else ""
    if kind == "billing_error" or status == 402 or "credit balance" in text.lower() or "spend_limit" in code:
        return NotConfigured(f"The API's account has no money left: add credit or raise its limit, then start again ({text}).")
    if kind in ("authentication_error", "permission_error") or status in (401, 403):
        return NotConfigured(
            f"The API refused the key: check ANTHROPIC_API_KEY, or ANTHROPIC_AUTH_TOKEN with ANTHROPIC_BASE_URL ({text})."
        )
    if kind == "not_found_error":
        return NotConfigured(f"The API has no model {model}: choose another --model ({text}).")
    told = f"The API answered {status}: {text}"
    busy = kind in ("overloaded_error", "rate_limit_error", "timeout_error", "api_error")
    if busy or status in (408, 409, 429) or status >= 500:
        return Unavailable(told, retry_after_s=retry_after_s)
    return ProposalFailed(told, retry_after_s=retry_after_s)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """The pause that a response asks for, in seconds; None if it asks for none or the header makes no sense."""
    value = headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return seconds if math.isfinite(seconds) and seconds > 0 else None
