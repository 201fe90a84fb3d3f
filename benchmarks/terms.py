"""The common setup of the benchmarks that train through the judge: device, contract, data and train.py."""

import argparse
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from cluster.engine import LocalEngine
from cluster.hardware import ANY_DEVICE, Device, DeviceRequest, choose_devices, limited, platform_identity
from cluster.judge_process import Progress
from research.contract import Contract, cache_folder
from research.data.prepare import prepare
from research.data.prepared import PreparedData
from research.errors import UserError
from research.hyperparameters import read_constants, write_constants
from research.profiles import choose_profile, contract_for, memory_limit
from research.recipes import Constant
from research.result import RunResult, RunSpec
from research.starting_hyperparameters import fit_to_profile

TRAIN_PY = Path(__file__).parent.parent / "research" / "train.py"


@dataclass(frozen=True, kw_only=True)
class Terms:
    """The device, contract, data and train.py that all runs of a benchmark share."""

    device: Device
    profile: str
    contract: Contract
    data: PreparedData
    train_py: str
    """Text of the shipped train.py with the profile's starting hyperparameters."""

    def title(self) -> str:
        return f"{platform_identity(self.device)}, profile {self.profile}, {self.contract.TIME_BUDGET:g} s"


def add_terms(parser: argparse.ArgumentParser) -> None:
    """Adds the options that `terms_of` reads."""
    parser.add_argument("--profile", help="standard, small or cpu (default: chosen for the hardware)")
    parser.add_argument("--budget", type=float, help="seconds of training per run")
    parser.add_argument("--source", help="source of the text (default: the profile's)")
    parser.add_argument("--devices", type=DeviceRequest.parse, default=ANY_DEVICE,
                        help="one device: 0, cpu or mps (default: the best available)")  # fmt: skip
    parser.add_argument("--gpu-memory", type=float, metavar="GB", help="memory limit per run (default: the free memory)")
    parser.add_argument("--cache", help="folder of prepared data")


def terms_of(options: argparse.Namespace) -> Terms:
    """The setup that the options describe; prepares the data if necessary. Raises UserError."""
    device = choose_devices(options.devices)[0]
    device = limited(device, memory_limit(options.gpu_memory, device.kind))
    profile = options.profile or choose_profile(device.torch_device, device.memory_bytes)
    contract = contract_for(profile, budget=options.budget, source=options.source)
    data = prepare(contract, cache=cache_folder(options.cache), say=print)
    train_py, _ = fit_to_profile(TRAIN_PY.read_text(), profile, device.free_bytes if device.kind == "cuda" else None)
    return Terms(device=device, profile=profile, contract=contract, data=data, train_py=train_py)


def variant_text(variant: str, terms: Terms) -> str:
    """The train.py of a variant, which is `NAME=value ...` or the path of another train.py. Raises UserError."""
    if Path(variant).is_file():
        return fit_to_profile(Path(variant).read_text(), terms.profile, None)[0]
    return write_constants(terms.train_py, constants_of(variant))


def constants_of(words: str) -> dict[str, Constant]:
    """Parses `NAME=value ...`. Raises UserError."""
    try:
        pairs = [word.split("=", 1) for word in words.split()]
        found = read_constants("\n".join(f"{name} = {value}" for name, value in pairs))
    except (SyntaxError, ValueError):
        found = {}
    if not found or len(found) != len(words.split()):
        raise UserError(f"{words!r} is neither a file nor NAME=value ... with literal values.")
    return found


async def run_once(
    engine: LocalEngine,
    train_py: str,
    terms: Terms,
    *,
    seed: int,
    keep_below: float | None = None,
    keep_in: Path | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> RunResult:
    """Makes one judged run.

    Args:
        keep_below: a run whose score is higher skips the checks that a kept run needs
        keep_in: folder for the run's files, including the model; None: they are deleted
        on_progress: called with each progress message of the judge
    """
    spec = RunSpec(
        run_id=f"run-{secrets.token_hex(4)}",
        contract=terms.contract,
        seed=seed,
        keep_below=keep_below,
        save_model=keep_in is not None,
    )
    result = await engine.execute(terms.device, train_py, spec, on_progress)
    if keep_in is not None:
        shutil.copytree(engine.runs_folder / spec.run_id, keep_in, dirs_exist_ok=True)
    shutil.rmtree(engine.runs_folder / spec.run_id, ignore_errors=True)
    return result


@asynccontextmanager
async def engine_for(terms: Terms) -> AsyncIterator[LocalEngine]:
    """An engine with the benchmark's device and data. Its run folders are removed when it is closed."""
    with tempfile.TemporaryDirectory(prefix="autoresearch-benchmark-") as folder:
        engine = LocalEngine({terms.device: terms.data.folder}, runs_folder=Path(folder))
        try:
            yield engine
        finally:
            await engine.close()
