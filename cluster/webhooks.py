"""The addresses of webhooks, and what each service takes."""

import os
from collections.abc import Mapping
from typing import Any, Literal, get_args
from urllib.parse import parse_qs, urlsplit

from research.errors import UserError
from research.formatting import one_line, shortened

Shape = Literal["json", "slack", "discord", "telegram"]
"""What a webhook takes: our own plain JSON, or what one of these services asks for."""

SHAPES: tuple[Shape, ...] = get_args(Shape)

HOSTS: Mapping[str, Shape] = {
    "hooks.slack.com": "slack",
    "discord.com": "discord",
    "discordapp.com": "discord",
    "api.telegram.org": "telegram",
}
"""The services that are known by the host of a webhook's address."""

URL_VARIABLE = "FARM_NOTIFY_URL"
"""The environment variable with the webhook's address, for those who don't want it on a command line: it is a secret."""

LONGEST_TEXT = 1_500
"""Characters of a message: the strictest of the services takes 2,000."""


def shape_of(url: str) -> Shape:
    """What the webhook at an address takes, by its host."""
    return HOSTS.get(urlsplit(url).hostname or "", "json")


def request_of(shape: Shape, url: str, message: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The address and the body of a message to a webhook. Nothing that a researcher has written can mention (notify) people."""
    text = shortened(str(message["text"]), LONGEST_TEXT)
    if shape == "slack":
        for character, instead in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):  # else <!channel> would call everybody
            text = text.replace(character, instead)
        return url, {"text": text}
    if shape == "discord":
        return url, {"content": text, "allowed_mentions": {"parse": []}}
    if shape == "telegram":
        address, _, query = url.partition("?")
        return address, {"chat_id": parse_qs(query)["chat_id"][0], "text": text, "disable_web_page_preview": True}
    return url, dict(message)


def checked_url(url: str | None, shape: Shape | None) -> str | None:
    """The webhook's address, that of the environment if none is given. Raises UserError if it can't be one; it is a secret, so
    no message repeats it.
    """
    named = "--notify-url" if url is not None else f"${URL_VARIABLE}"
    url = url if url is not None else os.environ.get(URL_VARIABLE) or None
    if url is None:
        if shape is not None:
            raise UserError(f"--notify-shape {shape} has no webhook to write to: add --notify-url URL, or set ${URL_VARIABLE}.")
        return None
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        is_address = False
    if not is_address or one_line(url) != url or " " in url:
        raise UserError(f"{named} must be the address of a webhook, such as https://hooks.slack.com/services/...")
    if (shape or shape_of(url)) == "telegram" and "chat_id" not in parse_qs(urlsplit(url).query):
        raise UserError(f"{named} must name a Telegram chat: https://api.telegram.org/botTOKEN/sendMessage?chat_id=ID")
    return url
