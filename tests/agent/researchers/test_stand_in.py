"""The stand-in for the Messages API, asked by the real SDK and by the claude researcher."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic

from agent.researcher import Context, NotConfigured, ProposalFailed
from agent.researchers.budget import Budget
from agent.researchers.claude import ClaudeResearcher
from agent.researchers.make import make_researcher
from agent.researchers.stand_in.__main__ import main
from agent.researchers.stand_in.bodies import problem_with
from agent.researchers.stand_in.script import Script, Step
from agent.researchers.stand_in.server import StandIn
from research.errors import UserError
from research.files import research_folder
from results.experiment import Proposal, Usage
from tests.agent.samples import TRAIN_PY, make_context, make_record
from tests.cluster.tiny_checkout import hear_ctrl_c

OWN = (research_folder() / "train.py").read_text(encoding="utf-8")


def propose_all(script: Script, contexts: Sequence[Context]) -> list[Proposal]:
    """What the claude researcher proposes, one context after another."""

    async def ask(url: str) -> list[Proposal]:
        client = anthropic.AsyncAnthropic(api_key="x", base_url=url, max_retries=0)
        researcher = ClaudeResearcher(client=client, retry_pause_s=0.001)
        try:
            return [await researcher.propose(context) for context in contexts]
        finally:
            await researcher.close()

    with StandIn(script.answer).running() as stand_in:
        return asyncio.run(ask(stand_in.url))


def ask(script: Script, *, stream: bool, timeout: float = 20.0, **more: Any) -> anthropic.types.Message:
    """One message of the SDK."""
    request: Any = {"model": "claude-opus-5-5", "max_tokens": 100, "messages": [{"role": "user", "content": "hello"}], **more}
    with (
        StandIn(script.answer).running() as stand_in,
        Anthropic(api_key="x", base_url=stand_in.url, max_retries=0, timeout=timeout) as client,
    ):
        if not stream:
            return client.messages.create(**request)
        with client.messages.stream(**request) as events:
            return events.get_final_message()


# --- without a script -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("train_py", [TRAIN_PY, OWN], ids=["small", "own"])
def test_it_edits_one_constant_after_another(train_py: str) -> None:
    charged: list[Usage] = []
    records, contexts = [make_record(0)], []
    script = Script()
    for number in range(1, 4):
        contexts = [make_context(tuple(records), train_py, charge=charged.append)]
        (proposal,) = propose_all(script, contexts)
        assert proposal.changes and proposal.train_py != train_py
        assert proposal.title not in [record.experiment.title for record in records]
        records.append(make_record(number, title=proposal.title))
    assert len(charged) == 6  # an edit and a submission each
    assert all(usage.cost_usd and usage.output_tokens for usage in charged)
    first, then, *_ = charged
    assert first.cache_read_tokens == 0 < first.cache_write_tokens <= then.cache_read_tokens


def test_a_submission_that_is_refused_is_followed_by_another_idea() -> None:
    """As where another loop had the idea meanwhile: the edit that stands in train.py must not remain in the next one."""
    turns: list[dict[str, Any]] = [{"role": "user", "content": f"train.py at the head:\n\n```python\n{TRAIN_PY}\n```"}]
    tools = [{"type": "text_editor_20250728", "name": "str_replace_based_edit_tool"}, {"name": "submit", "input_schema": {}}]
    titles, edits = [], []
    for failed in (False, True, False):
        said = ask_for(turns, tools)
        call = said[-1]
        titles += [call["input"]["title"]] if call["name"] == "submit" else []
        edits += [call["input"]] if call["name"] != "submit" else []
        result = {"type": "tool_result", "tool_use_id": call["id"], "content": "tried already", "is_error": failed}
        turns += [{"role": "assistant", "content": said}, {"role": "user", "content": [result]}]
    assert len(titles) == 1 and len(edits) == 2
    assert edits[1]["command"] == "create" and edits[0]["new_str"] not in edits[1]["file_text"]


def ask_for(turns: list[dict[str, Any]], tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    message = ask(Script(), stream=False, messages=turns, tools=tools)
    return [block.to_dict() for block in message.content]


# --- a script -------------------------------------------------------------------------------------------------------------


def test_errors_come_as_scheduled_and_the_researcher_gets_over_them() -> None:
    charged: list[Usage] = []
    script = Script([Step(error=529, times=2), Step(error=429, retry_after=0.01), Step(), Step(cut=0.5), Step()])
    (proposal,) = propose_all(script, [make_context((make_record(0),), charge=charged.append)])
    assert proposal.changes
    assert [usage.estimated for usage in charged] == [False, True, False]


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (Step(stop_reason="refusal"), "declined"),
        (Step(stop_reason="max_tokens", text="I wi"), r"cut off \(max_tokens\)"),
        (Step(stop_reason="model_context_window_exceeded"), "cut off"),
        (Step(error=529), "529"),
        (Step(text="hm"), "no tool in 3"),
        (Step(error=401), "refused the key"),
        (Step(error=402), "no money left"),
    ],
)
def test_a_failure_that_lasts_ends_the_proposal(step: Step, reason: str) -> None:
    with pytest.raises((ProposalFailed, NotConfigured), match=reason):
        propose_all(Script([step]), [make_context((make_record(0),))])


def test_edits_and_submissions_are_as_written() -> None:
    script = Script([Step(text="Deeper.", edit=("DEPTH = 2", "DEPTH = 5")), Step(submit="deeper", usage={"input_tokens": 77})])
    charged: list[Usage] = []
    (proposal,) = propose_all(script, [make_context((make_record(0),), charge=charged.append)])
    assert (proposal.title, proposal.changes) == ("deeper", {"DEPTH": (2, 5)})
    assert charged[1].input_tokens == 77


BLOCKS = (
    {"type": "thinking", "thinking": "hm, hm", "signature": "s"},
    {"type": "text", "text": "Größer?"},
    {"type": "tool_use", "id": "t1", "name": "look", "input": {"path": ["a", 1, None]}},
)


@pytest.mark.parametrize("stop_reason", ["end_turn", "tool_use", "max_tokens", "stop_sequence", "pause_turn", "refusal"])
def test_a_stream_and_a_whole_answer_say_the_same(stop_reason: str) -> None:
    script = Script([Step(content=BLOCKS, stop_reason=stop_reason, usage={"cache_read_input_tokens": 9})])
    whole, streamed = (ask(script, stream=stream) for stream in (False, True))
    assert whole.stop_reason == streamed.stop_reason == stop_reason
    assert [block.to_dict() for block in whole.content] == list(BLOCKS)
    for one, other in zip(whole.content, streamed.content, strict=True):
        assert {name: one.to_dict()[name] for name in one.to_dict()} == {name: other.to_dict()[name] for name in one.to_dict()}
    assert whole.usage.output_tokens == streamed.usage.output_tokens > 0
    assert whole.usage.cache_read_input_tokens == streamed.usage.cache_read_input_tokens == 9


@pytest.mark.parametrize("stream", [False, True])
def test_a_cut_or_stalled_answer_is_an_error_of_the_connection(stream: bool) -> None:
    """Whatever the SDK's transport calls it."""
    for step, names in ((Step(text="hello", cut=0.6), ("APIConnectionError", "RemoteProtocolError")),
                        (Step(text="hello", stall_s=0.5), ("APITimeoutError", "ReadTimeout"))):  # fmt: skip
        with pytest.raises(Exception) as failure:
            ask(Script([step]), stream=stream, timeout=0.2)
        assert type(failure.value).__name__ in names


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("{}", "list of steps"),
        ("[]", "list of steps"),
        ("[3]", "Step 1"),
        ('[{}, {"eror": 529}]', "eror"),
        ('[{"error": 200}]', "400 to 599"),
        ('[{"error": true}]', "400 to 599"),
        ('[{"cut": 1}]', "below 1"),
        ('[{"stall_s": -1}]', "seconds"),
        ('[{"edit": ["a"]}]', "old, new"),
        ('[{"times": 0}]', "from 1"),
        ('[{"content": [3]}]', "blocks"),
        ('[{"usage": 7}]', "token counts"),
        ("[", "not JSON"),
        (None, "can't be read"),
    ],
)
def test_a_bad_script_is_refused_in_one_line(script: str | None, told: str, tmp_path: Path) -> None:
    if script is not None:
        (tmp_path / "script.json").write_text(script)
    with pytest.raises(UserError, match=re.escape(told)) as error:
        Script.from_file(tmp_path / "script.json")
    assert "\n" not in str(error.value)


