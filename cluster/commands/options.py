"""Turns the options of the command line into FarmOptions."""

import argparse
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from agent.repo.branch_names import check_name
from agent.repo.repository import checkout_around, repository_for, source_tree
from agent.researchers.coding_agents import AGENTS, check_effort
from agent.researchers.make import check_researcher
from agent.researchers.mix import ACP, check_mix, kinds_in
from agent.researchers.prices import PRICES, Price, read_prices
from cluster.engine_choice import chosen_engine
from cluster.farm_options import EngineKind, FarmOptions, todays_tag
from cluster.hardware import Device, choose_devices, detect_devices, limited
from cluster.home import find_cache, find_home
from cluster.hooks import check_hook
from cluster.parser_parts import words_for
from cluster.researcher_choice import chosen_line, model_here, with_researcher
from cluster.webhooks import checked_url
from research.data.sources import check_source
from research.errors import UserError
from research.files import user_path
from research.profiles import memory_limit
from results.steering import PLATEAU_IDEAS

OF_ONE_CALL = ("experiments", "hours", "dirty", "recipe", "message", "again")
"""Options that resuming doesn't take again as they are: limits, which may be reached, and what applies to new branches or to
one experiment."""

SECRETS = ("notify_url",)
"""Options that no log and no terminal repeats; $FARM_NOTIFY_URL is heard without them."""

OF_THE_BRANCH = ("command", "module", "tag", "home", "profile", "budget", "source")
"""Options that resuming takes from the branch and its home."""


def run_options(options: argparse.Namespace) -> FarmOptions:
    """The options of `farm run`. Raises UserError."""
    asked = options.researcher
    options = with_researcher(options)
    check_researcher(options.researcher)
    check_used(options)
    check_hook("--before-experiment", options.before_experiment)
    check_hook("--after-experiment", options.after_experiment)
    check_hook("--notify", options.notify)
    notify_url = checked_url(options.notify_url, options.notify_shape)
    found = detect_devices()
    engine = chosen_engine(options.engine, options.devices, found, options.address)
    return replace(
        _common_options(options, engine, found),
        researcher=options.researcher,
        why_researcher=chosen_line(asked, options.researcher),
        model=options.model,
        effort=options.effort,
        prices=_prices(options.prices),
        max_cost=options.max_cost,
        max_loop_cost=options.max_loop_cost,
        mix=options.mix,
        fallback=options.fallback,
        agent_writes=_agent_writes(options.agent_writes or ()),
        before_experiment=options.before_experiment,
        after_experiment=options.after_experiment,
        notify=options.notify,
        notify_url=notify_url,
        notify_shape=options.notify_shape,
        plateau_ideas=options.plateau or PLATEAU_IDEAS,
        address=options.address,
        share=options.share == "all",
        loops=options.loops,
        experiments=options.experiments,
        hours=options.hours,
        dirty=options.dirty,
        samples=options.samples,
        start_ahead=not options.no_start_ahead,
    )


def try_options(options: argparse.Namespace) -> FarmOptions:
    """The options of `farm try`. Raises UserError.

    Its default tag is one of its own: `farm run` works on today's in a worktree, and often under other terms.
    """
    tag = options.tag or f"{todays_tag()}-hand"
    tagged = argparse.Namespace(**{**vars(options), "tag": tag})
    return _common_options(tagged, "local", detect_devices(), edited=True)


