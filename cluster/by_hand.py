"""`farm try`: one experiment with the user's own train.py, through the same loop as all others."""

import asyncio
import os
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from agent.adoption import is_by_hand, was_ever_committed
from agent.compare_programs import describe_changes, program_of, same_code, same_lines
from agent.duplicate_edits import NO_CHANGE, programs_on_same_terms, result_in_words
from agent.loop import BaselineFailed, InfrastructureFailed, ResearchLoop, records_of_others
from agent.repo.branch_names import experiment_ref, is_farm_branch, short_name
from agent.repo.git_command import command_to_type
from agent.repo.repository import TRAIN_FILE, train_py_at, train_py_to_try, uncommitted_train_py, working_train_py
from agent.repo.worktree import Worktree, checked_out_branch
from agent.shared_research import entering, leaving
from cluster.background import in_background
from cluster.branch_start import committed_train_py, fitted_edit
from cluster.dispatch import NoWorkersLeft
from cluster.display import Display
from cluster.driver import Farm
from cluster.farm_options import FarmOptions
from cluster.home import home_option
from cluster.machine_load import busy_lines
from cluster.stop_request import STOPPING
from research.command_hints import to_type
from research.errors import UserError
from research.formatting import shortened
from research.valid_train_py import problem_with
from results.experiment import ExperimentRecord, Proposal
from results.tsv import write_results_tsv

TITLE_WIDTH = 60
"""Characters of the user's words that are told."""

TRY = "try"
"""The kind of the events that record the beginning of another run of an experiment, and the end of a try."""


def on_the_checkouts_branch(options: FarmOptions) -> FarmOptions:
    """The options, with the tag of the `autoresearch/` branch that is checked out, if one is."""
    branch = checked_out_branch(options.repo) or ""
    return replace(options, tag=short_name(branch)) if is_farm_branch(branch) else options


def check_parses(options: FarmOptions) -> None:
    """Raises UserError for a working train.py that is missing, or no run could read: it would cost a number and a run."""
    folder = options.source_tree or options.repo
    problem = problem_with(train_py_to_try(folder))
    if problem is not None:
        is_edit = options.source_tree is not None or uncommitted_train_py(options.repo) is not None
        cure = "mend it" if is_edit else "mend it and commit it"
        raise UserError(f"{folder / TRAIN_FILE}: {problem}. Nothing is run: {cure}, then try again.")


async def try_once(options: FarmOptions, message: str | None, display: Display, *, again: bool = False) -> ExperimentRecord:
    """The record of an experiment with the working train.py, run now; `again`: even if it has been tried. Raises UserError."""
    farm = await in_background(Farm, options, display)
    try:
        return await try_working_train_py(farm, message, again=again)
    except (BaselineFailed, InfrastructureFailed, NoWorkersLeft) as failure:
        raise UserError(str(failure)) from failure
    except asyncio.CancelledError:
        display.say(STOPPING)
        raise
    finally:
        await farm.close()


