"""`farm`: the command line. A group's commands are the functions of one module: `status`, in the group `look`, is the function
`status` in cluster/commands/look.py.

Only the module of the command that was given is imported, so that help and short commands start at once.
"""

import argparse
import contextlib
import importlib
import keyword
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from agent.researchers.make import RESEARCHERS
from cluster.background import exit_without_waiting, is_left_behind
from cluster.first_steps import first_steps
from cluster.hardware import ANY_DEVICE, DeviceRequest
from cluster.parser_parts import CommandGroup, OneLineParser, idea_words, some_text, tag_name, with_short_words
from cluster.proxies import LOOPBACK, reach_directly
from research.command_hints import to_type
from research.errors import UserError
from research.formatting import is_text, shortened
from research.number_options import budget_seconds, count_to, gigabytes, number_from
from research.profiles import PROFILES
from research.recipes import RECIPES
from research.result import SANDBOX_MODES
from research.streams import drop_output, installation_refusal, output_refusal, prepare_streams, refusal
from results.confirmation import FEWEST_SEEDS
from results.verdict import LINE_PRICE

DEFAULT_SEEDS = 5
"""Fresh seeds of `farm confirm`."""

MOST_SEEDS = 1_000
"""Limit of --seeds: the interval of so many is as narrow as anybody needs."""

DEEPEST = 64
"""Limit of --depth: the width grows with it, and no device here trains more."""

MOST_TOKENS = 10_000
"""Limit of --tokens: each takes a forward pass, and text is printed only when complete, so more would look like a hang."""

DEFAULT_BRANCH = "the best of the tag that is checked out here, else of the newest"
"""What commands take without a branch or tag, in words."""

GIVEN_SIGMAS = (1e-6, 1)
"""Limits of --sigma in bits per byte."""

LONGEST_ECHO = 400
"""Characters of a word of the command line that a command's error repeats; a path can be longer than what the parser's do."""

LONGEST_ERROR = 2_000
"""Characters of a command's error."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns the exit status: 0 done, 1 done with a bad outcome, 2 a mistake that one line explains."""
    prepare_streams()
    reach_directly(*LOOPBACK)
    status = _status_of(sys.argv[1:] if arguments is None else list(arguments))
    exit_without_waiting(status)
    return status


