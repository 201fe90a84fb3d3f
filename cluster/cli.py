"""`farm`: the command line. Each command's work is in cluster/commands/, imported only when it is asked for."""

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn, TypeVar

from agent.researchers.make import RESEARCHERS
from cluster.tags import todays_tag
from research.errors import UserError
from research.profiles import PROFILES, RECIPES
from research.result import SANDBOX_MODES

FIRST_STEPS = """\
The autoresearch farm: a loop per GPU that edits research/train.py, trains it for a fixed time, and keeps what scores better.

What to do first:
  farm demo      all of it in five minutes, on whatever is there
  farm doctor    what works on this machine, and the cure for what doesn't
  farm run       research until you stop it (Ctrl-C)

All commands: farm --help
"""

GROUPS: dict[str, tuple[str, ...]] = {
    "start": ("demo", "doctor", "prepare", "profile"),
    "research": ("run", "try", "stop"),
    "on a cluster": ("submit", "fetch"),
    "look": ("status", "report", "show", "sql", "audit", "verify"),
    "use what was found": ("diff", "apply", "sample"),
}
"""The commands in the order of the help text."""

HANDLERS: dict[str, str] = {
    "demo": "demo:demo",
    "doctor": "machine:doctor",
    "prepare": "machine:prepare",
    "profile": "machine:profile",
    "run": "running:run",
    "try": "running:try_idea",
    "stop": "running:stop",
    "submit": "submitting:submit",
    "fetch": "fetching:fetch",
    "status": "looking:status",
    "report": "looking:report",
    "show": "looking:show",
    "sql": "looking:sql",
    "audit": "auditing:audit",
    "verify": "verifying:verify",
    "diff": "winning:diff",
    "apply": "winning:apply",
    "sample": "winning:sample",
}
"""Where a command's function is: `module:function` in cluster.commands. It gets the options and returns the exit status."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command. Exit status: 0 done, 1 done with a bad outcome, 2 the user can mend it (one line says how)."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if not given:
        print(FIRST_STEPS, end="")
        return 0
    options = make_parser().parse_args(given)
    try:
        status = handler(options.command)(options)
        sys.stdout.flush()
        return status
    except UserError as error:
        print(f"farm: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("farm: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `farm sql ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the exit would try once more
        return 1


def handler(command: str) -> Callable[[argparse.Namespace], int]:
    """The function of a command."""
    module, _, name = HANDLERS[command].partition(":")
    function: Callable[[argparse.Namespace], int] = getattr(importlib.import_module(f"cluster.commands.{module}"), name)
    return function


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong in one line, as commands do; all options are in the help."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} ({self.prog} --help tells more)\n")


def make_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = OneLineParser(
        prog="farm",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="farm COMMAND [options]      (farm COMMAND --help tells more)",
        description="A farm of autonomous pretraining researchers.",
    )
    commands = parser.add_subparsers(prog="farm", dest="command", required=True, metavar="COMMAND", help=argparse.SUPPRESS)
    helps: dict[str, str] = {}

    def command(name: str, help: str) -> argparse.ArgumentParser:
        helps[name] = help
        return commands.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")

    _add_start(command)
    _add_research(command)
    _add_cluster(command)
    _add_look(command)
    _add_use(command)
    parser.epilog = "\n\n".join(
        "\n".join([f"{group}:", *(f"  {name:<10}{helps[name]}" for name in names)]) for group, names in GROUPS.items()
    )
    return parser


_Number = TypeVar("_Number", int, float)

AddCommand = Callable[[str, str], argparse.ArgumentParser]


def _add_start(command: AddCommand) -> None:
    demo = command("demo", "everything in five minutes: data, baseline, a few experiments, what came of it")
    demo.add_argument("--experiments", type=_positive(int), default=5, metavar="N", help="how many (default: 5)")
    demo.add_argument("--budget", type=_positive(float), metavar="S", help="seconds of training in a run")
    _add_devices(demo)
    _add_places(demo)

    doctor = command("doctor", "what works on this machine, and the cure for what doesn't")
    _add_devices(doctor)
    _add_places(doctor)

    prepare = command("prepare", "fetch text, train the tokenizer, pack rows, find the fastest attention; once per machine")
    _add_data(prepare)
    prepare.add_argument("--allow-visible", action="store_true", help="even where runs can read the text they are scored on")
    _add_devices(prepare)
    _add_places(prepare)

    profile = command("profile", "which profile this machine gets, and why")
    profile.add_argument("name", nargs="?", choices=list(PROFILES), help="another than that")
    profile.add_argument("--write", action="store_true", help="put its starting hyperparameters into research/train.py")
    _add_recipe(profile)
    _add_gpu_memory(profile)
    _add_devices(profile)


def _add_research(command: AddCommand) -> None:
    run = command("run", "research until you stop it; the same command goes on where it was")
    _add_tag(run)
    _add_researcher(run)
    run.add_argument("--engine", choices=("auto", "local", "ray"), default="auto",
                     help="where runs are executed (auto: local for one device and no cluster, else Ray)")  # fmt: skip
    run.add_argument("--address", metavar="A", help="of a running Ray cluster (default: the one that this machine is part of)")
    _add_extent(run)
    _add_judging(run)
    _add_data(run)
    _add_recipe(run)
    _add_devices(run)
    _add_places(run)

    attempt = command("try", "one experiment by hand: commit the working train.py, run it, keep or undo")
    attempt.add_argument("-m", "--message", metavar="IDEA", help="the idea in a line")
    attempt.add_argument(
        "--tag", help=f"names the branch autoresearch/<tag> (default: the one checked out, else today, {todays_tag()})"
    )
    _add_judging(attempt)
    _add_data(attempt)
    _add_recipe(attempt)
    _add_devices(attempt)
    _add_places(attempt)

    _add_places(command("stop", "end the running farm cleanly"), cache=False)


def _add_cluster(command: AddCommand) -> None:
    submit = command("submit", "farm run as a job of a Ray cluster, with run's options; its home outlives the job")
    _add_dashboard(submit)
    submit.add_argument("--follow", action="store_true", help="print what the job prints, until it has ended")
    _add_tag(submit)
    _add_researcher(submit)
    _add_extent(submit)
    _add_judging(submit)
    _add_data(submit)
    _add_recipe(submit)
    submit.add_argument("--devices", metavar="D", help="of the cluster: cuda or cpu (default: GPUs where it has any)")
    places = submit.add_argument_group("places on the cluster")
    _add_job_home(places)
    places.add_argument("--cache", metavar="FOLDER", help="prepared data, on each node")

    fetch = command("fetch", "branches and history of a farm elsewhere, into this checkout")
    _add_dashboard(fetch)
    _add_job_home(fetch)


def _add_dashboard(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--address", metavar="URL", help="of the cluster's dashboard (default: http://127.0.0.1:8265)")


def _add_job_home(parser: "argparse._ActionsContainer") -> None:
    parser.add_argument("--home", metavar="FOLDER", help="the farm's state, where the job runs (default: ~/autoresearch-farm)")


def _add_researcher(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--researcher",
        default="search",
        metavar="R",
        help=f"{RESEARCHERS} (default: search, which needs no key)",
    )
    parser.add_argument("--model", metavar="M", help="the model that claude is")


def _add_extent(parser: argparse.ArgumentParser) -> None:
    limits = parser.add_argument_group("limits (without any it never stops)")
    limits.add_argument("--experiments", type=_positive(int), metavar="N", help="per loop, on its branch")
    limits.add_argument("--hours", type=_positive(float), metavar="H", help="no experiment starts later")
    limits.add_argument("--max-cost", type=_positive(float), metavar="USD", help="for the researcher, per loop")
    parser.add_argument("--loops", type=_positive(int), metavar="N", help="in all (default: one per device)")
    parser.add_argument("--dirty", action="store_true", help="start from uncommitted edits of research/train.py too")
    parser.add_argument("--samples", action="store_true", help="keep the model of each keep, for farm sample")
    parser.add_argument(
        "--no-start-ahead", action="store_true", help="don't start the next run's processes while a GPU scores a run"
    )


def _add_look(command: AddCommand) -> None:
    status = command("status", "what the farm is doing, and where each branch stands")
    _add_places(status, cache=False)
    _add_json(status)

    report = command("report", "ten lines in the morning: gains, how sure, failures, cost")
    report.add_argument("tag", nargs="?", help="only this tag's branches (default: all)")
    _add_places(report, cache=False)

    show = command("show", "everything on one experiment: idea, diff, runs, verdict")
    show.add_argument("id", help="id or commit (or how it begins), or its number on the newest branch")
    _add_places(show, cache=False)

    sql = command("sql", "one SELECT over the history, while the farm runs too")
    sql.add_argument("query", help="start with: SELECT * FROM history; - reads it from standard input")
    sql.add_argument("--audit", action="store_true", help="show the table audit too: for people, not for researchers")
    _add_places(sql, cache=False)
    _add_json(sql)

    audit = command("audit", "whether gains on validation are there on the audit rows too; for people, not for researchers")
    audit.add_argument("branch", nargs="?", help="a branch or tag (default: all)")
    _add_places(audit, cache=False)

    verify = command("verify", "run an experiment again from its record, and compare; records nothing")
    verify.add_argument("id", help="id or commit (or how it begins), or its number on the newest branch")
    verify.add_argument("--num-shards", type=_positive(int), metavar="N", help="training shards that it was run with")
    _add_devices(verify)
    _add_places(verify)


def _add_use(command: AddCommand) -> None:
    diff = command("diff", "how the best train.py differs from its baseline")
    _add_branch(diff)
    _add_places(diff, cache=False)

    apply = command("apply", "put the best train.py into this checkout's research/train.py")
    _add_branch(apply)
    apply.add_argument("--force", action="store_true", help="even over uncommitted edits")
    _add_places(apply, cache=False)

    sample = command("sample", "text from a saved model (farm run --samples)")
    sample.add_argument("id", nargs="?", help="experiment (default: the newest keep that has a model)")
    sample.add_argument("--prompt", default="", metavar="TEXT", help="how it begins")
    sample.add_argument("--tokens", type=_positive(int), default=128, metavar="N", help="how many at most (default: 128)")
    _add_devices(sample)
    _add_places(sample)


def _add_branch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("branch", nargs="?", help="a branch or tag (default: the newest; of its loops the best)")


def _add_tag(parser: argparse.ArgumentParser) -> None:
    today = todays_tag()
    parser.add_argument("--tag", default=today, help=f"names the branches autoresearch/<tag> (default: today, {today})")


def _add_judging(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rule", choices=("noise", "greedy"), default="noise", help="noise: a keep beats chance (default); greedy: any gain"
    )
    parser.add_argument(
        "--sandbox",
        choices=SANDBOX_MODES,
        default="auto",
        help="around train.py: auto, what the host has (default); strict, or none of the runs begins; off, for your own edits",
    )
    _add_gpu_memory(parser)


def _add_gpu_memory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--gpu-memory",
        type=_positive(float),
        metavar="GB",
        help="memory of the GPU that a run may take (default: what is free)",
    )


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--recipe",
        choices=RECIPES,
        help="hyperparameters that a new branch starts from: the best that are known, or the original's (default: train.py's)",
    )


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--profile", choices=list(PROFILES), help="constants and starting point (default: by the hardware)")
    parser.add_argument("--budget", type=_positive(float), metavar="S", help="seconds of training in a run")
    parser.add_argument("--source", metavar="S", help="climbmix, tinystories, stdlib or files:PATH")
    parser.add_argument("--num-shards", type=_positive(int), metavar="N", help="training shards (default: 10)")


def _add_devices(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--devices", metavar="D", help="0,2 or cpu or mps (default: all GPUs, else what there is)")


def _add_places(parser: argparse.ArgumentParser, *, cache: bool = True) -> None:
    places = parser.add_argument_group("places")
    places.add_argument("--home", metavar="FOLDER", help="the farm's state (default: $FARM_HOME, else results/data)")
    if cache:
        places.add_argument("--cache", metavar="FOLDER", help="prepared data (default: ~/.cache/autoresearch-farm)")


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as JSON")


def _positive(kind: Callable[[str], _Number]) -> Callable[[str], _Number]:
    """A type for argparse: `kind`, above 0."""
    wanted = "whole number" if kind is int else "number"

    def parse(text: str) -> _Number:
        try:
            value = kind(text)
        except ValueError:
            value = kind("0")
        if not value > 0:
            raise argparse.ArgumentTypeError(f"{text!r} is no {wanted} above 0")
        return value

    return parse


if __name__ == "__main__":
    sys.exit(main())
