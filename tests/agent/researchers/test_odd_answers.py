"""A Messages API that answers in every odd way, to the real SDK over HTTP: each edit, each dollar and the loop survive."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pytest
from anthropic import AsyncAnthropic

from agent.proposing import Proposer
from agent.researcher import Context, NotConfigured
from agent.researchers.claude import ClaudeResearcher
from results.experiment import Proposal
from results.store import Store
from tests.agent.local_api import LocalApi, Reply, Scripted, answer, edit, error, local_api, message, submit, tool
from tests.agent.samples import TRAIN_PY, make_context
from tests.results.result_samples import make_branch

EDITOR = "str_replace_based_edit_tool"
EDITED = TRAIN_PY.replace("DEPTH = 2", "DEPTH = 3")
EDIT, SUBMIT = answer(edit("DEPTH = 2", "DEPTH = 3")), answer(submit())
GOOD = answer(edit("DEPTH = 2", "DEPTH = 3"), submit())
ONE_ANSWER = (1000 * 4 + 100 * 20) / 1e6
"""US dollars for an answer as `local_api.answer` reports it."""


@dataclass(frozen=True)
class Odd:
    """An odd answer of the API."""

    reply: Scripted
    paid: bool = True
    """Whether a model may have worked on it."""
    exact: bool = True
    """Whether its cost is that of ONE_ANSWER, as opposed to an estimate."""
    stops: bool = False
    """Whether only a person can mend it, so that the farm must end."""
    timeout_s: float | None = None


def text(body: str | bytes, *, paid: bool = False, content_type: str = "text/html", **more: Any) -> Odd:
    """An answer with status 200 that is not JSON of the API."""
    data = body.encode() if isinstance(body, str) else body
    return Odd(Reply(body=data, content_type=content_type, **more), paid=paid, exact=False)


def content(value: Any, stop_reason: Any = "tool_use") -> Odd:
    """An answer with just this content."""
    return Odd((200, message(value, stop_reason)))


def usage(value: Any) -> Odd:
    """An answer that says something, with a usage that makes no sense."""
    body = message([{"type": "text", "text": "hm"}], "end_turn")
    return Odd((200, {**body, "usage": value}), exact=False)


def without(name: str, **changes: Any) -> dict[str, Any]:
    body = {**message([{"type": "text", "text": "hm"}], "end_turn"), **changes}
    del body[name]
    return body


def failed(status: int, kind: str = "api_error", told: str = "no", *, stops: bool = False, **headers: str) -> Odd:
    """An error status with the API's error object."""
    _, body = error(status, told, kind)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Odd(Reply(status=status, body=json.dumps(body).encode(), headers=names), paid=False, stops=stops)


def call(value: Any, name: Any = EDITOR, identifier: Any = "t1") -> Odd:
    """A tool call with this input."""
    return content([{"type": "tool_use", "id": identifier, "name": name, "input": value}])


WHOLE = json.dumps(message([edit("a", "b")], "tool_use")).encode()
FULL = {"command": "create", "path": "train.py"}

