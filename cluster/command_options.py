"""Options and arguments that several commands have."""

import argparse

from agent.researchers.make import RESEARCHERS
from agent.researchers.mix import ADAPTIVE, EXAMPLE, FIXED
from cluster.hardware import ANY_DEVICE, DeviceRequest
from cluster.parser_parts import some_text, tag_name
from cluster.webhooks import SHAPES
from research.number_options import budget_seconds, count_to, gigabytes, number_from
from research.profiles import PROFILES
from research.recipes import RECIPES
from research.result import SANDBOX_MODES
from results.steering import PLATEAU_IDEAS
from results.verdict import LINE_PRICE

DEFAULT_BRANCH = "the best of the tag that is checked out here, else of the newest"
"""What commands take without a branch or tag, in words."""

ASKED_BRANCH = f"that of the farm that is running; without one {DEFAULT_BRANCH}"
"""What commands that ask something of loops take without a branch or tag, in words."""


def add_tag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tag", type=tag_name, help="branches are autoresearch/<tag>... (default: today's date, such as mar08)"
    )


def add_researcher(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--researcher", type=some_text, metavar="R",
                        help=f"who proposes edits: {RESEARCHERS}; or a mix for several loops, such as {EXAMPLE} "
                        "(default: hybrid for farm run where claude's key or an agent that tells its cost is there, else "
                        "search, which needs none)")  # fmt: skip
    parser.add_argument("--mix", choices=(FIXED, ADAPTIVE), default=FIXED,
                        help="adaptive: each idea's researcher of a mix is chosen by what they have gained per hour so far "
                        "(default: each loop keeps its own)")  # fmt: skip
    parser.add_argument("--fallback", choices=("search", "none"), default="search",
                        help="who has ideas while claude or a coding agent fails or is slow, and once its key, its "
                        "program or its budget ends (default: search)")  # fmt: skip
    parser.add_argument("--model", type=some_text, metavar="M", help="model that claude or a coding agent uses")
    parser.add_argument("--effort", type=some_text, metavar="E", help="how much the model thinks, such as high")
    parser.add_argument("--prices", type=some_text, metavar="FILE",
                        help="JSON with what tokens of models cost, where that is unknown or you pay another")  # fmt: skip
    parser.add_argument("--plateau", type=count_to(1_000_000), metavar="N",
                        help="ideas without a keep after which claude, coding agents and command: are told to change the "
                        f"structure (default: {PLATEAU_IDEAS})")  # fmt: skip
    for when in ("before", "after"):
        parser.add_argument(f"--{when}-experiment", type=some_text, metavar="COMMAND",
                            help=f"a command of yours that runs {when} each experiment, with JSON on its input")  # fmt: skip
    add_notifications(parser)
    parser.add_argument("--agent-writes", type=some_text, action="append", metavar="PATH",
                        help="a file or folder that a coding agent or command: may write beside its working folder and its "
                        "state in your home (repeatable)")  # fmt: skip


def add_notifications(parser: argparse.ArgumentParser) -> None:
    told = parser.add_argument_group(
        "messages on a new best, an integrity alarm, a quarantined device, a spent budget, the end"
    )
    told.add_argument("--notify", type=some_text, metavar="COMMAND",
                      help="a command of yours that gets each as JSON on its input")  # fmt: skip
    told.add_argument("--notify-url", type=some_text, metavar="URL",
                      help="a webhook of Slack, Discord or Telegram, or for JSON (default: $FARM_NOTIFY_URL)")  # fmt: skip
    told.add_argument("--notify-shape", choices=SHAPES, help="what the webhook takes, where its host doesn't tell")


def add_limits(parser: argparse.ArgumentParser) -> None:
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
                        help="whether loops of one platform build on one head (default: all)")  # fmt: skip
    parser.add_argument(
        "--loops", type=count_to(1_000), metavar="N", help="number of loops, at most 16 per device (default: one)"
    )
    parser.add_argument("--dirty", action="store_true", help="start new branches from uncommitted edits of research/train.py")
    parser.add_argument("--samples", action="store_true", help="save the model of each keep, for farm sample")
    parser.add_argument("--no-start-ahead", action="store_true",
                        help="don't start the next run's processes speculatively while a GPU scores a run")  # fmt: skip


def add_judging(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rule", choices=("estimate", "greedy"), default="estimate",
                        help="what is kept: estimate, what probably helps by all runs (default); greedy, any gain")  # fmt: skip
    parser.add_argument("--line-price", type=number_from(0, 1, float), default=LINE_PRICE, metavar="BPB",
                        help=f"gain that each added line must bring (default: {LINE_PRICE:f})".rstrip("0"))  # fmt: skip
    parser.add_argument("--memory-cap", type=gigabytes, metavar="GB",
                        help="peak memory that a keep may need (default: what the device has)")  # fmt: skip
    parser.add_argument("--sandbox", choices=SANDBOX_MODES, default="auto",
                        help="auto: the layers that this host has (default); strict: refuse to run unless it has all; "
                        "off: none, for your own edits only")  # fmt: skip
    add_gpu_memory(parser)


def add_gpu_memory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--gpu-memory", type=gigabytes, metavar="GB",
                        help="GPU memory that a run may use (default: all that is free)")  # fmt: skip


def add_recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--recipe", choices=RECIPES,
                        help="hyperparameters of a new branch: the best known, or those of karpathy/autoresearch "
                        "(default: train.py's own)")  # fmt: skip


def add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--profile", choices=list(PROFILES),
                        help="constants and starting hyperparameters (default: see farm profile)")  # fmt: skip
    parser.add_argument("--budget", type=budget_seconds, metavar="S",
                        help="seconds of training per run (default: the profile's)")  # fmt: skip
    parser.add_argument("--source", type=some_text, metavar="S",
                        help="climbmix, tinystories, packages, stdlib or files:PATH (default: the profile's)")  # fmt: skip
    parser.add_argument("--num-shards", type=count_to(10_000), metavar="N", help="training shards (default: 10)")


def add_devices(
    parser: argparse.ArgumentParser, help: str = "GPU numbers (0,2), cuda, mps or cpu (default: all GPUs, else mps, else cpu)"
) -> None:
    parser.add_argument("--devices", type=DeviceRequest.parse, default=ANY_DEVICE, metavar="D", help=help)


def add_places(parser: argparse.ArgumentParser, *, cache: bool = True) -> None:
    places = parser.add_argument_group("places")
    places.add_argument(
        "--home", type=some_text, metavar="FOLDER", help="the farm's state (default: $FARM_HOME, else results/data)"
    )
    if cache:
        places.add_argument("--cache", type=some_text, metavar="FOLDER",
                            help="prepared data (default: $FARM_CACHE, else ~/.cache/autoresearch-farm)")  # fmt: skip


def add_dashboard(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--address", type=some_text, metavar="URL", help="the Ray dashboard (default: http://127.0.0.1:8265)")


def add_job_home(parser: "argparse._ActionsContainer") -> None:
    parser.add_argument(
        "--home", type=some_text, metavar="FOLDER", help="the farm's state, where the job runs (default: ~/autoresearch-farm)"
    )


def add_experiment(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "id",
        type=some_text,
        help="an experiment's id or commit (a prefix is enough), or its number on the branch checked out here, else the newest",
    )


def add_branch(parser: argparse.ArgumentParser, name: str = "branch", *, default: str = DEFAULT_BRANCH) -> None:
    parser.add_argument(name, nargs="?", type=some_text, help=f"a branch or tag (default: {default})")


def add_json(parser: argparse.ArgumentParser, help: str = "print JSON") -> None:
    parser.add_argument("--json", action="store_true", help=help)
