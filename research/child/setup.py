"""What the trainer and the scorers do alike: settings from the judge, the device, loading train.py."""

import os
import sys
from pathlib import Path
from types import ModuleType

import torch

from research.gpu_memory import SHARE_VARIABLE
from research.sandbox.layers import BROKEN


def require_device(device: torch.device) -> None:
    """Ends the process where its device can't be used: a run on another would score otherwise. It is not the idea's fault.

    Where the run has a limit of GPU memory, torch takes no more from here on than this process's share.
    """
    if device.type != "cuda":
        return
    if not torch.cuda.is_available():
        print("the GPU can't be used inside the sandbox: --sandbox off shows whether it can outside", file=sys.stderr)
        sys.exit(BROKEN)
    torch.cuda._cached_device_count = torch._C._cuda_getDeviceCount()  # torch 2.11 asks NVML, which may find none in a sandbox
    if share := os.environ.get(SHARE_VARIABLE):
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, int(share) / total), device)


def set_threads() -> None:
    """Gives torch as many CPU threads as the judge said (OMP_NUM_THREADS is read at import, which was before the fork)."""
    if threads := os.environ.get("AUTORESEARCH_THREADS"):
        torch.set_num_threads(int(threads))


def load_train_py(path: Path) -> ModuleType:
    """Executes a train.py as the module `train`; tracebacks show its lines."""
    module = ModuleType("train")
    module.__file__ = str(path)
    sys.modules["train"] = module
    exec(compile(path.read_text(), str(path), "exec"), module.__dict__)
    return module


def child_setting(name: str) -> str:
    """A setting that the judge handed to this process."""
    return os.environ[f"AUTORESEARCH_{name}"]
