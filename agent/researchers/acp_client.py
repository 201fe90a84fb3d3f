"""One prompt to an agent that speaks the Agent Client Protocol: python -I acp_client.py [--model M] [--effort E] -- COMMAND...

It runs beside the agent in the sandbox of the researcher's command, so that what it reads and writes for the agent is bounded
as the agent is. It imports nothing of the farm: the working folder has an edited copy. The prompt is its standard input. On its
standard output each line is a JSON object with `acp`: `cost` as the agent tells it, then `end` or `error`.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from acp import PROTOCOL_VERSION, Client, RequestError, connect_to_agent, text_block
from acp.client import ClientSideConnection
from acp.schema import (
    AllowedOutcome,
    ClientCapabilities,
    DeniedOutcome,
    FileSystemCapabilities,
    Implementation,
    InitializeResponse,
    NewSessionResponse,
    PermissionOption,
    ReadTextFileResponse,
    RequestPermissionResponse,
    SessionConfigOptionSelect,
    SessionConfigSelectOption,
    UsageUpdate,
    WriteTextFileResponse,
)

AUTH_REQUIRED = -32000
"""The protocol's error code of an agent that wants a login."""

END_SECONDS = 5.0
"""How long an agent that isn't needed any more may take to end."""

MESSAGE_BYTES = 50_000_000
"""The longest message of an agent that is read."""


class Refused(Exception):
    """Why the agent can't work, in words."""


class WorkingFolder:
    """What the agent may ask of its client: files of the working folder, and permission, which nobody else could give."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()

    async def request_permission(self, options: Sequence[PermissionOption], **_: Any) -> RequestPermissionResponse:
        """Allows what the agent asks for, once if it offers that: the sandbox says what it can do."""
        kinds = ("allow_once", "allow_always")
        allowed = [option for kind in kinds for option in options if option.kind == kind]
        if not allowed:
            return RequestPermissionResponse(outcome=DeniedOutcome(outcome="cancelled"))
        return RequestPermissionResponse(outcome=AllowedOutcome(outcome="selected", option_id=allowed[0].option_id))

    async def session_update(self, update: Any, **_: Any) -> None:
        """Reports what the session has cost, if the agent tells it."""
        if isinstance(update, UsageUpdate) and update.cost is not None:
            say("cost", amount=update.cost.amount, currency=update.cost.currency)

    async def write_text_file(self, content: str, path: str, **_: Any) -> WriteTextFileResponse:
        """Writes a file of the working folder."""
        place = self._inside(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(content, encoding="utf-8")
        return WriteTextFileResponse()

    async def read_text_file(
        self, path: str, limit: int | None = None, line: int | None = None, **_: Any
    ) -> ReadTextFileResponse:
        """Reads a file of the working folder, from a line on, which counts from 1."""
        try:
            lines = self._inside(path).read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        except FileNotFoundError:
            raise RequestError.resource_not_found(path) from None
        first = max(0, (line or 1) - 1)
        return ReadTextFileResponse(content="".join(lines[first : None if limit is None else first + limit]))

    def _inside(self, path: str) -> Path:
        place = (self._folder / path).resolve()
        if not place.is_relative_to(self._folder):
            raise RequestError.invalid_params({"details": f"{path} is not in the working folder {self._folder}"})
        return place


async def talk(command: Sequence[str], prompt: str, *, model: str | None, effort: str | None) -> str:
    """Starts the agent and gives it the prompt. Returns why it stopped. Raises Refused."""
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=MESSAGE_BYTES
    )
    folder = Path.cwd()
    connection = connect_to_agent(
        cast(Client, WorkingFolder(folder)), process.stdin, process.stdout, use_unstable_protocol=True
    )
    try:
        agent = await initialized(connection)
        session = await opened(connection, agent, folder)
        for category, value in (("model", model), ("thought_level", effort)):
            if value is not None:
                await choose(connection, session, category, value)
        answer = await connection.prompt(session_id=session.session_id, prompt=[text_block(prompt)])
    except RequestError as error:
        raise Refused(f"{error}{f' ({json.dumps(error.data)})' if error.data else ''}") from None
    except ConnectionError:
        raise Refused(f"{command[0]} closed its connection: is it an agent of the Agent Client Protocol?") from None
    finally:
        await connection.close()
        await ended(process)
    usage = None if answer.usage is None else answer.usage.model_dump(mode="json", exclude_none=True)
    say("end", stop_reason=answer.stop_reason, usage=usage, model=chosen_model(session) if model is None else model)
    return answer.stop_reason


async def ended(process: asyncio.subprocess.Process) -> None:
    """Ends the agent by the end of its standard input, or kills it."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), END_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()


