"""The parser of the command line `farm`: its commands, in groups, and their options."""

import argparse
from functools import cache
from typing import Literal, get_args

from cluster.command_options import (
    ASKED_BRANCH,
    DEFAULT_BRANCH,
    add_branch,
    add_dashboard,
    add_data,
    add_devices,
    add_experiment,
    add_gpu_memory,
    add_job_home,
    add_json,
    add_judging,
    add_limits,
    add_places,
    add_recipe,
    add_researcher,
    add_tag,
)
from cluster.parser_parts import CommandGroup, OneLineParser, idea_words, some_text, tag_name
from cluster.trackers import TRACKERS
from research.number_options import budget_seconds, count_to, number_from
from research.profiles import PROFILES
from results.confirmation import FEWEST_SEEDS

DEFAULT_SEEDS = 5
"""Fresh seeds of `farm confirm`."""

MOST_SEEDS = 1_000
"""Limit of --seeds: the interval of so many is as narrow as anybody needs."""

DEEPEST = 64
"""Limit of --depth: the width grows with it, and no device here trains more."""

MOST_TOKENS = 10_000
"""Limit of --tokens: each takes a forward pass, and text is printed only when complete, so more would look like a hang."""

SqlFormat = Literal["table", "csv", "json", "markdown", "parquet"]

SQL_FORMATS: tuple[SqlFormat, ...] = get_args(SqlFormat)
"""The formats in which `farm sql` prints a result."""

GIVEN_SIGMAS = (1e-6, 1)
"""Limits of --sigma in bits per byte."""


@cache
def make_parser() -> OneLineParser:
    """The parser with all commands and their options; it is made once."""
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
        ("steer", "steer it while it runs", _add_steer),
        ("decide", "your own judgement", _add_decide),
        ("cluster", "on a cluster", _add_cluster),
        ("move", "from one machine to the next", _add_move),
        ("look", "look", _add_look),
        ("use", "use what was found", _add_use),
        ("share", "take it elsewhere", _add_share),
        ("serve", "for agents outside the farm", _add_serve),
        ("tidy", "housekeeping", _add_tidy),
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
    add_devices(demo)
    add_places(demo)

    doctor = group.add("doctor", "what works on this machine, and how to fix what doesn't")
    doctor.add_argument("--repair", action="store_true",
                        help="repair a damaged journal: say what is done with each damaged line, and keep a copy")  # fmt: skip
    add_devices(doctor)
    add_places(doctor)

    prepare = group.add("prepare", "download text, train the tokenizer, pack rows, time attention kernels; once per machine")
    add_data(prepare)
    prepare.add_argument("--text-field", type=some_text, metavar="NAME",
                         help="JSON field or Parquet column with the text of files:PATH (default: text)")  # fmt: skip
    prepare.add_argument("--force", action="store_true", help="prepare the data again, even if nothing has changed")
    prepare.add_argument("--allow-visible", action="store_true",
                         help="continue even if runs can read the text that they are scored on")  # fmt: skip
    add_devices(prepare)
    add_places(prepare)

    profile = group.add("profile", "which profile (constants and starting hyperparameters) this machine gets, and why")
    profile.add_argument("name", nargs="?", choices=list(PROFILES), help="the same as --profile")
    profile.add_argument("--profile", choices=list(PROFILES), help="show this profile instead")
    profile.add_argument("--write", action="store_true", help="write its hyperparameters into research/train.py")
    add_recipe(profile)
    add_gpu_memory(profile)
    add_devices(profile)


