"""`farm demo`, `farm doctor`, `farm prepare`, `farm profile`: getting to know the farm, and getting a machine ready."""

import argparse
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.background import in_background
from cluster.commands.read_home import read_history
from cluster.event_loop import run_in_loop
from cluster.hardware import Device, choose_devices, limited, platform_identity
from cluster.home import Home, find_cache, find_checkout, find_home, home_option
from cluster.known_folders import remember
from cluster.machine_load import busy_lines
from research.command_hints import to_type
from research.contract import Contract
from research.errors import UserError
from research.formatting import counted
from research.profiles import choose_profile, contract_for, memory_limit, profile_named
from research.recipes import Constant, Recipe
from research.starting_hyperparameters import fit_to_profile, starting_hyperparameters
from results.history import BranchHistory, branch_named

if TYPE_CHECKING:
    from cluster.farm_options import FarmOptions

DEMO_PROFILE = "cpu"
"""A tiny, offline profile, for which five minutes are enough on any device."""

DEMO_RECIPE: Recipe = "original"
"""A recipe that leaves something to find in five experiments; the profile's own, tuned hyperparameters leave little."""

DEMO_BUDGET = 10.0
"""Seconds of training per run."""

DEMO_PROMPT = "def "
DEMO_TOKENS = 80


def demo(options: argparse.Namespace) -> int:
    """Prepares data, measures the baseline, tries ideas of `search`, and shows the results."""
    from cluster.commands.research import run_to_end
    from cluster.display import make_display
    from cluster.doctor import layers_here, lines_before_runs
    from cluster.end_summary import summary_lines
    from cluster.output import LastingOutput

    farm = demo_options(options)
    device = farm.devices[0]
    farm.home.check_free()
    output = LastingOutput(farm.home)
    output.line(f"A demo on {device.key} ({platform_identity(device)}): a tiny model, {farm.budget:g} s of training per run.")
    output.line(
        f"First {counted(farm.baseline_runs, 'run')} of the baseline, with the hyperparameters of karpathy/autoresearch,"
    )
    output.line(f"then {counted(options.experiments, 'experiment')} by search. It takes a few minutes.\n")
    for line in (*lines_before_runs(farm.sandbox, layers_here()), *busy_lines(farm.devices)):
        output.line(line)
    summary = run_to_end(farm, make_display(output.line))
    history = branch_named(read_history(farm.home), farm.tag)
    told = ["", *summary_lines(summary), "", *_leaderboard(history), *_places(farm, history)]
    for line in [*told, "", *next_lines(farm.home, farm.tag, keeps=summary.keeps)]:
        output.line(line)
    _samples(farm.home, history, device, farm.cache)
    return 0 if summary.baseline is not None else 1


def demo_options(options: argparse.Namespace) -> "FarmOptions":
    """The demo's farm: one loop under its own tag."""
    from agent.repo.repository import repository_for
    from cluster.farm_options import FarmOptions

    home = find_home(options.home)
    home.check_writable()
    repo = repository_for(Path.cwd(), home.folder)
    return FarmOptions(
        repo=repo,
        home=home,
        cache=find_cache(options.cache),
        tag=unused_tag(repo, home),
        researcher="search",
        profile=DEMO_PROFILE,
        recipe=DEMO_RECIPE,
        budget=options.budget or DEMO_BUDGET,
        devices=choose_devices(options.devices)[:1],
        experiments=options.experiments,
        samples=True,
    )


def unused_tag(repo: Path, home: Home) -> str:
    """The first of `demo`, `demo-2`, `demo-3`, ... that neither the repository nor the home knows."""
    from agent.repo.branch_names import branch_name
    from agent.repo.worktree import branch_exists

    try:
        known = {history.branch.tag for history in read_history(home)}
    except UserError:
        known = set()
    number = 1
    while True:
        tag = "demo" if number == 1 else f"demo-{number}"
        if tag not in known and not branch_exists(repo, branch_name(tag)):
            return tag
        number += 1


def _leaderboard(history: BranchHistory) -> list[str]:
    from results.report import leaderboard_text

    return leaderboard_text(history.records).splitlines()


def _places(farm: "FarmOptions", history: BranchHistory) -> list[str]:
    """Where the results are."""
    from agent.repo.branch_names import worktree_folder

    name, home = history.branch.name, farm.home
    folder = worktree_folder(home.folder, name)
    return [
        "",
        f"branch    {name} in {farm.repo}",
        f"results   {folder / 'results.tsv'}",
        f"picture   {folder / 'progress.png'}",
        f"history   {home.parquet}",
    ]


def next_lines(home: Home, tag: str, *, keeps: int) -> list[str]:
    """Commands to try next, ready to be pasted; without a keep there is no difference to show."""
    at_home = home_option(home)
    query = f"SELECT number, decision, val_bpb, effect, title FROM history WHERE tag = '{tag}'"
    return [
        "try next:",
        f'  {to_type("farm sql")}{at_home} "{query}"',
        *([f"  {to_type('farm diff')}{at_home} {tag}"] if keeps else []),
        f"  {to_type('farm run')}{at_home}",
    ]


