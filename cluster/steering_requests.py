"""What a person tells loops while they run, recorded in the store: suggestions in words, pauses, and who can read them."""

import shlex
from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING

from agent.researchers.mix import FIXED, of_loop, reads_text
from cluster.home import Home, home_option
from cluster.resuming import STARTED_WITH
from research.command_hints import to_type
from research.errors import UserError
from research.formatting import one_line
from results.steering import add_suggestion, close_suggestion, is_paused, set_paused, suggestions_of

if TYPE_CHECKING:
    from results.experiment import Branch
    from results.store import Store

LONGEST_SUGGESTION = 2_000
"""Characters of a suggestion; a longer one is refused, since each researcher that has it pays for it."""

READERS = "--researcher hybrid, claude, a coding agent or command:"
"""The researchers that read suggestions, in words."""


def suggest(store: "Store", group: str, text: str) -> str:
    """Records a person's idea in words. Returns one line that says so. Raises UserError for an empty or too long text."""
    words = one_line(text, LONGEST_SUGGESTION + 1).strip()
    if not words:
        raise UserError('A suggestion has words: farm suggest "try X".')
    if len(words) > LONGEST_SUGGESTION:
        raise UserError(
            f"A suggestion has at most {LONGEST_SUGGESTION:,} characters: shorten it, or write it into program.md, which is "
            "read again for every proposal."
        )
    return f"Suggestion {add_suggestion(store, group, words).number} for {group} is recorded"


def withdraw(store: "Store", group: str, number: int) -> str:
    """Records that a suggestion is not to be tried any more. Raises UserError if it isn't open."""
    known = {suggestion.number: suggestion for suggestion in suggestions_of(store, group)}
    if number not in known:
        there = f"it has {', '.join(map(str, known))}" if known else "it has none"
        raise UserError(f"{group} has no suggestion {number}: {there}.")
    if not known[number].is_open:
        raise UserError(f"Suggestion {number} of {group} is not open: it is {known[number].outcome}.")
    close_suggestion(store, group, number)
    return f"Suggestion {number} of {group} is withdrawn"


def pause(store: "Store", branch: str) -> str:
    """Records that a branch's loop is paused. Raises UserError if it is already."""
    if is_paused(store, branch):
        resume_it = to_type(f"farm resume{home_option(Home(store.home))} {branch}")
        raise UserError(f"{branch} is paused already: `{resume_it}` resumes it.")
    set_paused(store, branch, True)
    return f"{branch} is paused: what a loop runs there is finished, and no loop starts another experiment"


def resume(store: "Store", branch: str) -> str:
    """Records that a branch's loop is no longer paused. Raises UserError if it isn't."""
    if not is_paused(store, branch):
        says = to_type(f"farm status{home_option(Home(store.home))}")
        raise UserError(f"{branch} is not paused: `{says}` says what it does.")
    set_paused(store, branch, False)
    return f"{branch} is resumed"


def unread_note(researcher: str, members: "Iterable[Branch]", mix: str = FIXED) -> str:
    """Why no loop of these branches reads a suggestion, in one line; empty if one does.

    `researcher` and `mix` are the values of `--researcher` and `--mix` of the farm that runs, or last ran, their loops.
    """
    asked = [of_loop(researcher, branch.loop, mix) for branch in members]
    if any(map(reads_text, asked)):
        return ""
    names = dict.fromkeys(name.partition(":")[0] for name in asked)
    return f"no loop reads it: {' and '.join(names)} can't read words; a farm with {READERS} does"


def last_researcher(home: Home, tag: str) -> str:
    """The value of `--researcher` with which a tag was last worked on."""
    return _last_option(home, tag, "--researcher", "search")


def last_mix(home: Home, tag: str) -> str:
    """The value of `--mix` with which a tag was last worked on."""
    return _last_option(home, tag, "--mix", FIXED)


def _last_option(home: Home, tag: str, option: str, default: str) -> str:
    words = shlex.split(str(home.last_event(STARTED_WITH, tag=tag).get("options", "")))
    return next((after for word, after in pairwise(words) if word == option), default)
