"""What people tell the loops of a group while they run: suggestions, pauses, a new program.md; and what researchers are told of
a plateau.
"""

import hashlib

from agent.researcher import Guidance
from agent.researchers.mix import reads_text
from results.steering import (
    PLATEAU,
    Suggestion,
    close_suggestion,
    ideas_since_keep,
    is_paused,
    note_policy,
    suggestions_of,
)
from results.store import Store

DIGEST_CHARACTERS = 12
"""How many characters of a SHA-256 name a version of program.md."""


class LoopPaused(Exception):
    """A person has paused the loop while it had no experiment; what it was going to try is tried when it is resumed."""


class GroupSuggestions:
    """The suggestions to a group, each of which one loop at a time has."""

    def __init__(self, store: Store, group: str) -> None:
        self._store, self._group = store, group
        self._taken: dict[str, int] = {}
        """The suggestion that each branch's loop has, by its number."""

    def for_loop(self, branch: str) -> Suggestion | None:
        """What the loop is to propose an experiment for: what it has already, else the oldest that no other loop has."""
        open_ones = {one.number: one for one in suggestions_of(self._store, self._group) if one.is_open}
        others = {number for name, number in self._taken.items() if name != branch}
        mine = self._taken.get(branch)
        number = mine if mine in open_ones else next((one for one in open_ones if one not in others), None)
        if number is None:
            self._taken.pop(branch, None)
            return None
        self._taken[branch] = number
        return open_ones[number]

    def release(self, branch: str) -> None:
        """Leaves what the loop has to the others."""
        self._taken.pop(branch, None)

    def followed(self, number: int | None, experiment: str) -> None:
        """Records that an experiment follows a suggestion; None: it follows none."""
        if number is not None:
            close_suggestion(self._store, self._group, number, experiment=experiment)


class LoopSteering:
    """How people steer one loop."""

    def __init__(self, *, branch: str, group: str, researcher: str, store: Store, suggestions: GroupSuggestions,
                 plateau_ideas: int) -> None:  # fmt: skip
        """`suggestions` are those to the group; `plateau_ideas` is how many ideas without a keep are a plateau."""
        self._branch, self._group, self._store, self._suggestions = branch, group, store, suggestions
        self._reads_text, self._plateau_ideas = reads_text(researcher), plateau_ideas

    def is_paused(self) -> bool:
        """Whether the loop is to start no experiment."""
        return is_paused(self._store, self._branch)

    def release(self) -> None:
        """Leaves a suggestion that the loop has to the others."""
        self._suggestions.release(self._branch)

    def noted(self, program: str) -> str:
        """The text of program.md, whose version is recorded if it is a new one. An empty text is none."""
        if program:
            digest = hashlib.sha256(program.encode("utf-8", "surrogatepass")).hexdigest()[:DIGEST_CHARACTERS]
            note_policy(self._store, self._group, digest)
        return program

    def guidance(self) -> Guidance:
        """What the loop's researcher is told beside the history. A plateau is recorded when it begins."""
        suggestion = self._suggestions.for_loop(self._branch) if self._reads_text else None
        ideas, last_keep = self._ideas_since_keep()
        if ideas < self._plateau_ideas:
            return Guidance(suggestion=suggestion)
        body = {"branch": self._group, "ideas": ideas, "after": last_keep}
        self._store.add_event(PLATEAU, body, id=f"{PLATEAU} {self._group} {last_keep}")
        return Guidance(suggestion=suggestion, ideas_without_keep=ideas)

    def _ideas_since_keep(self) -> tuple[int, str]:
        experiments = self._store.experiments
        newest_first = experiments.ideas_newest_first(self._store.groups.member_names(self._group))
        return ideas_since_keep((line.id, experiments.decision(line.id) or "") for line in newest_first)
