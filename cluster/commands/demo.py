"""`farm demo`: the whole way in five minutes, on whatever is there."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.commands.recorded import read_history
from cluster.commands.research import run_to_end, summary_lines
from cluster.commands.use import print_sample, saved_model
from cluster.hardware import Device, choose_devices, platform_identity
from cluster.home import Home, find_cache, find_home, home_option
from cluster.sandbox_checks import layers_here, lines_before_runs
from research.errors import UserError
from research.profiles import Recipe
from research.text import counted
from results.history import BranchHistory, branch_named

if TYPE_CHECKING:
    from cluster.options import FarmOptions

PROFILE = "cpu"
"""Tiny and offline: five minutes are enough for it on any device."""

RECIPE: Recipe = "original"
"""It leaves something to find in five experiments; the profile's own, tuned by measurement, little."""

BUDGET = 10.0
"""Seconds of training in a run."""

PROMPT = "def "
SAMPLE_TOKENS = 80


def demo(options: argparse.Namespace) -> int:
    """Prepares, measures the baseline, tries ideas of `search`, and shows what came of it."""
    from cluster.display import make_display

    farm = demo_options(options)
    device = farm.devices[0]
    print(f"A demo on {device.key} ({platform_identity(device)}): a tiny model, {farm.budget:g} s of training a run,")
    print(f"{counted(farm.baseline_runs, 'run')} of the baseline, which has the original's hyperparameters, then")
    print(f"{counted(options.experiments, 'experiment')} by search. It takes a few minutes.\n")
    for line in lines_before_runs(farm.sandbox, layers_here()):
        print(line)
    summary = run_to_end(farm, make_display())
    history = branch_named(read_history(farm.home), farm.tag)
    told = ["", *summary_lines(summary), "", *_leaderboard(history), *_places(farm, history)]
    for line in [*told, "", *next_lines(farm.home, farm.tag)]:
        print(line, flush=True)
    _samples(farm.home, history, device, farm.cache)
    return 0 if summary.baseline is not None else 1


def demo_options(options: argparse.Namespace) -> "FarmOptions":
    """A farm with one loop under a tag of its own."""
    from agent.repo.repository import repository_for
    from cluster.options import FarmOptions

    home = find_home(options.home)
    repo = repository_for(Path.cwd(), home.folder)
    return FarmOptions(
        repo=repo,
        home=home,
        cache=find_cache(options.cache),
        tag=unused_tag(repo, home),
        researcher="search",
        profile=PROFILE,
        recipe=RECIPE,
        budget=options.budget or BUDGET,
        devices=choose_devices(options.devices)[:1],
        experiments=options.experiments,
        samples=True,
    )


def unused_tag(repo: Path, home: Home) -> str:
    """`demo`, else `demo-2`, `demo-3` ...: one that neither the repository nor the home knows."""
    from agent.repo.worktree import branch_exists

    try:
        known = {history.branch.tag for history in read_history(home)}
    except UserError:
        known = set()
    number = 1
    while True:
        tag = "demo" if number == 1 else f"demo-{number}"
        if tag not in known and not branch_exists(repo, f"autoresearch/{tag}"):
            return tag
        number += 1


def _leaderboard(history: BranchHistory) -> list[str]:
    from results.report import leaderboard_text

    return leaderboard_text(history.records).splitlines()


def _places(farm: "FarmOptions", history: BranchHistory) -> list[str]:
    """Where things lie."""
    from agent.repo.worktree import worktree_folder

    name, home = history.branch.name, farm.home
    folder = worktree_folder(home.folder, name)
    return [
        "",
        f"branch    {name} in {farm.repo}",
        f"results   {folder / 'results.tsv'}",
        f"picture   {folder / 'progress.png'}",
        f"history   {home.parquet}",
    ]


def next_lines(home: Home, tag: str) -> list[str]:
    """Commands to try next, to be pasted as they are."""
    at_home = home_option(home)
    return [
        "try",
        f"  farm sql{at_home} \"SELECT number, decision, val_bpb, gain, title FROM history WHERE tag = '{tag}'\"",
        f"  farm diff{at_home} {tag}",
        f"  farm run{at_home}",
    ]


def _samples(home: Home, history: BranchHistory, device: Device, cache: Path) -> None:
    """The same beginning, told on by the baseline and by the best."""
    keeps = [record for record in history.keeps if saved_model(home, record) is not None]
    for record in keeps[:1] + keeps[1:][-1:]:
        score = "" if record.val_bpb is None else f", val_bpb {record.val_bpb:.4f}"
        print(f"\ntext from {record.experiment.id} ({record.experiment.title}{score}):", flush=True)
        print_sample(home, history, record, device, cache=cache, prompt=PROMPT, tokens=SAMPLE_TOKENS)
