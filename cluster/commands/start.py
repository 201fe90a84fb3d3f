"""`farm doctor`, `farm prepare`, `farm profile`: getting a machine ready."""

import argparse
from pathlib import Path

from cluster.hardware import Device, choose_devices, limited, platform_identity
from cluster.home import find_cache, find_checkout, find_home
from research.contract import Contract
from research.errors import UserError
from research.profiles import Recipe, choose_profile, contract_for, memory_limit, profile_named


def doctor(options: argparse.Namespace) -> int:
    """Says what works. Exit status 1 where something is missing."""
    from cluster.doctor import check_lines, examine

    checks = examine(find_home(options.home), find_cache(options.cache), choose_devices(options.devices))
    for line in check_lines(checks):
        print(line)
    return 1 if any(check.state == "missing" for check in checks) else 0


def prepare(options: argparse.Namespace) -> int:
    """Prepares the data of one profile, and what a GPU needs once; done before, it ends at once."""
    from research.data.prepare import prepare as prepare_data

    device = choose_devices(options.devices)[0]
    profile = options.profile or choose_profile(device.torch_device, device.memory_bytes)
    contract = contract_for(profile, budget=options.budget, source=options.source)
    shards = {} if options.num_shards is None else {"num_shards": options.num_shards}
    prepare_data(contract, cache=find_cache(options.cache), allow_visible=options.allow_visible, say=_say, **shards)
    if device.kind == "cuda":
        _choose_attention(contract, device, find_cache(options.cache))
    return 0


def _choose_attention(contract: Contract, device: Device, cache: Path) -> None:
    """Measures which kernel of attention is the fastest: else the first run would, and take that much longer to start."""
    from cluster.judge_process import judge_environment
    from research.kernels import attention_choice, compile_cache

    shared = compile_cache.shared_folder(cache, device.torch_device)
    measured = attention_choice.measured_file(contract, shared)
    why = measured.with_suffix(".log")
    why.unlink(missing_ok=True)  # whoever asks has mended something
    environment = judge_environment(device)
    kernel = attention_choice.choose(contract, device.torch_device, shared, environment=environment)
    if measured.exists():
        print(f"attention: {kernel} is the fastest here")
    else:
        print(f"attention: which kernel is the fastest could not be measured ({why} says why), so that {kernel} serves")


def profile(options: argparse.Namespace) -> int:
    """Which profile and why; with --write its starting hyperparameters go into train.py."""
    device = choose_devices(options.devices)[0]
    device = limited(device, memory_limit(options.gpu_memory, device.kind))
    suggested = choose_profile(device.torch_device, device.memory_bytes)
    name = options.name or suggested
    contract = profile_named(name).contract
    print(f"{device.key}: {platform_identity(device)}")
    print(f"{'suggested' if name == suggested else 'chosen'}: {name}, for {profile_named(name).what_for}")
    print(
        f"a run: {contract.TIME_BUDGET:g} s, sequence {contract.MAX_SEQ_LEN}, vocabulary {contract.VOCAB_SIZE}, "
        f"scored on {contract.EVAL_TOKENS:,} tokens of {contract.source}"
    )
    if options.write:
        _write_profile(name, device.free_bytes if device.kind == "cuda" else None, options.recipe)
    return 0


def _write_profile(name: str, free_bytes: int | None, recipe: Recipe | None) -> None:
    """Puts a profile's starting hyperparameters into the checkout's train.py."""
    from research.hyperparameters import fit_to_profile

    checkout = find_checkout()
    if checkout is None:
        raise UserError("There is no checkout here whose train.py could be written: change to one.")
    path = checkout / "research" / "train.py"
    text, changes = fit_to_profile(path.read_text(encoding="utf-8"), name, free_bytes, recipe=recipe)
    path.write_text(text, encoding="utf-8")
    listed = ", ".join(f"{constant} = {value}" for constant, value in changes.items())
    print(f"{path}: {listed or 'nothing to change'}")


def _say(text: str) -> None:
    print(text, flush=True)
