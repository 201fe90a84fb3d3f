"""An idea that a model is working on: the text of train.py, the tools that change it, and the proposal that it becomes."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.compare_programs import changed_constants, describe_changes, same_code, same_lines
from agent.duplicate_edits import reason_not_to_run
from agent.researcher import Context
from agent.researchers.claude_editor import Editor, EditRefused
from research.errors import UserError
from research.formatting import one_line
from research.valid_train_py import problem_with
from results.experiment import Proposal, Usage

MAX_QUERY_CHARACTERS = 20_000
MAX_TITLE = 120
"""Characters of a proposal's title."""


@dataclass(kw_only=True)
class Draft:
    """The idea so far."""

    context: Context
    editor: Editor
    submission: Mapping[str, object] | None = field(default=None, init=False)

    @property
    def is_usable(self) -> bool:
        """Whether train.py differs from the head and can be tried."""
        return problem_with(self.editor.text) is None and not same_code(self.context.train_py, self.editor.text)

    async def use(self, tool: str, arguments: Mapping[str, object] | None) -> str:
        """The result of a tool, as text for the model. Raises EditRefused."""
        if arguments is None:
            raise EditRefused(f"The input of {one_line(tool, 60)} must be a JSON object.")
        match tool:
            case "str_replace_based_edit_tool":
                return self.editor.apply(arguments)
            case "query_history":
                return await self._query(arguments.get("sql"))
            case "submit":
                return self._submit(arguments)
            case _:
                raise EditRefused(f"There is no tool {one_line(tool, 60)}.")

    def submit_unfinished(self, reason: str) -> None:
        """Submits the edit as it stands, because the model can't: it was paid for."""
        self.submission = {"title": "", "hypothesis": f"(The edit is tried as it stood when the researcher failed: {reason})"}

    def proposal(self, researcher: str, usage: Usage) -> Proposal:
        """The submitted idea."""
        assert self.submission is not None
        title = one_line(str(self.submission["title"]), MAX_TITLE)
        return Proposal(
            title=title or one_line(describe_changes(self.context.train_py, self.editor.text), MAX_TITLE),
            hypothesis=str(self.submission["hypothesis"]),
            train_py=self.editor.text,
            researcher=researcher,
            parents=self._parents(self.submission.get("parents")),
            changes=changed_constants(self.context.train_py, self.editor.text),
            usage=usage,
        )

    async def _query(self, sql: object) -> str:
        if not isinstance(sql, str):
            raise EditRefused("sql must be a string.")
        try:
            answer = await asyncio.to_thread(self.context.query, sql)  # without blocking the event loop
        except UserError as error:
            raise EditRefused(str(error)) from None
        if len(answer) <= MAX_QUERY_CHARACTERS:
            return answer
        return answer[:MAX_QUERY_CHARACTERS] + "\n(truncated: select fewer rows or columns)"

    def _submit(self, arguments: Mapping[str, object]) -> str:
        for name in ("title", "hypothesis"):
            value = arguments.get(name)
            if not isinstance(value, str) or not value.strip():
                raise EditRefused(f"{name} is missing.")
        problem = problem_with(self.editor.text)
        if problem is not None:
            raise EditRefused(f"Not submitted: {problem}. Fix it first.")
        if same_lines(self.context.train_py, self.editor.text):
            raise EditRefused("Not submitted: train.py is unchanged. Edit it first.")
        if (reason := reason_not_to_run(self.editor.text, self.context)) is not None:
            raise EditRefused(f"Not submitted: {reason}. Edit it first.")
        self.submission = arguments
        return "Submitted."

    def _parents(self, named: object) -> tuple[str, ...]:
        """Ids of the experiments that the model named by number or id; unknown ones are left out."""
        known = {str(record.experiment.number): record.experiment.id for record in self.context.records}
        known |= {record.experiment.id: record.experiment.id for record in (*self.context.records, *self.context.others)}
        names = [str(name).lstrip("#") for name in named] if isinstance(named, list) else []
        return tuple(dict.fromkeys(known[name] for name in names if name in known))
