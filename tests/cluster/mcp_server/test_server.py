"""An outside agent, by the official client: what it reads, what it submits, and what it can't do."""

import asyncio
import http.client
import json
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from mcp import Client, MCPError, StdioServerParameters

from agent.diff import unified_diff
from agent.researchers.scripted import Step
from cluster.home import Home
from cluster.mcp_server import server
from cluster.mcp_server.lab import Lab
from cluster.mcp_server.over_http import LOOPBACK, application_of, serve, token_file, token_of
from cluster.mcp_server.server import make_server
from research.errors import UserError
from results.history import read_history
from tests.agent.loops_of_a_group import GROUP, Group
from tests.agent.samples import TRAIN_PY
from tests.cluster.ray_samples import wait_for
from tests.cluster.tiny_checkout import BAD_LR, GOOD_LR, Checkout

DEEPER = TRAIN_PY.replace("= 2 ", "= 4 ")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The answer of a tool: its fields, or the words of the refusal."""

    fields: dict[str, Any]
    refusal: str = ""


async def called(client: Client, tool: str, **given: Any) -> Answer:
    result = await client.call_tool(tool, given)
    text = "".join(getattr(part, "text", "") for part in result.content)
    return Answer(fields={}, refusal=text) if result.is_error else Answer(fields=dict(result.structured_content or {}))


def asked(lab: Lab, talk: Callable[[Client], Awaitable[None]]) -> None:
    """Lets a client talk to the server in memory."""

    async def talked() -> None:
        async with Client(make_server(lab)) as client:
            await talk(client)

    asyncio.run(talked())


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Lab, Callable[[int], None]]]:
    """A lab whose head is the baseline while no farm runs, and what lets a farm's loop do so many steps."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.chdir(tmp_path)
    home = Home(tmp_path / "home").create()

    def research(steps: int, *script: Step) -> None:
        group = Group(tmp_path, TRAIN_PY, score)
        group.research(steps, script)
        group.store.close()

    def score(train_py: str) -> float:
        return 2.0 if "DEPTH = 4" in train_py else 3.0

    research(0)
    home.record_repository(tmp_path / "repo")
    (tmp_path / "repo" / "program.md").write_text("Lower val_bpb.")
    yield Lab(home=home), research


def test_what_an_agent_reads(world: tuple[Lab, Callable[[int], None]]) -> None:
    lab, _ = world

    async def talk(client: Client) -> None:
        listed = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(listed) == {"read_contract", "read_program", "read_head", "history", "near_misses", "submit", "verdict"}
        assert all("score" not in tool.input_schema["properties"] for tool in listed.values())
        contract = (await called(client, "read_contract")).fields
        assert contract["budget_seconds"] == contract["contract"]["TIME_BUDGET"] and contract["platform"] == "a CPU"
        assert (await called(client, "read_program")).fields["result"] == "Lower val_bpb."
        head = (await called(client, "read_head")).fields
        assert head["train_py"] == TRAIN_PY and head["lineage"] == [] and head["expected_val_bpb"] == pytest.approx(3.0)
        assert (await client.read_resource("farm://head/train.py")).contents[0].text == TRAIN_PY  # type: ignore[union-attr]
        assert (await called(client, "near_misses")).fields["rows"] == []

    asked(lab, talk)


def test_the_history_is_read_only_and_has_no_audit_scores(world: tuple[Lab, Callable[[int], None]]) -> None:
    lab, _ = world

    async def talk(client: Client) -> None:
        rows = (await called(client, "history", sql="SELECT * FROM history")).fields["rows"]
        assert rows[0]["kind"] == "baseline" and rows[0]["val_bpb"] == 3.0
        records = (await called(client, "history", sql="SELECT record FROM runs")).fields
        assert "audit_bpb" not in json.dumps([rows, records]).replace('\\"audit_bpb\\": null', "")
        for sql in ("SELECT * FROM audit", "DROP TABLE runs", "SELECT * FROM read_text('/etc/hostname')"):
            assert (await called(client, "history", sql=sql)).refusal

    asked(lab, talk)