def _samples(home: Home, history: BranchHistory, device: Device, cache: Path) -> None:
    """Prints how the baseline and the best model continue the same prompt."""
    from cluster.commands.use import best_with_model, print_sample, saved_model

    found = (history.baseline, best_with_model(home, history))
    shown = {record.experiment.id: record for record in found if record is not None and saved_model(home, record) is not None}
    for record in shown.values():
        score = "" if record.val_bpb is None else f", val_bpb {record.val_bpb:.4f}"
        print(f"\ntext from {record.experiment.id} ({record.experiment.title}{score}):", flush=True)
        print_sample(home, history, record, device, cache=cache, prompt=DEMO_PROMPT, tokens=DEMO_TOKENS)


def doctor(options: argparse.Namespace) -> int:
    """Prints what works here. The exit status is 1 if something is missing. With --repair: repairs the journal alone."""
    from cluster.doctor import check_lines, examine, repair_journal

    if options.repair:
        for line in repair_journal(find_home(options.home)):
            print(line, flush=True)
        return 0
    try:
        cache: Path | UserError = find_cache(options.cache)
    except UserError as error:
        cache = error
    states = set()
    for check in examine(find_home(options.home), cache, choose_devices(options.devices)):
        states.add(check.state)
        print("\n".join(check_lines([check])), flush=True)
    return 1 if "missing" in states else 0


def prepare(options: argparse.Namespace) -> int:
    """Prepares the data of one profile, and on a GPU times the attention kernels. What has been done is not repeated."""
    from research.data.prepare import prepare as prepare_data
    from research.data.sources import check_source

    device = choose_devices(options.devices)[0]
    profile = options.profile or choose_profile(device.torch_device, device.memory_bytes)
    contract = contract_for(profile, budget=options.budget, source=options.source)
    check_source(contract.source, options.num_shards, reads_files=False)
    preparing = partial(
        prepare_data,
        contract,
        cache=find_cache(options.cache),
        num_shards=options.num_shards,
        text_field=options.text_field,
        force=options.force,
        allow_visible=options.allow_visible,
        say=_say,
    )
    run_in_loop(in_background(preparing))
    remember(find_cache(options.cache))
    if device.kind == "cuda":
        _choose_attention(contract, device, find_cache(options.cache))
    return 0


def _choose_attention(contract: Contract, device: Device, cache: Path) -> None:
    """Finds the fastest attention kernel now: otherwise the first run would, and take that much longer to start."""
    from cluster.judge_process import judge_environment
    from research.kernels import attention_choice, compile_cache

    shared = compile_cache.shared_folder(cache, device.torch_device)
    measured = attention_choice.measured_file(contract, shared)
    why = measured.with_suffix(".log")
    why.unlink(missing_ok=True)  # try again after a failure: its cause may be fixed
    environment = judge_environment(device)
    kernel = attention_choice.choose(contract, device.torch_device, shared, environment=environment)
    if measured.exists():
        print(f"attention: {kernel} is the fastest on this GPU")
    else:
        print(f"attention: the kernels could not be timed (see {why}): using {kernel}")


def profile(options: argparse.Namespace) -> int:
    """Prints the profile and the reason; with --write its hyperparameters go into train.py."""
    device = choose_devices(options.devices)[0]
    device = limited(device, memory_limit(options.gpu_memory, device.kind))
    suggested = choose_profile(device.torch_device, device.memory_bytes)
    if options.name and options.profile not in (None, options.name):
        raise UserError(f"{options.name} and --profile {options.profile} are two profiles: give one.")
    name = options.profile or options.name or suggested
    contract = profile_named(name).contract
    print(f"{device.key}: {platform_identity(device)}")
    default = "the default here" if name == suggested else f"the default here is {suggested}"
    print(f"profile {name} ({default}), for {profile_named(name).what_for}")
    print(
        f"each run: {contract.TIME_BUDGET:g} s of training, sequence length {contract.MAX_SEQ_LEN}, "
        f"vocabulary {contract.VOCAB_SIZE}, scored on {contract.EVAL_TOKENS:,} tokens of {contract.source}"
    )
    free_bytes = device.free_bytes if device.kind == "cuda" else None
    if options.write:
        _write_profile(name, free_bytes, options.recipe)
    elif options.recipe is not None:
        print(
            f"recipe {options.recipe}: {_listed(starting_hyperparameters(name, free_bytes=free_bytes, recipe=options.recipe))}"
        )
    return 0


def _write_profile(name: str, free_bytes: int | None, recipe: Recipe | None) -> None:
    """Writes a profile's starting hyperparameters into the checkout's train.py."""
    checkout = find_checkout()
    if checkout is None:
        raise UserError("--write needs a checkout, and there is no checkout here: run this inside one.")
    path = checkout / "research" / "train.py"
    text, changes = fit_to_profile(path.read_text(encoding="utf-8"), name, free_bytes, recipe=recipe)
    path.write_text(text, encoding="utf-8")
    print(f"{path}: {_listed(changes) or 'nothing to change'}")


def _listed(constants: Mapping[str, Constant]) -> str:
    return ", ".join(f"{constant} = {value}" for constant, value in constants.items())


def _say(text: str) -> None:
    print(text, flush=True)