def _add_research(group: CommandGroup) -> None:
    run = group.add("run", "research until you stop it; the same command resumes")
    add_tag(run)
    add_researcher(run)
    add_limits(run)
    add_judging(run)
    add_data(run)
    add_recipe(run)
    _add_track(run, "send runs to this tracker as they end")
    run.add_argument("--dashboard", action="store_true", help="serve farm dashboard beside it, on a port of 127.0.0.1")
    run.add_argument("--engine", choices=("auto", "local", "ray"), default="auto",
                     help="what executes runs (default: auto: local for one device without a cluster, else ray)")  # fmt: skip
    run.add_argument(
        "--address",
        type=some_text,
        metavar="A",
        help="address of a running Ray cluster (default: this machine's, if it has one)",
    )
    add_devices(run)
    add_places(run)

    try_ = group.add("try", "run one experiment by hand: commit the working train.py, run it, keep it or restore the last keep")
    try_.add_argument("-m", "--message", type=idea_words, metavar="IDEA", help="the idea, in one line")
    try_.add_argument("--again", action="store_true", help="run it even if it has been tried: one more seed, as a replicate")
    try_.add_argument("--tag", type=tag_name,
                      help="the branch is autoresearch/<tag> (default: the one checked out, else like mar08-hand)")  # fmt: skip
    add_judging(try_)
    add_data(try_)
    add_recipe(try_)
    add_devices(try_)
    add_places(try_)

    abandon = group.add("abandon", "give up an experiment that was interrupted, instead of finishing it")
    abandon.add_argument(
        "id", nargs="?", type=some_text, help="the experiment's id (default: the only one that was interrupted)"
    )
    add_places(abandon, cache=False)

    stop = group.add("stop", "stop the running farm cleanly, or one loop of it")
    stop.add_argument("branch", nargs="?", type=some_text, help="the loop's branch; the others go on (default: all loops)")
    add_places(stop, cache=False)


def _add_steer(group: CommandGroup) -> None:
    suggest = group.add("suggest", "suggest an idea in words: a loop's researcher gets it with its next proposal")
    suggest.add_argument("text", nargs="?", type=some_text, metavar="WORDS", help="the idea, such as 'try QK-norm'")
    suggest.add_argument("--tag", type=tag_name, help=f"the branch or tag that it is for (default: {ASKED_BRANCH})")
    suggest.add_argument("--list", action="store_true", help="list all suggestions, with what became of them")
    suggest.add_argument("--withdraw", type=count_to(1_000_000), metavar="N", help="withdraw suggestion N")
    add_places(suggest, cache=False)

    pause = group.add("pause", "pause a loop: it finishes its experiment and starts no other, also after a restart")
    pause.add_argument("branch", type=some_text, help="the loop's branch, or a tag for all of its loops")
    add_places(pause, cache=False)

    resume = group.add("resume", "let a paused loop go on")
    resume.add_argument("branch", type=some_text, help="the loop's branch, or a tag for all of its loops")
    add_places(resume, cache=False)


def _add_decide(group: CommandGroup) -> None:
    confirm = group.add("confirm", "run the head and its baseline under fresh seeds, which have decided nothing")
    confirm.add_argument("name", nargs="?", type=some_text, metavar="BRANCH|ID",
                         help="a branch or tag, or an experiment to run instead of a head "
                         f"(default: {DEFAULT_BRANCH})")  # fmt: skip
    confirm.add_argument("--seeds", type=number_from(FEWEST_SEEDS, MOST_SEEDS, int), default=DEFAULT_SEEDS, metavar="N",
                         help=f"fresh seeds, under each of which both run (default: {DEFAULT_SEEDS})")  # fmt: skip
    confirm.add_argument("--num-shards", type=count_to(10_000), metavar="N",
                         help="training shards of the recorded runs (default: 10)")  # fmt: skip
    add_devices(confirm)
    add_places(confirm)

    drop = group.add("drop", "take an idea out of the head, whatever its estimate says; it stays out")
    add_experiment(drop)
    drop.add_argument(
        "--undo",
        action="store_true",
        help="take it back: the estimates decide again, or the commit of a person, who put the idea into the head",
    )
    add_places(drop, cache=False)

    combine = group.add("combine", "combine near-misses on the head: a wave of runs, each with half of them")
    add_branch(combine, "tag", default=ASKED_BRANCH)
    add_places(combine, cache=False)

    baseline = group.add("baseline", "run the baseline again, as a control")
    baseline.add_argument("--again", action="store_true", help="required, since the first time farm run measures it")
    add_branch(baseline, "tag", default=ASKED_BRANCH)
    add_places(baseline, cache=False)


def _add_cluster(group: CommandGroup) -> None:
    submit = group.add("submit", "run the farm as a Ray job, with the options of farm run; its home outlives the job")
    add_dashboard(submit)
    submit.add_argument("--follow", action="store_true", help="print the job's output until it ends")
    add_tag(submit)
    add_researcher(submit)
    add_limits(submit)
    add_judging(submit)
    add_data(submit)
    add_recipe(submit)
    add_devices(submit, help="the cluster's devices: cuda or cpu (default: its GPUs, if it has any)")
    places = submit.add_argument_group("places on the cluster")
    add_job_home(places)
    places.add_argument(
        "--cache", type=some_text, metavar="FOLDER", help="prepared data, on each node (default: ~/.cache/autoresearch-farm)"
    )

    fetch = group.add("fetch", "copy the branches and history of a farm that runs elsewhere into this checkout")
    add_dashboard(fetch)
    add_job_home(fetch)


