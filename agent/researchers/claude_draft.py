"""An idea that a model is working on: the text of train.py, the tools that change it, and the proposal that it becomes."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice

from agent.compare_programs import changed_constants, describe_changes, same_code, same_lines
from agent.duplicate_edits import questions_about, reason_not_to_run
from agent.researcher import Context
from agent.researchers.claude_docs import Docs, NoDocs
from agent.researchers.claude_editor import Editor, EditRefused
from agent.researchers.history_text import LOOKED_AT, as_data
from agent.text_reader import TextReader
from research.errors import UserError
from research.formatting import one_line
from research.valid_train_py import problem_with
from results.experiment import Proposal, Usage
from results.notes import KINDS

MAX_QUERY_CHARACTERS = 20_000
MAX_REFUSALS = 3
"""How often a submission is refused with the reason before the proposal ends."""
MAX_NOTES = 3
"""Notes that one proposal may leave."""
MAX_TITLE = 120
"""Characters of a proposal's title."""


@dataclass(kw_only=True)
class Draft:
    """The idea so far."""

    context: Context
    editor: Editor
    docs: Docs = field(default_factory=Docs)
    repaired: str = ""
    """Id of the crashed experiment whose edit it began with; empty if it began with the head."""
    submission: Mapping[str, object] | None = field(default=None, init=False)
    refusals: list[str] = field(default_factory=list, init=False)
    """Why submissions were refused."""
    notes: int = field(default=0, init=False)

    @property
    def is_usable(self) -> bool:
        """Whether train.py is an edit of the head that is worth a run."""
        if problem_with(self.editor.text) is not None or same_code(self.context.train_py, self.editor.text):
            return False
        return self.editor.has_changed and reason_not_to_run(self.editor.text, self.context) is None

    async def use(self, tool: str, arguments: Mapping[str, object] | None) -> str:
        """The result of a tool, as text for the model. Raises EditRefused."""
        if arguments is None:
            raise EditRefused(f"The input of {one_line(tool, 60)} must be a JSON object.")
        match tool:
            case "str_replace_based_edit_tool":
                return self.editor.apply(arguments)
            case "query_history":
                return await self._query(arguments.get("sql"))
            case "read_log":
                return await self._log(arguments.get("id"))
            case "search_docs":
                return await self._search_docs(arguments.get("query"))
            case "note":
                return self._note(arguments)
            case "submit":
                return await self._submit(arguments)
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
            return as_data("result", answer)
        return f"{as_data('result', answer[:MAX_QUERY_CHARACTERS])}\n(truncated: select fewer rows or columns)"

    async def _log(self, name: object) -> str:
        if not isinstance(name, str) or self.context.log_of is None:
            raise EditRefused("id must be the id of an experiment that has run.")
        try:
            return as_data("log", await asyncio.to_thread(self.context.log_of, name.strip()))
        except UserError as error:
            raise EditRefused(str(error)) from None

    async def _search_docs(self, query: object) -> str:
        if not isinstance(query, str) or not query.strip():
            raise EditRefused("query must be a name or words.")
        try:
            return as_data("docs", await self.docs.search(query))
        except NoDocs as problem:
            raise EditRefused(f"{problem}.") from None

    def _note(self, arguments: Mapping[str, object]) -> str:
        kind, text, replaces = arguments.get("kind"), arguments.get("text"), arguments.get("replaces", [])
        chosen = next((known for known in KINDS if known == kind), None)
        if chosen is None or not isinstance(text, str) or not one_line(text):
            raise EditRefused(f"kind must be {' or '.join(KINDS)}, and text must say something.")
        if not isinstance(replaces, list) or not all(type(number) is int for number in replaces):
            raise EditRefused("replaces must be a list of numbers of notes.")
        if self.notes == MAX_NOTES or self.context.note is None:
            raise EditRefused(f"No more notes: a proposal may leave {MAX_NOTES}.")
        self.notes += 1
        return f"Noted as {chosen} {self.context.note(chosen, text, replaces)}."

    async def _submit(self, arguments: Mapping[str, object]) -> str:
        for name in ("title", "hypothesis"):
            value = arguments.get(name)
            if not isinstance(value, str) or not value.strip():
                raise EditRefused(f"{name} is missing.")
        await TextReader().read(questions_about(self.editor.text, self.context))
        reason = self._reason_to_refuse()
        if reason is not None:
            self.refusals.append(reason)
            raise EditRefused(f"Not submitted: {reason}")
        self.submission = arguments
        return "Submitted."

    def _reason_to_refuse(self) -> str | None:
        problem = problem_with(self.editor.text)
        if problem is not None:
            return f"{problem}. Fix it first."
        if same_lines(self.context.train_py, self.editor.text):
            return "train.py is unchanged. Edit it first."
        reason = reason_not_to_run(self.editor.text, self.context)
        return None if reason is None else f"{reason}. Edit it first."

    def _parents(self, named: object) -> tuple[str, ...]:
        """Ids of the experiments that the model named by number or id, without unknown ones.

        A mended idea has only the one that crashed.
        """
        both = (self.context.records, self.context.others)
        records = [record for some in both for record in islice(reversed(some), LOOKED_AT)]
        records += [*self.context.lineage, *self.context.near_misses]
        known = {record.experiment.id: record.experiment.id for record in records}
        own = (record.experiment for record in records if record.experiment.branch == self.context.branch.name)
        known |= {str(experiment.number): experiment.id for experiment in own}
        names = [str(name).lstrip("#") for name in named] if isinstance(named, list) else []
        found = tuple(dict.fromkeys(known[name] for name in names if name in known))
        return (self.repaired,) if self.repaired else found