def _status_of(given: Sequence[str]) -> int:
    """Runs a command, and explains in one line whatever ends it early."""
    try:
        status = run_command(given)
        sys.stdout.flush()
        return status
    except UserError as error:
        print(f"farm: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        again = " while it prepared: the same command prepares again what is not complete" if is_left_behind() else ""
        print(f"farm: stopped{again}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `farm sql ... | head`
        drop_output()
        return 1
    except OSError as error:
        refused = output_refusal() or refusal(error, checkout=_checkout_here())
        if refused is None:
            raise
        with contextlib.suppress(OSError):
            print(f"farm: {refused}", file=sys.stderr)
        drop_output()  # what could not be written there can't be at the exit either
        return 2
    except Exception as error:
        if (told := installation_refusal(error)) is None:
            raise
        print(f"farm: {told}", file=sys.stderr)
        return 2


def _checkout_here() -> Path | None:
    """The checkout around the current folder, if there is one."""
    from cluster.home import find_checkout

    try:
        return find_checkout()
    except OSError:  # the folder is gone
        return None


def run_command(given: Sequence[str]) -> int:
    """Runs the command that a command line names; without one, says what to do first. Raises UserError."""
    if not given:
        print(first_steps(), end="")
        return 0
    if given[0] == "help":
        given = [*given[1:2], "--help"]
    for word in given:
        if not is_text(word):
            raise UserError(f"{word!r} holds bytes that are no text in this terminal's encoding: use other characters.")
    if given[0] == "--version":
        from importlib.metadata import version

        print(f"autoresearch-farm {version('autoresearch-farm')}")
        return 0
    parser = make_parser()
    command = next((word for word in given if word in commands_of(parser)), None)
    if command is not None and given[0].startswith("-") and given[0] not in ("-h", "--help"):
        parser.error(f"options follow the command, as in {to_type(f'farm {command} --home FOLDER')}")
    try:
        options, unknown = parser.parse_known_args(given)
    except UserError as error:  # a type of an option refuses its value
        raise UserError(with_short_words(str(error), given)) from None
    if options.command is None:
        parser.error(f"no command is given beside {' '.join(given)}")
    if unknown:
        usage = to_type(f"farm {options.command} --help")
        raise UserError(f"{options.command} doesn't take {with_short_words(' '.join(unknown), given)} (see {usage})")
    try:
        return handler(options)(options)
    except UserError as error:
        told = with_short_words(str(error), (word for word in given if len(word) > LONGEST_ECHO))
        raise UserError(shortened(told, LONGEST_ERROR)) from error


def commands_of(parser: argparse.ArgumentParser) -> Collection[str]:
    """The names of the commands."""
    return next(action.choices for action in parser._actions if isinstance(action.choices, dict))


def handler(options: argparse.Namespace) -> Callable[[argparse.Namespace], int]:
    """The function of the command that was given. It takes the options and returns the exit status."""
    name = f"{options.command}_" if keyword.iskeyword(options.command) else options.command
    function: Callable[[argparse.Namespace], int] = getattr(importlib.import_module(options.module), name)
    return function


def make_parser() -> argparse.ArgumentParser:
    """The parser with all commands and their options."""
    parser = OneLineParser(
        prog="farm",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="farm COMMAND [options]      (options: farm COMMAND --help)",
        description="A farm of autonomous pretraining researchers.",
    )
    parsers = parser.add_subparsers(prog="farm", dest="command", metavar="COMMAND", help=argparse.SUPPRESS)
    listings = []
    for name, title, add_commands in (
        ("start", "start", _add_start),
        ("research", "research", _add_research),
        ("decide", "your own judgement", _add_decide),
        ("cluster", "on a cluster", _add_cluster),
        ("look", "look", _add_look),
        ("use", "use what was found", _add_use),
    ):
        group = CommandGroup(module=f"cluster.commands.{name}", title=title, parsers=parsers)
        add_commands(group)
        listings.append(group.listing())
    parser.epilog = "\n\n".join(listings)
    return parser


def _add_start(group: CommandGroup) -> None:
    demo = group.add("demo", "the whole workflow in five minutes: data, baseline, a few experiments, results")
    demo.add_argument("--experiments", type=count_to(1_000), default=5, metavar="N", help="experiments (default: 5)")
    demo.add_argument("--budget", type=budget_seconds, metavar="S", help="seconds of training per run (default: 10)")
    _add_devices(demo)
    _add_places(demo)

    doctor = group.add("doctor", "what works on this machine, and how to fix what doesn't")
    doctor.add_argument("--repair", action="store_true",
                        help="repair a damaged journal: say what is done with each damaged line, and keep a copy")  # fmt: skip
    _add_devices(doctor)
    _add_places(doctor)

    prepare = group.add("prepare", "download text, train the tokenizer, pack rows, time attention kernels; once per machine")
    _add_data(prepare)
    prepare.add_argument("--text-field", type=some_text, metavar="NAME",
                         help="JSON field or Parquet column with the text of files:PATH (default: text)")  # fmt: skip
    prepare.add_argument("--force", action="store_true", help="prepare the data again, even if nothing has changed")
    prepare.add_argument("--allow-visible", action="store_true",
                         help="continue even if runs can read the text that they are scored on")  # fmt: skip
    _add_devices(prepare)
    _add_places(prepare)

    profile = group.add("profile", "which profile (constants and starting hyperparameters) this machine gets, and why")
    profile.add_argument("name", nargs="?", choices=list(PROFILES), help="the same as --profile")
    profile.add_argument("--profile", choices=list(PROFILES), help="show this profile instead")
    profile.add_argument("--write", action="store_true", help="write its hyperparameters into research/train.py")
    _add_recipe(profile)
    _add_gpu_memory(profile)
    _add_devices(profile)


def _add_research(group: CommandGroup) -> None:
    run = group.add("run", "research until you stop it; the same command resumes")
    _add_tag(run)
    _add_researcher(run)
    _add_limits(run)
    _add_judging(run)
    _add_data(run)
    _add_recipe(run)
    run.add_argument("--engine", choices=("auto", "local", "ray"), default="auto",
                     help="what executes runs (default: auto: local for one device without a cluster, else ray)")  # fmt: skip
    run.add_argument(
        "--address",
        type=some_text,
        metavar="A",
        help="address of a running Ray cluster (default: this machine's, if it has one)",
    )
    _add_devices(run)
    _add_places(run)

    try_ = group.add("try", "run one experiment by hand: commit the working train.py, run it, keep it or restore the last keep")
    try_.add_argument("-m", "--message", type=idea_words, metavar="IDEA", help="the idea, in one line")
    try_.add_argument("--again", action="store_true", help="run it even if it has been tried: one more seed, as a replicate")
    try_.add_argument("--tag", type=tag_name,
                      help="the branch is autoresearch/<tag> (default: the one checked out, else like mar08-hand)")  # fmt: skip
    _add_judging(try_)
    _add_data(try_)
    _add_recipe(try_)
    _add_devices(try_)
    _add_places(try_)

    abandon = group.add("abandon", "give up an experiment that was interrupted, instead of finishing it")
    abandon.add_argument(
        "id", nargs="?", type=some_text, help="the experiment's id (default: the only one that was interrupted)"
    )
    _add_places(abandon, cache=False)

    _add_places(group.add("stop", "stop the running farm cleanly"), cache=False)


def _add_decide(group: CommandGroup) -> None:
    confirm = group.add("confirm", "run the head and its baseline under fresh seeds, which have decided nothing")
    confirm.add_argument("name", nargs="?", type=some_text, metavar="BRANCH|ID",
                         help="a branch or tag, or an experiment to run instead of a head "
                         f"(default: {DEFAULT_BRANCH})")  # fmt: skip
    confirm.add_argument("--seeds", type=number_from(FEWEST_SEEDS, MOST_SEEDS, int), default=DEFAULT_SEEDS, metavar="N",
                         help=f"fresh seeds, under each of which both run (default: {DEFAULT_SEEDS})")  # fmt: skip
    confirm.add_argument("--num-shards", type=count_to(10_000), metavar="N",
                         help="training shards of the recorded runs (default: 10)")  # fmt: skip
    _add_devices(confirm)
    _add_places(confirm)

    drop = group.add("drop", "take an idea out of the head, whatever its estimate says; it stays out")
    _add_experiment(drop)
    drop.add_argument("--undo", action="store_true", help="take it back: the estimates decide on the idea again")
    _add_places(drop, cache=False)

    combine = group.add("combine", "combine near-misses on the head: a wave of runs, each with half of them")
    _add_branch(combine, "tag")
    _add_places(combine, cache=False)

    baseline = group.add("baseline", "run the baseline again, as a control")
    baseline.add_argument("--again", action="store_true", help="required, since the first time farm run measures it")
    _add_branch(baseline, "tag")
    _add_places(baseline, cache=False)


def _add_cluster(group: CommandGroup) -> None:
    submit = group.add("submit", "run the farm as a Ray job, with the options of farm run; its home outlives the job")
    _add_dashboard(submit)
    submit.add_argument("--follow", action="store_true", help="print the job's output until it ends")
    _add_tag(submit)
    _add_researcher(submit)
    _add_limits(submit)
    _add_judging(submit)
    _add_data(submit)
    _add_recipe(submit)
    _add_devices(submit, help="the cluster's devices: cuda or cpu (default: its GPUs, if it has any)")
    places = submit.add_argument_group("places on the cluster")
    _add_job_home(places)
    places.add_argument(
        "--cache", type=some_text, metavar="FOLDER", help="prepared data, on each node (default: ~/.cache/autoresearch-farm)"
    )

    fetch = group.add("fetch", "copy the branches and history of a farm that runs elsewhere into this checkout")
    _add_dashboard(fetch)
    _add_job_home(fetch)


def _add_look(group: CommandGroup) -> None:
    status = group.add("status", "what the farm is doing, and where each branch stands")
    _add_places(status, cache=False)
    _add_json(status)

    report = group.add("report", "the night in ten lines: gains, confidence, failures, cost")
    report.add_argument("tag", nargs="?", type=some_text, help="only this tag's branches (default: all)")
    _add_places(report, cache=False)

    show = group.add("show", "one experiment in full: idea, diff, runs, verdict")
    _add_experiment(show)
    _add_places(show, cache=False)

    sql = group.add("sql", "run one SELECT over the history, even while the farm runs")
    sql.add_argument(
        "query", type=some_text, help="for instance 'SELECT * FROM history'; - reads the query from standard input"
    )
    sql.add_argument("--audit", action="store_true", help="include the table audit, which no researcher may see")
    _add_places(sql, cache=False)
    _add_json(sql)

    audit = group.add("audit", "check whether gains on validation also show on the audit rows, which no researcher may see")
    audit.add_argument("branch", nargs="?", type=some_text, help="a branch or tag (default: all)")
    _add_places(audit, cache=False)

    verify = group.add("verify", "repeat a recorded run and compare the scores; records nothing")
    verify.epilog = (
        "The exit status is 0 if the score is reproduced, 1 if not, and 3 if the repetition can't tell: it was lost, or "
        "the machine was slower or faster."
    )
    _add_experiment(verify)
    verify.add_argument(
        "--num-shards", type=count_to(10_000), metavar="N", help="training shards of the recorded run (default: 10)"
    )
    _add_devices(verify)
    _add_places(verify)

    autopsy = group.add(
        "autopsy", "what any results.tsv really found: the shrunk gain, false keeps, the re-runs that would settle it"
    )
    _add_foreign(autopsy)
    _add_json(autopsy)

    import_ = group.add(
        "import", "record another system's results.tsv, for researchers to read; no score of ours depends on it"
    )
    _add_foreign(import_)
    import_.add_argument("--name", type=some_text, metavar="N", help="what the file is called here (default: its own name)")
    _add_places(import_, cache=False)


def _add_foreign(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=some_text, help="a results.tsv of this or another system")
    parser.add_argument("--sigma", type=number_from(*GIVEN_SIGMAS, float), metavar="BPB",
                        help="noise of a score between seeds (default: estimated from the file)")  # fmt: skip


def _add_use(group: CommandGroup) -> None:
    diff = group.add("diff", "how the best train.py differs from its baseline")
    _add_branch(diff)
    _add_places(diff, cache=False)

    apply = group.add("apply", "copy the best train.py into this checkout")
    _add_branch(apply)
    apply.add_argument("--force", action="store_true", help="overwrite uncommitted edits")
    _add_places(apply, cache=False)

    sample = group.add("sample", "generate text with a saved model (see farm run --samples)")
    sample.add_argument("id", nargs="?", type=some_text, help="experiment (default: the newest keep with a saved model)")
    sample.add_argument("--prompt", default="", metavar="TEXT", help="text to continue")
    sample.add_argument("--tokens", type=count_to(MOST_TOKENS), default=128, metavar="N", help="tokens at most (default: 128)")
    _add_devices(sample)
    _add_places(sample)
    _add_transfer(group)


def _add_transfer(group: CommandGroup) -> None:
    transfer = group.add(
        "transfer", "whether a gain carries over to another depth or budget, and whether it is speed or learning"
    )
    _add_branch(transfer)
    transfer.add_argument("--depth", type=count_to(DEEPEST), metavar="D", help="DEPTH of both train.py (default: their own)")
    transfer.add_argument("--budget", type=budget_seconds, metavar="S", help="seconds per run (default: the branch's)")
    transfer.add_argument(
        "--seeds", type=count_to(MOST_SEEDS), default=2, metavar="N", help="runs of each train.py (default: 2)"
    )
    transfer.add_argument("--no-split", action="store_true", help="leave out the runs that tell speed from learning")
    transfer.add_argument("--num-shards", type=count_to(10_000), metavar="N", help="training shards (default: the branch's)")
    _add_devices(transfer)
    _add_places(transfer)
    _add_json(transfer)


def _add_tag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tag", type=tag_name, help="branches are autoresearch/<tag>... (default: today's date, such as mar08)"
    )


def _add_researcher(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--researcher", type=some_text, default="search", metavar="R",
                        help=f"who proposes edits: {RESEARCHERS} (default: search, which needs no key)")  # fmt: skip
    parser.add_argument("--model", type=some_text, metavar="M", help="model that --researcher claude uses")
    parser.add_argument("--agent-writes", type=some_text, action="append", metavar="PATH",
                        help="a file or folder that command: may write beside its working folder and what coding agents keep "
                        "in your home (repeatable)")  # fmt: skip


def _add_limits(parser: argparse.ArgumentParser) -> None:
    limits = parser.add_argument_group("limits (default: none; the farm runs until it is stopped)")
    limits.add_argument(
        "--experiments",
        type=count_to(1_000_000),
        metavar="N",
        help="total number of experiments per branch: ideas, "
        "those by hand included; baselines, merges, controls and confirmations don't count",
    )
    limits.add_argument(
        "--hours", type=number_from(0.001, 366 * 24, float), metavar="H", help="start no new experiment after this many hours"
    )
    limits.add_argument("--max-cost", type=number_from(0.01, 1_000_000, float), metavar="USD",
                        help="US dollars for the tag's researchers: all of its loops, and earlier sessions too")  # fmt: skip
    parser.add_argument("--share", choices=("all", "none"), default="all",
                        help="whether loops of one platform go on from one head (default: all)")  # fmt: skip
    parser.add_argument("--loops", type=count_to(1_000), metavar="N", help="number of loops (default: one per device)")
    parser.add_argument("--dirty", action="store_true", help="start new branches from uncommitted edits of research/train.py")
    parser.add_argument("--samples", action="store_true", help="save the model of each keep, for farm sample")
    parser.add_argument("--no-start-ahead", action="store_true",
                        help="don't start the next run's processes speculatively while a GPU scores a run")  # fmt: skip


def _add_judging(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rule", choices=("estimate", "greedy"), default="estimate",
                        help="what is kept: estimate, what probably helps by all runs (default); greedy, any gain")  # fmt: skip
    parser.add_argument("--line-price", type=number_from(0, 1, float), default=LINE_PRICE, metavar="BPB",
                        help=f"gain that each added line must bring (default: {LINE_PRICE:f})".rstrip("0"))  # fmt: skip
    parser.add_argument("--memory-cap", type=gigabytes, metavar="GB",
                        help="peak memory that a keep may need (default: what the device has)")  # fmt: skip
    parser.add_argument("--sandbox", choices=SANDBOX_MODES, default="auto",
                        help="auto: the layers that this host has (default); strict: refuse to run unless it has all; "
                        "off: none, for your own edits only")  # fmt: skip
    _add_gpu_memory(parser)


def _add_gpu_memory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--gpu-memory", type=gigabytes, metavar="GB",
                        help="GPU memory that a run may use (default: all that is free)")  # fmt: skip


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--recipe", choices=RECIPES,
                        help="hyperparameters of a new branch: the best known, or those of karpathy/autoresearch "
                        "(default: train.py's own)")  # fmt: skip


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--profile", choices=list(PROFILES),
                        help="constants and starting hyperparameters (default: see farm profile)")  # fmt: skip
    parser.add_argument("--budget", type=budget_seconds, metavar="S",
                        help="seconds of training per run (default: the profile's)")  # fmt: skip
    parser.add_argument("--source", type=some_text, metavar="S",
                        help="climbmix, tinystories, packages, stdlib or files:PATH (default: the profile's)")  # fmt: skip
    parser.add_argument("--num-shards", type=count_to(10_000), metavar="N", help="training shards (default: 10)")