async def try_working_train_py(farm: Farm, message: str | None, *, again: bool = False) -> ExperimentRecord:
    """Commits the working train.py, runs it, and keeps it or restores the head's. Measures the baseline first if necessary, and
    adopts the commits that the user has made on the branch.

    An interrupted try of the same train.py is resumed instead of being repeated. What has been tried, or changes no code, is
    refused, unless the user wants another run of it (`again`). Without an edit, what the user has asked for by other commands
    is run. Raises UserError.
    """
    options, plan, tree = farm.options, farm.planner.plans[0], farm.options.source_tree
    tried = train_py_to_try(tree or options.repo)  # fails before anything is started
    loop = farm.open_loop(plan, in_place=tree is None)
    try:
        await farm.first_devices()
        measured_before = farm.store.head(loop.branch.name) is not None
        if tree is None:
            working = tried = train_py_to_try(options.repo)  # opening the branch may have fitted it to the profile
        else:
            recipe = None if measured_before else options.recipe
            working = fitted_edit(plan, committed_train_py(options.repo), tried, recipe=recipe)
        resume_or_refuse(farm, loop, working)
        if not measured_before:
            await tell_if_busy(farm)
        finished = await loop.start()
        record = try_of(working, finished, loop.worktree) or cut_off_try(loop, working)
        head_text = loop.worktree.train_py(loop.head().commit)
        if record is None and same_code(working, head_text) and (finished or not measured_before):
            record = farm.store.record(loop.head().experiment_id)
        if record is None and not again and same_code(working, head_text) and is_anything_requested(loop):
            requested = await run_what_is_requested(loop)
            if requested is not None:
                tell_that_words_have_no_edit(farm, requested, message)
                leave_results(farm, loop, requested, tried if same_lines(tried, head_text) else None)
                return requested
        if record is not None:
            tell_what_is_left_aside(farm, loop, record, working, message)
            tell_that_again_comes_later(farm, record, again=again)
        else:
            earlier = earlier_try(loop, working, head_text, again=again)
            proposal = proposal_by_hand(head_text, working, message)
            if measured_before:  # else it has been told
                await tell_if_busy(farm)
            if earlier is not None and loop.is_of_group(earlier.experiment):
                tell_what_is_left_aside(farm, loop, earlier, working, message)
                note_try(loop, earlier, has_ended=False)
            record = await (loop.try_now(proposal) if earlier is None else loop.try_again(earlier, proposal))
        is_recorded = same_lines(working, loop.worktree.train_py(record.experiment.commit))
        leave_results(farm, loop, record, tried if is_recorded else None)
        note_try(loop, record, has_ended=True)
        tell_what_leaves(farm, loop)
        return record
    finally:
        await loop.close()


def is_anything_requested(loop: ResearchLoop) -> bool:
    """Whether a person has asked for a run, or a merge is due: without what a person has dropped or what no longer pays, or
    with what was kept since.
    """
    return bool(leaving(loop.shared) or entering(loop.shared) or loop.store.open_requests(loop.shared.group))


async def run_what_is_requested(loop: ResearchLoop) -> ExperimentRecord | None:
    """The last of the runs that are due: a merge, a wave, the baseline again."""
    last = None
    while (record := await loop.run_requested()) is not None:
        last = record
    if (leaving(loop.shared) or entering(loop.shared)) and (record := await loop.finish()) is not None:
        last = record
    return last


def tell_what_leaves(farm: Farm, loop: ResearchLoop) -> None:
    """Says that the head holds ideas that no longer pay, and how they leave it."""
    cure = f"`{to_type('farm try')}{home_option(farm.home)}` without an edit takes it out by a merge run"
    for idea in sorted(leaving(loop.shared)):
        title = farm.store.record(idea).experiment.title
        farm.display.say(f"{idea} ({title}) no longer pays, and is still in the head: {cure}")


def resume_or_refuse(farm: Farm, loop: ResearchLoop, working: str) -> None:
    """Says what was interrupted and will be finished first. Raises UserError for an edit that the user has since changed."""
    for record in farm.store.unfinished(loop.branch.name):
        experiment = record.experiment
        text = loop.worktree.train_py(experiment.commit)
        if record.is_idea and not same_code(working, text) and not is_by_hand(loop.worktree, experiment):
            abandon = to_type(f"farm abandon {experiment.id}{home_option(farm.home)}")
            raise UserError(
                f"{experiment.id} ({experiment.title}) was interrupted, and {TRAIN_FILE} is another one now: "
                f"`{abandon}` drops it; `{restoring(experiment.id, farm.options)}` brings it back, "
                "to be finished by farm try."
            )
        farm.display.say(f"resuming {experiment.id} ({experiment.title}), which was interrupted")


async def tell_if_busy(farm: Farm) -> None:
    """Shows what else uses the machine, right before a run: a refusal has no such line before it."""
    for line in await asyncio.to_thread(busy_lines, farm.options.devices[:1]):
        farm.display.say(line)