def test_without_a_farm_a_submission_is_kept_and_the_next_farm_takes_it_up(world: tuple[Lab, Callable[[int], None]]) -> None:
    lab, research = world
    submitted = {}

    async def submits(client: Client) -> None:
        for name, edit in (("text", {"train_py": DEEPER}),
                           ("patch", {"patch": unified_diff(TRAIN_PY, TRAIN_PY.replace("0.6", "0.7"))})):  # fmt: skip
            answer = (await called(client, "submit", title=f"by\n{name}", hypothesis="", **edit)).fields
            submitted[name] = answer["id"]
            assert "farm run" in answer["next"]
        again = await called(client, "submit", title="again", hypothesis="", train_py=DEEPER + "# the same\n")
        assert submitted["text"] in again.refusal
        waits = (await called(client, "verdict", id=submitted["text"])).fields
        assert not waits["decided"] and waits["state"] == "waiting" and "farm run" in waits["now"]

    async def reads(client: Client) -> None:
        verdict = (await called(client, "verdict", id=submitted["text"], wait_s=60)).fields
        assert verdict["decided"] and verdict["decision"] == "keep" and verdict["val_bpb"] == 2.0
        assert verdict["title"] == "by text" and verdict["experiment"] == "mar8-cpu0-0001"
        other = (await called(client, "verdict", id=submitted["patch"])).fields
        assert other["decided"] and other["experiment"] != verdict["experiment"]
        tried = await called(client, "submit", title="again", hypothesis="", train_py=DEEPER, base=first["commit"])
        assert verdict["experiment"] in tried.refusal

    first = lab.head()
    asked(lab, submits)
    research(4)
    asked(lab, reads)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"train_py": TRAIN_PY + "def"}, "parse"),
        ({"train_py": TRAIN_PY + "# more\n"}, "comments"),
        ({"train_py": DEEPER, "patch": "@@"}, "either"),
        ({}, "either"),
        ({"patch": "deeper, please"}, "hunk"),
        ({"patch": unified_diff(DEEPER, TRAIN_PY)}, "fit"),
        ({"train_py": DEEPER, "base": "HEAD"}, "base"),
    ],
)
def test_what_can_not_be_run_is_refused_in_words(
    world: tuple[Lab, Callable[[int], None]], given: dict[str, str], says: str
) -> None:
    async def talk(client: Client) -> None:
        refused = await called(client, "submit", title="an idea", hypothesis="", **given)
        assert says in refused.refusal and "\n" not in refused.refusal

    asked(world[0], talk)


def test_what_is_not_there_is_said(world: tuple[Lab, Callable[[int], None]], tmp_path: Path) -> None:
    lab, _ = world
    run = lab.home.runs / "run1"
    run.mkdir(parents=True)
    (run / "run.log").symlink_to(lab.home.journal)
    (lab.home.runs / "run2").mkdir()
    (lab.home.runs / "run2" / "run.log").write_text("step 1\n\x1b[31m" + "x" * 40_000 + "\nthe end\n")

    async def talk(client: Client) -> None:
        for id in ("mar8-s0009", "' OR 1 = 1 --"):
            assert "no submission" in (await called(client, "verdict", id=id)).refusal
        for name in ("run1", "run9", "..", "run1%2F..%2Frun2"):
            with pytest.raises(Exception, match=r"no log|[Uu]nknown|not found"):
                await client.read_resource(f"farm://runs/{name}/log")
        text = (await client.read_resource("farm://runs/run2/log")).contents[0].text  # type: ignore[union-attr]
        assert text.endswith("the end") and "\x1b" not in text and len(text) < 20_000

    asked(lab, talk)
    nothing = Lab(home=Home(tmp_path / "none"))

    async def reads_nothing(client: Client) -> None:
        assert "farm run" in (await called(client, "read_head")).refusal

    asked(nothing, reads_nothing)


def test_a_verdict_is_waited_for_no_longer_than_a_minute(
    world: tuple[Lab, Callable[[int], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "LONGEST_WAIT", 0.3)
    monkeypatch.setattr(server, "LOOK_EVERY_S", 0.1)

    async def talk(client: Client) -> None:
        answer = (await called(client, "submit", title="t", hypothesis="", train_py=DEEPER)).fields
        waited = await asyncio.wait_for(called(client, "verdict", id=answer["id"], wait_s=1e9), 20.0)
        assert waited.fields["state"] == "waiting"

    asked(world[0], talk)


def test_over_http_nothing_is_answered_without_the_token_and_a_client_with_it_reads_its_verdict(
    world: tuple[Lab, Callable[[int], None]],
) -> None:
    lab, research = world
    token = token_of(lab.home)
    assert token_of(lab.home) == token and token_file(lab.home).stat().st_mode & 0o077 == 0
    web = uvicorn.Server(uvicorn.Config(application_of(make_server(lab), lab.home), host=LOOPBACK, port=0, log_level="error"))
    thread = threading.Thread(target=web.run)
    thread.start()
    wait_for("web server", lambda: web.started)
    port = web.servers[0].sockets[0].getsockname()[1]
    call = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}})

    def status(**headers: str) -> int:
        connection = http.client.HTTPConnection(LOOPBACK, port, timeout=20)
        accepts = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
        connection.request("POST", "/mcp", call, {**accepts, **headers})
        return connection.getresponse().status

    try:
        assert [status(), status(Authorization="Bearer x"), status(Authorization=token)] == [401, 401, 401]
        assert status(Authorization=f"Bearer {token}") != 401
        address = f"http://{LOOPBACK}:{port}/mcp"
        for wrong in ("x", token[:-1]):
            with pytest.raises(BaseException) as refused:
                asyncio.run(_over_http(address, wrong, _submits))
            assert isinstance(_innermost(refused.value), MCPError)
        submitted = asyncio.run(_over_http(address, token, _submits))
        research(2)
        asyncio.run(_over_http(address, token, partial(_reads_verdict, submitted)))
    finally:
        web.should_exit = True
        thread.join()