async def initialized(connection: ClientSideConnection) -> InitializeResponse:
    """What the agent says of itself. Raises Refused if it speaks another version of the protocol."""
    files = FileSystemCapabilities(read_text_file=True, write_text_file=True)
    agent = await connection.initialize(
        protocol_version=PROTOCOL_VERSION,
        client_capabilities=ClientCapabilities(fs=files, terminal=False),
        client_info=Implementation(name="autoresearch-farm", version="1"),
    )
    if agent.protocol_version != PROTOCOL_VERSION:
        raise Refused(f"it speaks version {agent.protocol_version} of the protocol, not {PROTOCOL_VERSION}")
    return agent


async def opened(connection: ClientSideConnection, agent: InitializeResponse, folder: Path) -> NewSessionResponse:
    """A new session in the working folder. Raises Refused if the agent wants a login."""
    try:
        return await connection.new_session(cwd=str(folder), mcp_servers=[])
    except RequestError as error:
        if error.code != AUTH_REQUIRED:
            raise
        ways = ", ".join(method.name for method in agent.auth_methods or []) or "as its documentation says"
        raise Refused(f"it wants a login ({ways}): log in to it, or set its key, and start again") from None


async def choose(connection: ClientSideConnection, session: NewSessionResponse, category: str, value: str) -> None:
    """Sets the session's option of a category. Raises Refused if the agent doesn't offer the value."""
    option = option_of(session, category)
    what = "model" if category == "model" else "effort"
    if option is None:
        raise Refused(f"it offers no choice of {what} by the protocol: leave --{what} out, and choose in its own settings")
    offered = [one.value for one in choices(option)]
    if value not in offered:
        raise Refused(f"--{what} {value}: it offers {', '.join(offered)}")
    await connection.set_config_option(config_id=option.id, session_id=session.session_id, value=value)


def option_of(session: NewSessionResponse, category: str) -> SessionConfigOptionSelect | None:
    """The session's first option of a category; None without one."""
    options = (one for one in session.config_options or [] if isinstance(one, SessionConfigOptionSelect))
    return next((one for one in options if one.category == category), None)


def choices(option: SessionConfigOptionSelect) -> Iterator[SessionConfigSelectOption]:
    """The values of an option, of all of its groups."""
    for one in option.options:
        if isinstance(one, SessionConfigSelectOption):
            yield one
        else:
            yield from one.options


def chosen_model(session: NewSessionResponse) -> str | None:
    """The model that the agent has chosen itself; None if it doesn't tell."""
    option = option_of(session, "model")
    return None if option is None else option.current_value


def say(what: str, **fields: object) -> None:
    """Prints a line for the farm."""
    print(json.dumps({"acp": what, **fields}), flush=True)


def main() -> int:
    """Returns 0 if the agent ended its turn by itself."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model")
    parser.add_argument("--effort")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    try:
        reason = asyncio.run(talk(options.command, sys.stdin.read(), model=options.model, effort=options.effort))
    except (Refused, OSError) as error:
        say("error", message=str(error))
        return 1
    return 0 if reason == "end_turn" else 1


if __name__ == "__main__":
    sys.exit(main())