def tell_that_words_have_no_edit(farm: Farm, requested: ExperimentRecord, message: str | None) -> None:
    """Says that a run which was due, with a title of its own, doesn't use the user's words."""
    if message is not None:
        what = f"{TRAIN_FILE} has no edit, so that {requested.experiment.id} ({requested.experiment.title}) ran, which was due"
        farm.display.say(f"{what}: -m {shlex.quote(shortened(message, TITLE_WIDTH))} left aside")


def tell_that_again_comes_later(farm: Farm, record: ExperimentRecord, *, again: bool) -> None:
    """Says that a call which has finished what was waiting, a commit or what was cut off, has run nothing once more."""
    if again:
        farm.display.say(
            f"{record.experiment.id} ({record.experiment.title}) had waited and is finished now: --again is left aside, and "
            "runs it once more if you type the same again"
        )


def tell_what_is_left_aside(
    farm: Farm, loop: ResearchLoop, record: ExperimentRecord, working: str, message: str | None
) -> None:
    """Says which words of the user's, and which of the edits, a run of an experiment that is on record already doesn't use."""
    experiment = record.experiment
    left = [] if message in (None, experiment.title) else ["-m"]
    left += [] if same_lines(working, loop.worktree.train_py(experiment.commit)) else ["edits of comments, formatting or names"]
    if left:
        what = f"{TRAIN_FILE} is the program of {experiment.id} ({experiment.title}), and this is a run of that"
        farm.display.say(f"{what}: {' and '.join(left)} left aside")


def earlier_try(loop: ResearchLoop, working: str, head_text: str, *, again: bool) -> ExperimentRecord | None:
    """The experiment that has tried the same program; None if none has. Raises UserError for one that isn't wanted `again`."""
    program = program_of(working)
    is_head = program == program_of(head_text)
    known = programs_on_same_terms(loop.store, loop.branch)
    earlier = loop.store.record(loop.head().experiment_id) if is_head else known.get(program)
    if earlier is None or again:
        return earlier
    if same_lines(working, head_text):
        raise UserError(f"{TRAIN_FILE} has no edit to try, it is the same as the head's: edit it first, or run it --again.")
    if same_code(working, head_text):
        raise UserError(f"{TRAIN_FILE} has no edit to try, {NO_CHANGE}: edit its code, or run it --again.")
    raise UserError(f"{result_in_words(earlier)}. Edit {TRAIN_FILE} further, or run it --again, as a replicate.")


def leave_results(farm: Farm, loop: ResearchLoop, record: ExperimentRecord, tried: str | None) -> None:
    """Leaves the head's train.py, results.tsv and run.log where the user works. What can't be written there is said and stays:
    the experiment is on record. `tried` None: the text that was tried is on no record, and stays.
    """
    folder = farm.options.source_tree or farm.options.repo
    try:
        give_back(farm.options, loop, record, tried)
        copy_log(farm.home.runs / record.runs[-1].run_id / "run.log", folder / "run.log")
    except OSError as error:
        farm.display.say(f"{error.filename or folder} can't be written ({error.strerror}): it stays as it is")


def give_back(options: FarmOptions, loop: ResearchLoop, record: ExperimentRecord, tried: str | None) -> None:
    """Restores the head's train.py after a discard, or a keep that waits for a merge: the next edit is made on the head. It
    stays if the user has edited it since, or what was tried is on no record (`tried` None). A commit of the user's stays.
    """
    head, tree = loop.head(), options.source_tree
    if tree is None:
        stays = tried is None or tried == loop.worktree.train_py(head.commit) or is_by_hand(loop.worktree, record.experiment)
        if not stays and loop.worktree.restore(head.commit, tried=tried) and is_kept(record):
            loop.observer.on_event("edit_waits", branch=loop.branch.name, experiment=record.experiment.id)
        return
    text = loop.worktree.train_py(head.commit)
    if tried is not None and working_train_py(tree) == tried != text:
        (tree / TRAIN_FILE).write_text(text, encoding="utf-8")
    name, table = loop.branch.name, tree / "results.tsv"
    try:
        aside = write_results_tsv(table, loop.store.records(name), others=records_of_others(loop.store, name))
    except OSError as error:
        return loop.observer.on_event("view_failed", branch=name, file=str(table), reason=str(error.strerror))
    if aside is not None:
        loop.observer.on_event("moved_aside", branch=name, file=str(aside))