def _add_devices(
    parser: argparse.ArgumentParser, help: str = "GPU numbers (0,2), cuda, mps or cpu (default: all GPUs, else mps, else cpu)"
) -> None:
    parser.add_argument("--devices", type=DeviceRequest.parse, default=ANY_DEVICE, metavar="D", help=help)


def _add_places(parser: argparse.ArgumentParser, *, cache: bool = True) -> None:
    places = parser.add_argument_group("places")
    places.add_argument(
        "--home", type=some_text, metavar="FOLDER", help="the farm's state (default: $FARM_HOME, else results/data)"
    )
    if cache:
        places.add_argument("--cache", type=some_text, metavar="FOLDER",
                            help="prepared data (default: $FARM_CACHE, else ~/.cache/autoresearch-farm)")  # fmt: skip


def _add_dashboard(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--address", type=some_text, metavar="URL", help="the Ray dashboard (default: http://127.0.0.1:8265)")


def _add_job_home(parser: "argparse._ActionsContainer") -> None:
    parser.add_argument(
        "--home", type=some_text, metavar="FOLDER", help="the farm's state, where the job runs (default: ~/autoresearch-farm)"
    )


def _add_experiment(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "id",
        type=some_text,
        help="an experiment's id or commit (a prefix is enough), or its number on the branch checked out here, else the newest",
    )


def _add_branch(parser: argparse.ArgumentParser, name: str = "branch") -> None:
    parser.add_argument(name, nargs="?", type=some_text, help=f"a branch or tag (default: {DEFAULT_BRANCH})")


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


if __name__ == "__main__":
    sys.exit(main())