CASES: dict[str, Odd] = {
    # not the API's JSON
    "html": text("<!DOCTYPE html><html>Sign in</html>"),
    "html that calls itself json": text("<html>gateway</html>", content_type="application/json"),
    "empty body": text(""),
    "empty body, json": text("", content_type="application/json"),
    "white space": text(" \n\t"),
    "plain text": text("upstream connect error", content_type="text/plain"),
    "truncated json": text(WHOLE[:200], paid=True, content_type="application/json"),
    "invalid utf-8": text(b'{"id": "\xff\xfe\x80', paid=True, content_type="application/json"),
    "binary": text(bytes(range(256)) * 20, content_type="application/octet-stream"),
    "json null": text("null", content_type="application/json"),
    "json list": text("[]", content_type="application/json"),
    "json number": text("3", content_type="application/json"),
    "json nested deeply": text('{"content": ' + "[" * 100_000, paid=True, content_type="application/json"),
    "json nested and closed": text(
        '{"usage": {}, "content": ' + "[" * 200 + "]" * 200 + "}", paid=True, content_type="application/json"
    ),
    "nan and infinity": text('{"content": [NaN, -Infinity, 1e999]}', paid=True, content_type="application/json"),
    "event stream": text(
        'event: message_start\ndata: {"type": "message_start"}\n\n', paid=True, content_type="text/event-stream"
    ),
    "no content type": Odd(Reply(body=WHOLE, content_type=""), exact=True),
    "wrong charset": Odd(Reply(body=WHOLE, content_type="text/html; charset=utf-16"), exact=True),
    "byte order mark": Odd(Reply(body=b"\xef\xbb\xbf" + WHOLE), exact=True),
    "gzip that is none": text(b"{not gzip}", paid=True, headers={"content-encoding": "gzip"}),
    "an empty object": Odd((200, {}), exact=False),
    # errors with status 200
    "error object": Odd(error(200, "overloaded", "overloaded_error"), paid=False),
    "error as text": Odd((200, {"error": "no upstream"}), paid=False),
    "error null": Odd((200, {"type": "error", "error": None}), paid=False),
    "bad key with status 200": Odd(error(200, "invalid x-api-key", "authentication_error"), paid=False, stops=True),
    # usage
    "no usage": Odd((200, without("usage")), exact=False),
    "usage null": usage(None),
    "usage text": usage("1000"),
    "usage list": usage([1000, 100]),
    "usage of nulls": usage({"input_tokens": None, "output_tokens": None, "cache_creation": None}),
    "usage of texts": Odd((200, message([edit("a", "b")], "tool_use", {"input_tokens": "1000", "output_tokens": 100.0}))),
    "usage negative": usage({"input_tokens": -5, "output_tokens": True}),
    "usage without bounds": usage({"input_tokens": 10**30, "output_tokens": 10**20}),
    "odd cache": Odd((200, message([edit("a", "b")], "tool_use", {"cache_creation": 3, "cache_read_input_tokens": "x"}))),
    # content
    "no content": Odd((200, without("content"))),
    "content null": content(None),
    "content empty": content([], "end_turn"),
    "content text": content("I am done.", "end_turn"),
    "content object": content({"type": "text"}),
    "blocks that are none": content([None, 3, "x", {}, {"type": None}, {"type": 7}]),
    "unknown block": content([{"type": "hologram", "data": [1, 2]}], "end_turn"),
    "blank text": content([{"type": "text", "text": " \n"}, {"type": "text", "text": None}], "end_turn"),
    "thinking alone": content([{"type": "thinking", "thinking": "hm", "signature": "s"}], "end_turn"),
    "half a surrogate pair": content([{"type": "text", "text": "\ud800"}], "end_turn"),
    "no stop reason": Odd((200, without("stop_reason"))),
    "unknown stop reason": content([{"type": "text", "text": "hm"}], "bored"),
    "stop reason object": content([{"type": "text", "text": "hm"}], {"a": 1}),
    "pause": content([{"type": "text", "text": "wait"}], "pause_turn"),
    "refusal": content([], "refusal"),
    "refusal with words": content([{"type": "text", "text": "no"}], "refusal"),
    "cut off": content([{"type": "text", "text": "I wi"}], "max_tokens"),
    "cut off in a call": content([{**edit("DEPTH", ""), "input": {"command": "str_replace", "path": "tr"}}], "max_tokens"),
    "window full": content([edit("a", "b")], "model_context_window_exceeded"),
    # tool calls
    "input text": call("DEPTH = 3"),
    "input json text": call(json.dumps({**FULL, "command": "view"})),
    "input list": call(["create"]),
    "input null": call(None),
    "input number": call(7),
    "input empty": call({}),
    "wrong tool": call({}, "bash"),
    "tool name of signs": call({}, "rm -rf / ; \u202e"),
    "tool name null": call({}, None),
    "tool name huge": call({}, "x" * 100_000),
    "no id": content([{"type": "tool_use", "name": EDITOR, "input": {}}]),
    "id null": call({}, identifier=None),
    "the same id twice": content([tool(EDITOR), tool(EDITOR)]),
    "unknown command": call({"command": "undo_edit", "path": "train.py"}),
    "command is a list": call({"command": ["view"], "path": "train.py"}),
    "command huge": call({"command": "v" * 100_000, "path": "train.py"}),
    "path elsewhere": call({"command": "view", "path": "/etc/passwd"}),
    "old text missing": call({"command": "str_replace", "path": "train.py", "old_str": "not there", "new_str": ""}),
    "old text twice": call({"command": "str_replace", "path": "train.py", "old_str": "def ", "new_str": ""}),
    "old text empty": call({"command": "str_replace", "path": "train.py", "old_str": "", "new_str": "x"}),
    "old text null": call({"command": "str_replace", "path": "train.py", "old_str": None, "new_str": "x"}),
    "insert nowhere": call({"command": "insert", "path": "train.py", "insert_line": 10**9, "insert_text": "x"}),
    "insert at a text": call({"command": "insert", "path": "train.py", "insert_line": "1", "insert_text": "x"}),
    "view of anything": call({"command": "view", "path": "train.py", "view_range": [5, -7]}),
    "create huge": call({**FULL, "file_text": "#" * 300_000}),
    "query of a list": call({"sql": ["SELECT 1"]}, "query_history"),
    "query with half a pair": call({"sql": "SELECT '\ud800'"}, "query_history"),
    "submit nothing": call({}, "submit"),
    "submit a list": call({"title": ["deeper"], "hypothesis": None}, "submit"),
    # statuses
    "429": failed(429, "rate_limit_error"),
    "429 with retry-after": failed(429, "rate_limit_error", retry_after="0.01"),
    "429 with a date": failed(429, "rate_limit_error", retry_after="Wed, 21 Oct 2015 07:28:00 GMT"),
    "429 with a bad retry-after": failed(429, "rate_limit_error", retry_after="soon, nan"),
    "429 for a day": failed(429, "rate_limit_error", retry_after="86400"),
    "529": failed(529, "overloaded_error"),
    "500": failed(500),
    "502 html": Odd(Reply(status=502, body=b"<html>Bad Gateway</html>", content_type="text/html"), paid=False),
    "503 empty": Odd(Reply(status=503), paid=False),
    "408": failed(408, "timeout_error"),
    "409": failed(409, "conflict_error"),
    "400": failed(400, "invalid_request_error", "messages: too odd"),
    "400 not json": Odd(Reply(status=400, body=b"\xff{", content_type="application/json"), paid=False),
    "413": failed(413, "request_too_large", "too large"),
    "422": failed(422, "invalid_request_error"),
    "404 html": Odd(Reply(status=404, body=b"<html>", content_type="text/html"), paid=False),
    "error object null": Odd((500, cast(Any, None)), paid=False),
    "error message is a list": Odd((500, {"type": "error", "error": {"message": ["a"], "type": 7}}), paid=False),
    "418 control characters": failed(418, told="\x1b[31mred\u202e\n\x00"),
    "401": failed(401, "authentication_error", "invalid x-api-key", stops=True),
    "401 html": Odd(Reply(status=401, body=b"<html>", content_type="text/html"), paid=False, stops=True),
    "402": failed(402, "billing_error", stops=True),
    "403": failed(403, "permission_error", stops=True),
    "404": failed(404, "not_found_error", "model: x", stops=True),
    "no credit": failed(400, "invalid_request_error", "Your credit balance is too low", stops=True),
    # connections
    "redirect to a page": Odd(Reply(status=302, headers={"location": "/login"}), paid=False),
    "redirect without end": Odd(Reply(status=302, headers={"location": "/again"}), paid=False),
    "redirect to nowhere": Odd(Reply(status=307), paid=False),
    "204": Odd(Reply(status=204), paid=False),
    "201": Odd(Reply(status=201, body=WHOLE)),
    "body cut": Odd(Reply(body=WHOLE[:50], missing_bytes=1000), exact=False),
    "reset in the body": Odd(Reply(body=WHOLE[:50], missing_bytes=1000, reset=True), exact=False),
    "slow body": Odd(Reply(body=WHOLE, delay_s=0.2), exact=False, timeout_s=0.1),
}