def try_of(working: str, finished: Sequence[ExperimentRecord], worktree: Worktree) -> ExperimentRecord | None:
    """The experiment that tried this text; None if none did."""
    same = (r for r in finished if r.is_idea and same_code(working, worktree.train_py(r.experiment.commit)))
    return next(same, None)


def note_try(loop: ResearchLoop, record: ExperimentRecord, *, has_ended: bool) -> None:
    """Records that a try has left its results where the user works, or that another run of an experiment begins."""
    details = {"branch": loop.branch.name, "experiment": record.experiment.id, "runs": len(record.runs), "ended": has_ended}
    loop.store.add_event(TRY, details)


def cut_off_try(loop: ResearchLoop, working: str) -> ExperimentRecord | None:
    """The experiment of a try of this text that was decided and then cut off, before its results were left; None if none was.

    The same command then leaves them, and does not run the same again.
    """
    branch, store, state = loop.branch.name, loop.store, loop.shared.state()
    notes = store.events(TRY, branch)
    by_hand = [record for record in store.records(branch) if record.experiment.kind == "manual"]
    tries = [record for record in by_hand if not was_ever_committed(state, record.experiment)]
    record = tries[-1] if tries and tries[-1].experiment.id not in [note["experiment"] for note in notes] else None
    if notes and not notes[-1]["ended"]:
        again = store.record(notes[-1]["experiment"])
        record = again if len(again.runs) > notes[-1]["runs"] else record
    if record is None or record.verdict is None or record.verdict.decision == "lost":
        return None
    return record if same_lines(working, loop.worktree.train_py(record.experiment.commit)) else None


def proposal_by_hand(head_text: str, working: str, message: str | None) -> Proposal:
    """The user's edit as a proposal."""
    title = message or title_of(head_text, working)
    return Proposal(title=title, hypothesis=message or "", train_py=working, researcher="you")


def is_kept(record: ExperimentRecord) -> bool:
    """Whether the experiment was kept: the branch has moved to its commit, unless a merge must bring it in."""
    return record.verdict is not None and record.verdict.decision == "keep"


def where_the_edit_is(record: ExperimentRecord, options: FarmOptions) -> str:
    """A line with the command that restores an edit that was not kept; empty if it was kept, is the baseline, or is still
    there, as the head's or because the folder can't be written.
    """
    tree = options.source_tree
    if is_kept(record) or not record.is_idea or (tree is not None and not os.access(tree / TRAIN_FILE, os.W_OK)):
        return ""
    if working_train_py(tree or options.repo) == train_py_at(options.repo, record.experiment.commit):
        return ""
    unedited = options.source_tree is None and uncommitted_train_py(options.repo) is None
    restored = f"{TRAIN_FILE} is the head's again; " if unedited else ""
    return f"{restored}to restore your edit: {restoring(record.experiment.id, options)}"


def restoring(experiment_id: str, options: FarmOptions) -> str:
    """The command that brings an experiment's train.py back into the folder that `farm try` takes it from."""
    ref = experiment_ref(experiment_id)
    if options.source_tree is None:
        return command_to_type(options.repo, "restore", f"--source={ref}", TRAIN_FILE)
    show = command_to_type(options.repo, "show", f"{ref}:{TRAIN_FILE}")
    return f"{show} > {shlex.quote(str(options.source_tree / TRAIN_FILE))}"


def title_of(head_text: str, working: str) -> str:
    """What the edit changes, in one line."""
    return "edit that doesn't parse" if problem_with(working) else describe_changes(head_text, working)


def copy_log(source: Path, target: Path) -> None:
    """Copies a run's log, if there is one, to where people look for it."""
    if source.is_file():
        shutil.copyfile(source, target)