# --- what the API refuses -------------------------------------------------------------------------------------------------


CALL = {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "look", "input": {}}]}
RESULT = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": "x"}]}
HELLO = {"role": "user", "content": "hello"}


def request_of(*turns: Any) -> dict[str, Any]:
    return {"model": "m", "max_tokens": 1, "messages": list(turns)}


@pytest.mark.parametrize(
    "request_body",
    [
        None,
        [],
        {"messages": [HELLO]},
        request_of(),
        request_of(HELLO, CALL),
        request_of(HELLO, CALL, HELLO),
        request_of(HELLO, CALL, {"role": "user", "content": RESULT["content"] * 2}),
        request_of(HELLO, {"role": "assistant", "content": CALL["content"] * 2}, RESULT),
        request_of({"role": "user", "content": [{"type": "text", "text": " "}]}),
        request_of({"role": "user", "content": []}),
        request_of(RESULT),
        request_of("hello"),
        request_of(
            HELLO, {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "look", "input": "x"}]}, RESULT
        ),
    ],
)
def test_what_the_api_refuses_is_refused(request_body: Any) -> None:
    assert problem_with(request_body) is not None


def test_what_the_api_takes_is_taken() -> None:
    assert problem_with(request_of(HELLO, CALL, RESULT)) is None
    with pytest.raises(anthropic.BadRequestError, match="blank"):
        ask(Script(), stream=False, messages=[{"role": "user", "content": " "}])


