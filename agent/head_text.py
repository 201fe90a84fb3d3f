"""The train.py of a head: put together from the one before by taking ideas out and adding others, each as its own edit."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from agent.rebase import rebased, rebased_text
from agent.text_reader import TextReader, about_record
from results.experiment import Experiment, Proposal


class DoesNotFit(Exception):
    """An idea's edit conflicts with the text that it should be added to or taken out of."""

    def __init__(self, idea: str) -> None:
        super().__init__(f"{idea} conflicts with other edits")
        self.idea = idea


@dataclass(frozen=True, kw_only=True)
class HeadChange:
    """The step from one head to another."""

    remove: tuple[Experiment, ...] = ()
    """Ideas to take out, the latest first."""
    add: tuple[Experiment, ...] = ()
    """Ideas to add, in their order."""


def head_change(before: frozenset[str], after: frozenset[str], ideas: Sequence[Experiment]) -> HeadChange:
    """The step between two heads, given by the ids of the ideas in them; `ideas` has them all, oldest first."""
    leaving, coming = before - after, after - before
    return HeadChange(
        remove=tuple(idea for idea in reversed(ideas) if idea.id in leaving),
        add=tuple(idea for idea in ideas if idea.id in coming),
    )


def changed_head(text: str, change: HeadChange, text_at: Callable[[str], str]) -> str:
    """The text of the head after a change; `text_at` returns the train.py at a commit. Raises DoesNotFit."""
    for idea, old, new in _edits(change, text_at):
        text = _edited(text, idea, old, new)
    return text


async def read_changed_head(text: str, change: HeadChange, text_at: Callable[[str], str], reader: TextReader) -> bool:
    """Reads beside the event loop what `changed_head` asks about these texts, and the record of what comes out. Returns whether
    there was anything to read.
    """
    head, has_read = text, False
    for _, old, new in _edits(change, text_at):
        if old == text:
            text = new
            continue
        has_read |= await reader.read([("rebased_text", (new, old, text))])
        rebased = rebased_text(new, old, text)
        if rebased is None:
            return has_read
        text = rebased
    return await reader.read(about_record(head, text)) or has_read


def _edits(change: HeadChange, text_at: Callable[[str], str]) -> Iterator[tuple[Experiment, str, str]]:
    """The ideas that a change takes out and adds, each with the texts that its edit leads from and to."""
    for idea in change.remove:
        yield idea, text_at(idea.commit), text_at(idea.parent_commit)
    for idea in change.add:
        yield idea, text_at(idea.parent_commit), text_at(idea.commit)


def _edited(text: str, idea: Experiment, old: str, new: str) -> str:
    """The text with the edit that leads from `old` to `new`."""
    edit = Proposal(title=idea.title, hypothesis="", train_py=new, researcher="farm")
    result = rebased(edit, old, text)
    if result is None:
        raise DoesNotFit(idea.id)
    return result.train_py
