"""What the benchmarks that train through the judge share: on what, under which contract, from which train.py."""

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
from research.hyperparameters import fit_to_profile, read_constants, write_constants
from research.profiles import Constant, choose_profile, contract_for, memory_limit
from research.result import RunResult, RunSpec

TRAIN_PY = Path(__file__).parent.parent / "research" / "train.py"


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What all runs of a benchmark have in common."""

    device: Device
    profile: str
    contract: Contract
    data: PreparedData
    train_py: str
    """The shipped one, under the profile's starting hyperparameters."""

    def title(self) -> str:
        return f"{platform_identity(self.device)}, profile {self.profile}, {self.contract.TIME_BUDGET:g} s"


def add_terms(parser: argparse.ArgumentParser) -> None:
    """The options that `terms_of` reads."""
    parser.add_argument("--profile", help="default: what the hardware suggests")
    parser.add_argument("--budget", type=float, help="seconds of training in a run")
    parser.add_argument("--source", help="of the text")
    parser.add_argument("--devices", type=DeviceRequest.parse, default=ANY_DEVICE,
                        help="one device: 0 or cpu or mps (default: the best that is there)")  # fmt: skip
    parser.add_argument("--gpu-memory", type=float, metavar="GB", help="that a run may take (default: what is free)")
    parser.add_argument("--cache", help="of prepared data")


def terms_of(options: argparse.Namespace) -> Terms:
    """Prepares the data where it isn't there. Raises UserError."""
    device = choose_devices(options.devices)[0]
    device = limited(device, memory_limit(options.gpu_memory, device.kind))
    profile = options.profile or choose_profile(device.torch_device, device.memory_bytes)
    contract = contract_for(profile, budget=options.budget, source=options.source)
    data = prepare(contract, cache=cache_folder(options.cache), say=print)
    train_py, _ = fit_to_profile(TRAIN_PY.read_text(), profile, device.free_bytes if device.kind == "cuda" else None)
    return Terms(device=device, profile=profile, contract=contract, data=data, train_py=train_py)


def variant_text(variant: str, terms: Terms) -> str:
    """The train.py of a variant: `NAME=value ...`, or the path of another one, fitted to the profile. Raises UserError."""
    if Path(variant).is_file():
        return fit_to_profile(Path(variant).read_text(), terms.profile, None)[0]
    return write_constants(terms.train_py, constants_of(variant))


def constants_of(words: str) -> dict[str, Constant]:
    """Of `NAME=value ...`. Raises UserError."""
    try:
        pairs = [word.split("=", 1) for word in words.split()]
        found = read_constants("\n".join(f"{name} = {value}" for name, value in pairs))
    except (SyntaxError, ValueError):
        found = {}
    if not found or len(found) != len(words.split()):
        raise UserError(f"{words!r} is neither a file nor NAME=value with values that are literals.")
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
    """One run; a score above `keep_below` spares it the checks before a keep. It leaves nothing behind, or its files, the
    model among them, in the folder `keep_in`.
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
