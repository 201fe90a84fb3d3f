"""What is imported before the judge forks leaves no trace but modules: tried as for a Hopper GPU, which needn't be there."""

import json
import subprocess
import sys

LOOK = """
import json, os, sys, threading
import psutil
from research.preloading import COMPILER, preload
import torch
before = dict(os.environ)
preload((9, 0))
process = psutil.Process()
print(json.dumps({
    "compiler": COMPILER in sys.modules,
    "attention itself": "flash_attn.cute" in sys.modules,
    "cuda": torch.cuda.is_initialized(),
    "threads": threading.active_count(),
    "children": len(process.children()),
    "environment": sorted(set(os.environ.items()) ^ set(before.items())),
}))
"""


def test_only_modules_are_left() -> None:
    done = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "compiler": True,
        "attention itself": False,
        "cuda": False,
        "threads": 1,
        "children": 0,
        "environment": [["PYTORCH_NVML_BASED_CUDA_CHECK", "1"]],
    }


def test_a_library_that_starts_cuda_is_named() -> None:
    starts = (
        "import torch; torch.cuda.is_initialized = lambda: True; from research import preloading; preloading.preload((9, 0))"
    )
    done = subprocess.run([sys.executable, "-c", starts], capture_output=True, text=True)
    assert done.returncode == 1
    assert "has started CUDA" in done.stderr.splitlines()[-1]
