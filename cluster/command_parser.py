"""The parser of the command line `farm`: its commands, in groups, and their options."""

import argparse

from agent.researchers.make import RESEARCHERS
from agent.researchers.mix import EXAMPLE
from cluster.hardware import ANY_DEVICE, DeviceRequest
from cluster.parser_parts import CommandGroup, OneLineParser, idea_words, some_text, tag_name
from research.number_options import budget_seconds, count_to, gigabytes, number_from
from research.profiles import PROFILES
from research.recipes import RECIPES
from research.result import SANDBOX_MODES
from results.confirmation import FEWEST_SEEDS
from results.steering import PLATEAU_IDEAS
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
        ("steer", "steer it while it runs", _add_steer),
        ("decide", "your own judgement", _add_decide),
        ("cluster", "on a cluster", _add_cluster),
        ("move", "from one machine to the next", _add_move),
        ("look", "look", _add_look),
        ("use", "use what was found", _add_use),
        ("serve", "for agents outside the farm", _add_serve),
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
    run.add_argument("--dashboard", action="store_true", help="serve farm dashboard beside it, on a port of 127.0.0.1")
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

    stop = group.add("stop", "stop the running farm cleanly, or one loop of it")
    stop.add_argument("branch", nargs="?", type=some_text, help="the loop's branch; the others go on (default: all loops)")
    _add_places(stop, cache=False)


def _add_steer(group: CommandGroup) -> None:
    suggest = group.add("suggest", "suggest an idea in words: a loop's researcher gets it with its next proposal")
    suggest.add_argument("text", nargs="?", type=some_text, metavar="WORDS", help="the idea, such as 'try QK-norm'")
    suggest.add_argument("--tag", type=tag_name, help=f"the branch or tag that it is for (default: {DEFAULT_BRANCH})")
    suggest.add_argument("--list", action="store_true", help="list all suggestions, with what became of them")
    suggest.add_argument("--withdraw", type=count_to(1_000_000), metavar="N", help="withdraw suggestion N")
    _add_places(suggest, cache=False)

    pause = group.add("pause", "pause a loop: it finishes its experiment and starts no other, also after a restart")
    pause.add_argument("branch", type=some_text, help="the loop's branch, or a tag for all of its loops")
    _add_places(pause, cache=False)

    resume = group.add("resume", "let a paused loop go on")
    resume.add_argument("branch", type=some_text, help="the loop's branch, or a tag for all of its loops")
    _add_places(resume, cache=False)


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


def _add_move(group: CommandGroup) -> None:
    pack = group.add("pack", "write a farm's home and branches to one file, also while it runs; without models")
    pack.add_argument("file", type=some_text, metavar="FILE", help="such as night.tar.xz, or night.tar for no compression")
    _add_places(pack, cache=False)

    unpack = group.add("unpack", "put what pack wrote into this checkout, so that the same farm run goes on here")
    unpack.add_argument("file", type=some_text, metavar="FILE", help="a file that farm pack wrote")
    _add_places(unpack, cache=False)


def _add_look(group: CommandGroup) -> None:
    status = group.add("status", "what the farm is doing, and where each branch stands")
    _add_places(status, cache=False)
    _add_json(status)

    dashboard = group.add(
        "dashboard", "pages in a browser on this machine: gains, experiments, diffs, SQL, while it runs and after"
    )
    dashboard.add_argument("--port", type=number_from(0, 65_535, int), metavar="PORT",
                           help="port of 127.0.0.1; 0: any (default: 8765, or any if that is taken)")  # fmt: skip
    dashboard.add_argument("--control", action="store_true",
                           help="let pages pause, resume and stop loops, and suggest ideas (default: only read)")  # fmt: skip
    _add_places(dashboard, cache=False)

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
    _add_json(sql, help="print JSON, in which NaN and infinities are the text NaN, Infinity and -Infinity, and NULL is null")

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


def _add_serve(group: CommandGroup) -> None:
    mcp = group.add("mcp", "an MCP server: tools by which an agent reads the history, submits edits and asks for verdicts")
    _add_branch(mcp)
    mcp.add_argument("--http", type=number_from(0, 65_535, int), metavar="PORT",
                     help="streamable HTTP on this port of 127.0.0.1, with the token in mcp.json of the home; 0: any "
                     "(default: standard input and output)")  # fmt: skip
    _add_places(mcp, cache=False)


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
    parser.add_argument("--researcher", type=some_text, metavar="R",
                        help=f"who proposes edits: {RESEARCHERS}; or a mix for several loops, such as {EXAMPLE} "
                        "(default: hybrid for farm run where claude's key or an agent that tells its cost is there, else "
                        "search, which needs none)")  # fmt: skip
    parser.add_argument("--fallback", choices=("search", "none"), default="search",
                        help="who has ideas while claude or a coding agent fails or is slow, and goes on where its key, its "
                        "program or its budget ends (default: search)")  # fmt: skip
    parser.add_argument("--model", type=some_text, metavar="M", help="model that claude or a coding agent uses")
    parser.add_argument("--effort", type=some_text, metavar="E", help="how much the model thinks, such as high")
    parser.add_argument("--plateau", type=count_to(1_000_000), metavar="N",
                        help="ideas without a keep after which claude, coding agents and command: are told to change the "
                        f"structure (default: {PLATEAU_IDEAS})")  # fmt: skip
    for when in ("before", "after"):
        parser.add_argument(f"--{when}-experiment", type=some_text, metavar="COMMAND",
                            help=f"a command of yours that runs {when} each experiment, with JSON on its input")  # fmt: skip
    parser.add_argument("--agent-writes", type=some_text, action="append", metavar="PATH",
                        help="a file or folder that a coding agent or command: may write beside its working folder and its "
                        "state in your home (repeatable)")  # fmt: skip


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
    limits.add_argument("--max-loop-cost", type=number_from(0.01, 1_000_000, float), metavar="USD",
                        help="US dollars for the researcher of each loop, earlier sessions too")  # fmt: skip
    parser.add_argument("--share", choices=("all", "none"), default="all",
                        help="whether loops of one platform go on from one head (default: all)")  # fmt: skip
    parser.add_argument(
        "--loops", type=count_to(1_000), metavar="N", help="number of loops, at most 16 per device (default: one)"
    )
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


def _add_json(parser: argparse.ArgumentParser, help: str = "print JSON") -> None:
    parser.add_argument("--json", action="store_true", help=help)
