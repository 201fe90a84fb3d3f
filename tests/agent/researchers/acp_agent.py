"""A small agent of the Agent Client Protocol, run by its own SDK: it edits train.py by its client's files."""

import asyncio
from pathlib import Path
from typing import Any

from acp import (
    PROTOCOL_VERSION,
    Agent,
    InitializeResponse,
    NewSessionResponse,
    PromptResponse,
    RequestError,
    SetSessionConfigOptionResponse,
    run_agent,
)
from acp.schema import (
    Cost,
    PermissionOption,
    SessionConfigOptionSelect,
    SessionConfigSelectOption,
    ToolCallUpdate,
    Usage,
    UsageUpdate,
)


class SmallAgent(Agent):
    """Deepens the model, and writes down what it was told."""

    def __init__(self) -> None:
        self.model = "small-1"

    def on_connect(self, conn: Any) -> None:
        self.client = conn

    async def initialize(self, protocol_version: int, **_: Any) -> InitializeResponse:
        return InitializeResponse(protocol_version=PROTOCOL_VERSION)

    async def new_session(self, cwd: str, **_: Any) -> NewSessionResponse:
        self.folder = Path(cwd)
        values = [SessionConfigSelectOption(value=name, name=name) for name in ("small-1", "claude-opus-5-5")]
        model = SessionConfigOptionSelect(
            id="m", name="Model", category="model", type="select", current_value=self.model, options=values
        )
        return NewSessionResponse(session_id="s", config_options=[model])

    async def set_config_option(self, value: str | bool, **_: Any) -> SetSessionConfigOptionResponse:
        self.model = str(value)
        return SetSessionConfigOptionResponse(config_options=[])

    async def prompt(self, prompt: list[Any], session_id: str, **_: Any) -> PromptResponse:
        train_py = str(self.folder / "research" / "train.py")
        text = (await self.client.read_text_file(path=train_py, session_id=session_id)).content
        asked = await self.client.request_permission(
            session_id=session_id,
            tool_call=ToolCallUpdate(tool_call_id="t", title="edit train.py", kind="edit"),
            options=[PermissionOption(option_id=kind, name=kind, kind=kind) for kind in ("reject_once", "allow_once")],
        )
        try:
            await self.client.write_text_file(path="/etc/passwd", content="x", session_id=session_id)
            outside = "written"
        except RequestError as error:
            outside = str(error)
        for usd in (0.1, 0.125):  # the sum so far, not a step's
            told = UsageUpdate(session_update="usage_update", used=9, size=1000, cost=Cost(amount=usd, currency="USD"))
            await self.client.session_update(session_id=session_id, update=told)
        edited = text.replace("DEPTH = 2", "DEPTH = 3")
        await self.client.write_text_file(path=train_py, content=edited, session_id=session_id)
        idea = f"Deeper\n\n{self.model} {asked.outcome.outcome} {outside} {prompt[0].text}"
        await self.client.write_text_file(path=str(self.folder / "IDEA.md"), content=idea, session_id=session_id)
        usage = Usage(total_tokens=3616, input_tokens=15, output_tokens=201, cached_read_tokens=3000, cached_write_tokens=400)
        return PromptResponse(stop_reason="end_turn", usage=usage)


if __name__ == "__main__":
    asyncio.run(run_agent(SmallAgent(), use_unstable_protocol=True))