def _add_move(group: CommandGroup) -> None:
    pack = group.add("pack", "write a farm's home and branches to one file, also while it runs; without models")
    pack.add_argument("file", type=some_text, metavar="FILE", help="such as night.tar.xz, or night.tar for no compression")
    pack.add_argument("--without-runs", action="store_true", help="leave out logs and what runs left beside their records")
    pack.add_argument("--since", type=some_text, metavar="COMMIT", help="leave out commits that this one has, such as main~1: "
                      "for clones of the project that have them")  # fmt: skip
    add_places(pack, cache=False)

    unpack = group.add("unpack", "put what pack wrote into this checkout, so that the same farm run resumes here")
    unpack.add_argument("file", type=some_text, metavar="FILE", help="a file that farm pack wrote")
    add_places(unpack, cache=False)


def _add_look(group: CommandGroup) -> None:
    status = group.add("status", "what the farm is doing, and where each branch stands")
    status.add_argument("tag", nargs="?", type=some_text, help="only this tag's branches (default: all)")
    add_places(status, cache=False)
    add_json(status)

    dashboard = group.add(
        "dashboard", "pages in a browser on this machine: gains, experiments, diffs, SQL, while it runs and after"
    )
    dashboard.add_argument("--port", type=number_from(0, 65_535, int), metavar="PORT",
                           help="port of 127.0.0.1; 0: any (default: 8765, or any if that is taken)")  # fmt: skip
    dashboard.add_argument("--control", action="store_true",
                           help="let pages pause, resume and stop loops, and suggest ideas (default: only read)")  # fmt: skip
    add_places(dashboard, cache=False)

    _add_report(group)

    show = group.add("show", "one experiment in full: idea, diff, runs, verdict")
    add_experiment(show)
    add_places(show, cache=False)

    _add_sql(group)

    audit = group.add("audit", "check whether gains on validation also show on the audit rows, which no researcher may see")
    audit.add_argument("branch", nargs="?", type=some_text, help="a branch or tag (default: all)")
    add_places(audit, cache=False)

    verify = group.add("verify", "repeat a recorded run and compare the scores; records nothing")
    verify.epilog = (
        "The exit status is 0 if the score is reproduced, 1 if not, and 3 if the repetition can't tell: it was lost, or "
        "the machine was slower or faster."
    )
    add_experiment(verify)
    verify.add_argument(
        "--num-shards", type=count_to(10_000), metavar="N", help="training shards of the recorded run (default: 10)"
    )
    add_devices(verify)
    add_places(verify)

    autopsy = group.add(
        "autopsy", "what any results.tsv really found: the shrunk gain, false keeps, the re-runs that would settle it"
    )
    _add_foreign(autopsy)
    add_json(autopsy)

    import_ = group.add(
        "import", "record another system's results.tsv, for researchers to read; no score of ours depends on it"
    )
    _add_foreign(import_)
    import_.add_argument("--name", type=some_text, metavar="N", help="what the file is called here (default: its own name)")
    add_places(import_, cache=False)


def _add_report(group: CommandGroup) -> None:
    report = group.add("report", "the night in ten lines: gains, confidence, failures, cost")
    report.add_argument("tag", nargs="?", type=some_text, help="only this tag's branches (default: all)")
    report.add_argument("--html", type=some_text, metavar="FILE",
                        help="write it as one HTML file to send, with the diffs of what is kept")  # fmt: skip
    report.add_argument("--card", type=some_text, metavar="FILE.png",
                        help="write one picture to share: the curve and the gain with its interval")  # fmt: skip
    add_places(report, cache=False)


def _add_sql(group: CommandGroup) -> None:
    sql = group.add("sql", "run one SELECT over the history, even while the farm runs; a prompt without one")
    sql.add_argument(
        "query",
        nargs="?",
        type=some_text,
        help="for instance 'SELECT * FROM history'; - reads the query from standard input (default: a prompt)",
    )
    sql.add_argument("--audit", action="store_true", help="include the table audit, which no researcher may see")
    sql.add_argument("--format", choices=SQL_FORMATS,
                     help="how to print the result (default: table); csv, markdown and files have all rows")  # fmt: skip
    sql.add_argument("--output", type=some_text, metavar="FILE",
                     help="write the result to a file, by whose suffix the format is chosen")  # fmt: skip
    add_places(sql, cache=False)
    add_json(sql, help="the same as --format json, in which NaN and infinities are text, and NULL is null")