class Said:
    """An observer that remembers the failures that it was told."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def on_loop_state(self, branch: str, **fields: Any) -> None:
        pass

    def on_verdict(self, record: Any) -> None:
        pass

    def on_head_gain(self, group: str, gain: Any) -> None:
        pass

    def on_event(self, kind: str, **fields: Any) -> None:
        assert kind == "proposal_failed"
        self.reasons.append(fields["reason"])


class Bench:
    """A store, the API and one client, which all cases share; each case has a branch and a tag of its own."""

    def __init__(self, store: Store, api: LocalApi, runner: asyncio.Runner, client: AsyncAnthropic) -> None:
        self.store, self.api, self.runner, self.client = store, api, runner, client

    def branch(self) -> str:
        name = f"autoresearch/case{len(self.store.branches())}"
        self.store.add_branch(make_branch(name))
        return name

    def context(self, branch: str) -> Context:
        return make_context(
            charge=lambda usage: self.store.add_answer(branch, usage),
            spent_usd=lambda: self.store.spent_usd(branch.removeprefix("autoresearch/")),
            query=lambda sql: self.store.query(sql).to_text(),
        )

    def next(self, branch: str, script: Sequence[Scripted], timeout_s: float | None = None) -> tuple[Proposal, Said]:
        """The next proposal of a loop to which the API plays the script, whose last answer it repeats."""
        self.api.play(script, repeat_last=True)
        said = Said()

        async def ask() -> Proposal:
            patience: Any = {} if timeout_s is None else {"inactivity_s": timeout_s}
            proposer = Proposer(
                branch=branch,
                researcher=ClaudeResearcher(client=self.client, retry_pause_s=0.001, max_turns=4, **patience),
                store=self.store,
                observer=said,
                context=lambda: self.context(branch),
                head_train_py=lambda: TRAIN_PY,
                pauses_s=(0.001, 0.01),
            )
            return await asyncio.wait_for(proposer.next(), 30)

        return self.runner.run(ask()), said

    def costs(self, branch: str) -> list[tuple[float, bool]]:
        """(US dollars, estimated) of each answer on a branch."""
        rows = self.store.query(f"SELECT cost_usd, estimated FROM costs WHERE branch = '{branch}'").rows
        return [(cost, estimated) for cost, estimated in rows]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with local_api() as api, Store.open(tmp_path_factory.mktemp("home")) as store, asyncio.Runner() as runner:
        client = AsyncAnthropic(api_key="key", base_url=api.url, max_retries=0)
        yield Bench(store, api, runner, client)
        runner.run(client.close())


def assert_each_answer_is_charged(bench: Bench, branch: str, odd: Odd, served: int) -> None:
    """Of `served` answers all that a model worked on have a cost; `served` counts the odd ones."""
    costs = bench.costs(branch)
    others = len(bench.api.requests) - served
    assert len(costs) == others + (served if odd.paid else 0)
    assert all(cost > 0 for cost, _ in costs)
    exact = [cost for cost, estimated in costs if not estimated]
    assert exact == pytest.approx([ONE_ANSWER] * len(exact))
    assert len(exact) == others + (served if odd.paid and odd.exact else 0)


def assert_one_line(reason: str) -> None:
    assert reason.isprintable() and len(reason) < 700, reason


def test_there_are_many_cases() -> None:
    assert len(CASES) >= 100


@pytest.mark.parametrize("name", CASES)
def test_the_loop_gets_its_next_idea_after_an_odd_answer(bench: Bench, name: str) -> None:
    odd, branch = CASES[name], bench.branch()
    if odd.stops:
        with pytest.raises(NotConfigured) as stop:
            bench.next(branch, [odd.reply, GOOD])
        assert_one_line(str(stop.value))
        return
    proposal, said = bench.next(branch, [odd.reply, GOOD], odd.timeout_s)
    assert proposal.train_py == EDITED and proposal.title == "deeper"
    for reason in said.reasons:
        assert_one_line(reason)
    assert_each_answer_is_charged(bench, branch, odd, served=1)


@pytest.mark.parametrize("name", CASES)
def test_an_edit_survives_an_odd_answer_and_ever_more_of_them(bench: Bench, name: str) -> None:
    """After the edit the model is asked again; if it never answers well again, the edit is tried as it stands."""
    odd, branch = CASES[name], bench.branch()
    proposal, said = bench.next(branch, [EDIT, odd.reply, SUBMIT], odd.timeout_s)
    assert proposal.train_py == EDITED and not said.reasons
    assert proposal.usage.answers == len(bench.costs(branch))
    proposal, said = bench.next(branch, [EDIT, odd.reply], odd.timeout_s)
    assert proposal.train_py == EDITED and not said.reasons
    assert proposal.title == "DEPTH 2 -> 3" and "as it stood" in proposal.hypothesis
