"""What is imported before the judge forks leaves no trace but modules."""

import os
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import psutil
import pytest
import torch

from research.kernels.preload import COMPILER, has_initialised_cuda, preload
from tests.research.judged import in_a_fork


def look() -> dict[str, Any]:
    """What is different after the preload."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    process = psutil.Process()
    before, threads = dict(os.environ), process.num_threads()
    assert COMPILER not in sys.modules
    preload((9, 0))
    return {
        "compiler": COMPILER in sys.modules,
        "more threads": process.num_threads() - threads,
        "children": len(process.children()),
        "environment": sorted({name for name, _ in set(os.environ.items()) ^ set(before.items())}),
        "cuda": has_initialised_cuda(),
    }


FORK = """
import os, sys
from research.kernels.preload import FLASH_4_BASE, preload_for_gpu
import torch
preload_for_gpu()
assert FLASH_4_BASE in sys.modules or not {has_base}
child = os.fork()
if child == 0:
    code = 1
    try:
        torch.zeros(1, device="cuda").item()
        code = 0
    finally:
        os._exit(code)
assert os.waitpid(child, 0)[1] == 0
print("forked")
"""

BEGINS_ANEW = """
import os
from research.kernels import preload as preloading
print("off" if preloading.OFF_VARIABLE in os.environ else "on", flush=True)
preloading.gpu_capability = lambda: (9, 0)
preloading.preload = lambda capability: None
preloading.has_initialised_cuda = lambda: True
preloading.preload_for_gpu()
print("goes on", flush=True)
"""


def execute(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_only_modules_are_left() -> None:
    found = in_a_fork(look)
    assert set(found.pop("environment")) <= {"PYTORCH_NVML_BASED_CUDA_CHECK", "TORCHINDUCTOR_CACHE_DIR"}
    assert found == {"compiler": True, "more threads": 0, "children": 0, "cuda": False}


def test_a_process_whose_imports_started_cuda_begins_anew_without() -> None:
    done = execute(BEGINS_ANEW)
    assert done.stdout.splitlines() == ["on", "off", "goes on"], done.stderr
    assert "initialised CUDA" in done.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible")
def test_a_child_can_use_the_gpu() -> None:
    done = execute(FORK.format(has_base=find_spec("quack") is not None))
    assert done.stdout == "forked\n", done.stderr