# --- the command ----------------------------------------------------------------------------------------------------------


def test_a_user_rehearses_with_two_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command in a process of its own, and the claude researcher as `farm run` makes it."""
    script = tmp_path / "script.json"
    script.write_text(json.dumps([{"error": 529}, {}, {}]))
    command = [sys.executable, "-m", "agent.researchers.stand_in", "--port", "0", "--script", str(script)]
    charged: list[Usage] = []

    async def rehearse() -> Proposal:
        researcher = make_researcher("claude", budgets=[Budget(5.0)])
        try:
            return await researcher.propose(make_context((make_record(0),), charge=charged.append))
        finally:
            await researcher.close()

    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, preexec_fn=hear_ctrl_c, **pipes) as process:
        try:
            assert process.stdout is not None
            told = process.stdout.readline() + process.stdout.readline()
            (url,) = set(re.findall(r"http://127\.0\.0\.1:\d+", told))
            for name in ("ANTHROPIC_AUTH_TOKEN", "HTTP_PROXY", "http_proxy"):
                monkeypatch.delenv(name, raising=False)
            monkeypatch.setenv("ANTHROPIC_BASE_URL", url)
            monkeypatch.setenv("ANTHROPIC_API_KEY", "x")
            proposal = asyncio.run(rehearse())
        finally:
            os.kill(process.pid, signal.SIGINT)
        assert process.wait(20) == 0
    assert proposal.changes and len(charged) == 2
    assert "ANTHROPIC_BASE_URL=" in told and "farm run --researcher claude" in told


def test_the_script_of_the_documentation_is_one(tmp_path: Path) -> None:
    page = (research_folder().parent / "docs" / "researchers.md").read_text(encoding="utf-8")
    text, *_ = re.findall(r"^```json\n(\[.*?)^```", page, re.M | re.S)
    (tmp_path / "script.json").write_text(text)
    assert len(Script.from_file(tmp_path / "script.json").steps) == 10
    fields = {name for entry in json.loads(text) for name in entry}
    assert fields >= {"error", "cut", "stall_s", "stop_reason", "edit", "submit", "usage", "times"}
    assert all(f"`{field.name}`" in page for field in dataclass_fields(Step))


def test_a_port_in_use_is_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with StandIn(Script().answer).running() as stand_in:
        assert main(["--port", stand_in.url.rsplit(":", 1)[1]]) == 2
    assert "choose another --port" in capsys.readouterr().err


def test_a_script_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--script", "/non/existent"]) == 2
    assert "/non/existent" in capsys.readouterr().err


def test_a_client_that_leaves_in_the_middle_of_its_request_has_asked_for_nothing() -> None:
    """Its thread ends without an answer, and what it sent is no request that the API would refuse."""
    threads = threading.active_count()
    with StandIn(lambda request: pytest.fail("nothing was asked for")).running() as stand_in:
        host, port = stand_in.server.server_address[:2]
        with socket.create_connection((str(host), port)) as client:
            client.sendall(b'POST /v1/messages HTTP/1.1\r\nx-api-key: k\r\ncontent-length: 100\r\n\r\n{"model"')
            client.shutdown(socket.SHUT_WR)
            assert client.recv(1) == b"", "the connection is closed without a word"
        assert stand_in.refused is None
    assert threading.active_count() <= threads + 1
