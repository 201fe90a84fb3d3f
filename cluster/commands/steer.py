"""`farm suggest`, `farm pause` and `farm resume`: what a person tells a farm while it runs. `farm stop BRANCH` ends here."""

import argparse
from typing import TYPE_CHECKING, Literal

from cluster.commands.read_home import branch_asked, read_history
from cluster.home import Home, find_home, home_option
from cluster.local_api import ask_farm
from cluster.person_requests import Answer, Ask, record
from cluster.steering_requests import last_mix, last_researcher, unread_note
from research.command_hints import to_type
from research.errors import UserError
from results.history import branches_named
from results.journal_damage import check_whole

if TYPE_CHECKING:
    from results.experiment import Branch


def suggest(options: argparse.Namespace) -> int:
    """Records an idea in words for one group, lists those that there are, or withdraws one."""
    if (options.text is not None) + options.list + (options.withdraw is not None) != 1:
        raise UserError('farm suggest takes one of: the words of an idea ("try X"), --list, or --withdraw N.')
    home = find_home(options.home)
    histories = read_history(home)
    chosen = branch_asked(home, histories, options.tag)
    branch, group = chosen.branch, chosen.group
    if options.list:
        for suggestion in group.steering.suggestions:
            print(f"{suggestion.number}  {suggestion.outcome}: {suggestion.text}")
        if not group.steering.suggestions:
            print(f"{group.name} has no suggestions.")
        return 0
    if options.withdraw is not None:
        answer, _ = ask(home, Ask(what="withdraw", group=group.name, number=options.withdraw))
        print(f"{answer.recorded}.")
        return 0
    answer, is_running = ask(home, Ask(what="suggest", group=group.name, text=options.text))
    researcher, mix = last_researcher(home, branch.tag), last_mix(home, branch.tag)
    note = answer.note if is_running else unread_note(researcher, group.branches, mix)
    if not note and not answer.is_taken_up:
        note = "a loop reads it once a farm runs on this branch"
    print(f"{answer.recorded}; {note or 'a loop gets it with the next proposal that it asks for'}.")
    return 0


def pause(options: argparse.Namespace) -> int:
    """Pauses loops: each finishes what it is running and starts no other experiment, also after a restart."""
    return _for_each_loop(options, "pause")


def resume(options: argparse.Namespace) -> int:
    """Lets paused loops go on."""
    return _for_each_loop(options, "resume")


def stop_loops(home: Home, name: str) -> int:
    """Ends loops of the running farm, while its others go on. Raises UserError if no farm runs."""
    if ask_farm(home) is None:
        raise UserError(f"No farm is running on {home.folder}.")
    _tell(home, _branches(home, name), "stop loop")
    return 0


def _for_each_loop(options: argparse.Namespace, what: Literal["pause", "resume"]) -> int:
    home = find_home(options.home)
    _tell(home, _branches(home, options.branch), what)
    if what == "pause":
        print(f"`{to_type(f'farm resume{home_option(home)} {options.branch}')}` resumes it.")
    return 0


def _tell(home: Home, branches: "list[Branch]", what: Literal["pause", "resume", "stop loop"]) -> None:
    """Asks the same of several loops, and prints what follows. Raises the first loop's UserError once all were asked."""
    refused = []
    for branch in branches:
        try:
            answer, is_running = ask(home, Ask(what=what, group=branch.head_branch, branch=branch.name))
        except UserError as error:
            refused.append(error)
            continue
        print(f"{answer.recorded}{'' if is_running else ' (no farm is running now)'}.")
    if refused:
        raise refused[0]


def _branches(home: Home, name: str) -> "list[Branch]":
    """The branch with this name, else all of this tag or head. Raises UserError, which lists what there is."""
    chosen = [history.branch for history in branches_named(read_history(home), name)]
    exact = [branch for branch in chosen if name in (branch.name, branch.name.partition("/")[2])]
    return exact or chosen


def ask(home: Home, asked: Ask) -> tuple[Answer, bool]:
    """Records what is asked, through the farm that holds the home if one does. Returns also whether one does.

    Raises UserError.
    """
    from results.store import Store

    client = ask_farm(home)
    if client is not None:
        return client.ask(asked), True
    with home.lock(), Store.open(home.folder, wait_s=5.0) as store:
        check_whole(home.journal, store.journal.damaged, home_option=home_option(home))
        return record(store, asked), False