def check_used(options: argparse.Namespace) -> None:
    """Raises UserError for options that the chosen researcher or source would not use, and for a source that there isn't."""
    if options.source is not None:  # on a cluster the profile's own source is known only when a node has joined
        check_source(options.source, options.num_shards, reads_files=False)
    check_mix(options.researcher, options.mix)
    kinds = kinds_in(options.researcher)
    agents = tuple(AGENTS)
    paid = ("claude", *agents, ACP)
    for option, value, users in (("--model", options.model, paid), ("--effort", options.effort, paid),
                                 ("--max-cost", options.max_cost, paid), ("--max-loop-cost", options.max_loop_cost, paid),
                                 ("--prices", options.prices, paid),
                                 ("--agent-writes", options.agent_writes, ("command", *agents, ACP))):  # fmt: skip
        using = [kind for kind in kinds if kind in users]
        if value is not None and not using:
            named, others = f"{', '.join(users[:-1])} or {users[-1]}", " and ".join(kinds)
            raise UserError(f"{option} is for --researcher {named}, and {others} doesn't use it: leave it out.")
        if value is not None and len(using) > 1 and option in ("--model", "--effort"):
            raise UserError(
                f"{option} would be for {' and '.join(using)} of the mix, which name theirs differently: leave it out."
            )
        if option == "--effort" and value is not None and using[0] in AGENTS:  # claude's is checked when it is made
            check_effort(AGENTS[using[0]], value)


def _prices(name: str | None) -> Mapping[str, Price]:
    """What tokens cost, with the user's own list. Raises UserError for one that can't be used."""
    return PRICES if name is None else read_prices(user_path(name, instead="a whole path for --prices"))


def _agent_writes(names: Sequence[str]) -> tuple[Path, ...]:
    """The paths of `--agent-writes`. Raises UserError for one that there isn't."""
    paths = tuple(user_path(name, instead="a whole path for --agent-writes").resolve() for name in names)
    for path in paths:
        if not path.exists():
            raise UserError(f"--agent-writes {path}: there is no such file or folder, so make it first.")
    return paths


def _common_options(
    options: argparse.Namespace, engine: EngineKind, found: Sequence[Device], *, edited: bool = False
) -> FarmOptions:
    """The options that `farm run` and `farm try` have in common; `edited`: the train.py here may be an edit."""
    tag = options.tag or todays_tag()
    check_name(tag, "tag")
    home = find_home(options.home)
    if engine == "ray":  # --devices may name what only the cluster's nodes have
        devices = tuple(found[:1])
        gpu_memory = memory_limit(options.gpu_memory, options.devices.kind or "cuda")
    else:
        devices = choose_devices(options.devices, found)
        gpu_memory = memory_limit(options.gpu_memory, devices[0].kind)
        devices = tuple(limited(device, gpu_memory) for device in devices)
    home.check_writable()
    repo = repository_for(Path.cwd(), home.folder, renew=not edited, edited=edited)
    is_own = repo == home.folder / "repository"  # else it is the checkout here
    return FarmOptions(
        repo=repo,
        source_tree=source_tree(Path.cwd()) if is_own and repo != checkout_around(Path.cwd()) else None,
        home=home,
        cache=find_cache(options.cache),
        tag=tag,
        researcher="search",
        profile=options.profile,
        recipe=options.recipe,
        budget=options.budget,
        source=options.source,
        num_shards=options.num_shards,
        devices=devices,
        engine=engine,
        requested=options.devices,
        node_cache=options.cache,
        rule=options.rule,
        line_price=options.line_price,
        memory_cap_mb=None if options.memory_cap is None else options.memory_cap * 1000**3 / 1024**2,
        sandbox=options.sandbox,
        gpu_memory_bytes=gpu_memory,
        command=options.command,
        given=given_again(options),
    )


def given_again(options: argparse.Namespace) -> str:
    """The options that resuming needs beside those of the branch, quoted for a shell; defaults are left out."""
    from cluster.command_parser import make_parser

    defaults = vars(make_parser().parse_args([options.command]))
    if "researcher" in defaults and model_here() is None:  # else it would be another one by default
        defaults["researcher"] = "search"
    unchanged = [name for name, value in vars(options).items() if value == defaults[name]]
    return shlex.join(words_for(options, without=(*OF_ONE_CALL, *OF_THE_BRANCH, *SECRETS, *unchanged)))