def _add_foreign(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=some_text, help="a results.tsv of this or another system")
    parser.add_argument("--sigma", type=number_from(*GIVEN_SIGMAS, float), metavar="BPB",
                        help="noise of a score between seeds (default: estimated from the file)")  # fmt: skip


def _add_use(group: CommandGroup) -> None:
    diff = group.add("diff", "how the best train.py differs from its baseline")
    add_branch(diff)
    add_places(diff, cache=False)

    apply = group.add("apply", "copy the best train.py into this checkout")
    add_branch(apply)
    apply.add_argument("--force", action="store_true", help="overwrite uncommitted edits")
    add_places(apply, cache=False)

    sample = group.add("sample", "generate text with a saved model (see farm run --samples)")
    sample.add_argument("id", nargs="?", type=some_text, help="experiment (default: the newest keep with a saved model)")
    sample.add_argument("--prompt", default="", metavar="TEXT", help="text to continue")
    sample.add_argument("--tokens", type=count_to(MOST_TOKENS), default=128, metavar="N", help="tokens at most (default: 128)")
    add_devices(sample)
    add_places(sample)
    _add_transfer(group)


def _add_share(group: CommandGroup) -> None:
    export = group.add("export", "the history for other programs: Parquet, results.tsv, a Hugging Face dataset, trackers")
    export.add_argument("folder", nargs="?", type=some_text, help="a new or empty folder, or that of an earlier export")
    export.add_argument("--push", type=some_text, metavar="OWNER/NAME",
                        help="upload the folder as this dataset of the Hugging Face hub; a new one is private")  # fmt: skip
    _add_track(export, "send all runs that have ended to this tracker")
    add_places(export, cache=False)


def _add_track(parser: argparse.ArgumentParser, help: str) -> None:
    parser.add_argument("--track", choices=TRACKERS, action="append", help=f"{help} (repeatable)")


def _add_serve(group: CommandGroup) -> None:
    mcp = group.add("mcp", "an MCP server: tools by which an agent reads the history, submits edits and asks for verdicts")
    add_branch(mcp)
    mcp.add_argument("--http", type=number_from(0, 65_535, int), metavar="PORT",
                     help="streamable HTTP on this port of 127.0.0.1, with the token in mcp.json of the home; 0: any "
                     "(default: standard input and output)")  # fmt: skip
    add_places(mcp, cache=False)


def _add_tidy(group: CommandGroup) -> None:
    list_ = group.add(
        "list", "homes, tags, branches and prepared data of all your farms on this machine, with their disk space"
    )
    add_places(list_)
    add_json(list_)

    clean = group.add(
        "clean", "remove worktrees and run folders that nothing needs, or whole tags; says what, and asks, before"
    )
    clean.add_argument("tags", nargs="*", type=tag_name, metavar="TAG",
                       help="remove all of these tags; their records and commits stay in its folder removed")  # fmt: skip
    clean.add_argument("--worktrees", action="store_true", help="only the loops' worktrees; resuming makes them again")
    clean.add_argument("--runs", action="store_true",
                       help="only run folders (logs, row scores, models) of what is neither kept nor a baseline")  # fmt: skip
    clean.add_argument("--data", action="store_true", help="all prepared data in --cache; farm prepare makes it again")
    clean.add_argument("--yes", action="store_true", help="don't ask")
    add_places(clean)


def _add_transfer(group: CommandGroup) -> None:
    transfer = group.add(
        "transfer", "whether a gain carries over to another depth or budget, and whether it is speed or learning"
    )
    add_branch(transfer)
    transfer.add_argument("--depth", type=count_to(DEEPEST), metavar="D", help="DEPTH of both train.py (default: their own)")
    transfer.add_argument("--budget", type=budget_seconds, metavar="S", help="seconds per run (default: the branch's)")
    transfer.add_argument(
        "--seeds", type=count_to(MOST_SEEDS), default=2, metavar="N", help="runs of each train.py (default: 2)"
    )
    transfer.add_argument("--no-split", action="store_true", help="leave out the runs that tell speed from learning")
    transfer.add_argument("--num-shards", type=count_to(10_000), metavar="N", help="training shards (default: the branch's)")
    add_devices(transfer)
    add_places(transfer)
    add_json(transfer)