def test_a_port_that_is_taken_is_one_line(world: tuple[Lab, Callable[[int], None]]) -> None:
    lab, _ = world
    with socket.create_server((LOOPBACK, 0)) as taken, pytest.raises(UserError, match="--http"):
        serve(make_server(lab), lab.home, taken.getsockname()[1])


def _innermost(error: BaseException) -> BaseException:
    """The first error in a group of them."""
    return _innermost(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


async def _submits(client: Client) -> str:
    assert (await called(client, "read_contract")).fields["group"] == GROUP
    submitted: str = (await called(client, "submit", title="deeper", hypothesis="", train_py=DEEPER)).fields["id"]
    assert not (await called(client, "verdict", id=submitted)).fields["decided"]
    return submitted


async def _reads_verdict(submitted: str, client: Client) -> str:
    verdict = (await called(client, "verdict", id=submitted, wait_s=30)).fields
    assert verdict["decision"] == "keep"
    rows = (await called(client, "history", sql="SELECT id, researcher, decision FROM history WHERE title = 'deeper'")).fields[
        "rows"
    ]
    assert rows == [{"id": verdict["experiment"], "researcher": "mcp", "decision": "keep"}]
    return submitted


async def _over_http(address: str, token: str, talk: Callable[[Client], Awaitable[str]]) -> str:
    from mcp.client.streamable_http import streamable_http_client
    from mcp.shared._httpx_utils import create_mcp_http_client

    headers = {"Authorization": f"Bearer {token}"}
    async with (
        create_mcp_http_client(headers=headers) as web,
        Client(streamable_http_client(address, http_client=web)) as client,
    ):
        return await talk(client)


def test_a_farm_that_runs_tries_what_is_submitted_over_stdio(quick_checkout: Checkout) -> None:
    """The server is a process of its own, beside a farm whose researcher has ideas enough."""
    edits = [{"title": f"lr {number}", "constants": {"LR": BAD_LR * (2 + number)}} for number in range(40)]
    farm = quick_checkout.start("run", "--tag", "lab", "--devices", "cpu", "--budget", "1", "--researcher",
                                quick_checkout.script(*edits))  # fmt: skip
    home = Home(quick_checkout.home)
    wait_for("baseline", lambda: home.journal.exists() and any(one.keeps for one in read_history(home.journal)))

    async def talk() -> None:
        command = [sys.executable, "-m", "cluster.cli", "mcp", "--home", str(home.folder)]
        parameters = StdioServerParameters(command=command[0], args=command[1:], cwd=quick_checkout.folder)
        async with Client(parameters) as client:
            head = (await called(client, "read_head")).fields
            good = head["train_py"].replace("LR = 0.000001", f"LR = {GOOD_LR}")
            answer = await called(client, "submit", title="learn", hypothesis="x", train_py=good, base=head["commit"])
            assert "loop takes it up" in answer.fields["next"], answer
            state: dict[str, Any] = {}
            for _ in range(4):
                state = (await called(client, "verdict", id=answer.fields["id"], wait_s=30)).fields
                if state["decided"]:
                    break
            assert state["decision"] == "keep" and state["val_bpb"] < 2.8, state
            log = await client.read_resource(f"farm://runs/{state['runs'][0]}/log")
            assert "step" in log.contents[0].text  # type: ignore[union-attr]
            rows = (await called(client, "history", sql="SELECT title, researcher FROM history")).fields["rows"]
            assert {"title": "learn", "researcher": "mcp"} in rows

    asyncio.run(talk())
    quick_checkout.farm("stop")
    farm.communicate(timeout=60)
