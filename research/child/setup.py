"""Start-up steps that the trainer and the scorers share: settings, channel, device, loading train.py."""

import socket
import sys
from pathlib import Path
from types import ModuleType

import torch

from research.child_settings import SETTINGS_VARIABLE, ChildSettings
from research.ipc.channel import Channel
from research.sandbox.layers import BROKEN
from research.sandbox.linux import die_with_parent


def begin() -> tuple[ChildSettings, Channel]:
    """Ties this process to the judge and sets torch's number of threads. Returns the settings and the channel to the judge."""
    die_with_parent()
    settings = ChildSettings.from_environment()
    if settings is None or settings.channel is None:
        raise SystemExit(f"{SETTINGS_VARIABLE} names no channel: only the judge can start this process")
    if settings.threads is not None:  # OMP_NUM_THREADS was read when torch was imported, before the fork
        torch.set_num_threads(settings.threads)
    return settings, Channel(socket.socket(fileno=settings.channel))


def require_device(device: torch.device, *, memory_limit: int | None) -> None:
    """Ends the process if its device can't be used: that is not the idea's fault, and no other device may replace it.

    From then on torch allocates at most `memory_limit` bytes of GPU memory; None: no limit.
    """
    if device.type != "cuda":
        return
    if not torch.cuda.is_available():
        print("the GPU can't be used inside the sandbox: try --sandbox off to see whether it works outside", file=sys.stderr)
        sys.exit(BROKEN)
    torch.cuda._cached_device_count = torch._C._cuda_getDeviceCount()  # torch 2.11 asks NVML, which may find none in a sandbox
    if memory_limit is not None:
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, memory_limit / total), device)


def load_train_py(path: Path) -> ModuleType:
    """Executes a train.py as the module `train`; tracebacks show its lines."""
    module = ModuleType("train")
    module.__file__ = str(path)
    sys.modules["train"] = module
    exec(compile(path.read_text(), str(path), "exec"), module.__dict__)
    return module
