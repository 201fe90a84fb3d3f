"""What every run on a GPU imports for many seconds: imported once, in the process that its children are forked off."""

import contextlib
import ctypes
import gc
import importlib
import os
import pkgutil
import sys
from importlib.util import find_spec

import torch

from research.gpu_driver import gpu_capability
from research.kernels.attention import FLASH_4, INSTALLED

COMPILER = "torch._inductor.compile_fx"

COMPILER_PARTS = (
    "torch._inductor.codecache",
    "torch._inductor.runtime.triton_compat",
    "torch._inductor.fx_passes.fuse_attention",
    "torch._inductor.fx_passes.freezing_patterns",
    "torch._inductor.fx_passes.pad_mm",
    "torch.distributed.tensor.experimental",
    "sympy.combinatorics.permutations",
    "sympy.tensor.tensor",
)
"""What the compiler would import when it is first used."""

COMPILER_PATTERNS = "torch._inductor.fx_passes.serialized_patterns"
"""A package whose modules the compiler imports one by one."""

COMPILER_KEYS = (("torch._inductor.codecache", "torch_key"), ("torch._inductor.runtime.triton_compat", "triton_key"))
"""Functions that read all of the compiler's own files and remember what comes of it: what is compiled is found by that."""

FLASH_4_BASE = "quack"
"""What flash-attn-4 is built on, and most of its import. Not flash_attn.cute: that reads at import where it may keep what it
compiles, and every run has a folder of its own."""

FLASH_4_BASE_ARCHITECTURE = "QUACK_ARCH"
"""Tells it what GPU there is; it would start CUDA to find out."""

TURNED_OFF = "AUTORESEARCH_PRELOADING_OFF"
"""Set in the environment of a process that must not preload."""

CUDA_NOT_INITIALIZED = 3


def preload_for_gpu() -> None:
    """Preloads for the GPU that this process sees; nothing without one of NVIDIA's.

    Where that has started CUDA, which would be of no use to children that are forked off, the process begins anew without.
    """
    capability = gpu_capability()
    if capability is None or TURNED_OFF in os.environ:
        return
    preload(capability)
    if has_started_cuda():
        print(f"importing {COMPILER} or {FLASH_4_BASE} started CUDA: each run imports them itself", file=sys.stderr)
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, TURNED_OFF: "1"})


def preload(capability: tuple[int, int]) -> None:
    """Imports torch's compiler, reads what its keys are made of, and imports what flash-attn-4 is built on where that is there.

    What is broken, or has another name, shows where it is used.
    """
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # torch.cuda.is_available() starts CUDA otherwise
    os.environ[FLASH_4_BASE_ARCHITECTURE] = "{}{}".format(*capability)
    with contextlib.suppress(Exception):
        importlib.import_module(COMPILER)
        torch._inductor.config.cpp_cache_precompile_headers = False  # their folder is chosen at import, and closed to runs
    for name in (*COMPILER_PARTS, *modules_of(COMPILER_PATTERNS)):
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    for name, key in COMPILER_KEYS:
        with contextlib.suppress(Exception):
            getattr(importlib.import_module(name), key)()
    if INSTALLED.issuperset(FLASH_4):
        with contextlib.suppress(Exception):
            importlib.import_module(FLASH_4_BASE)
    del os.environ[FLASH_4_BASE_ARCHITECTURE]
    gc.collect()
    gc.freeze()  # children's collections need not go through all that again


def modules_of(package: str) -> list[str]:
    """Names of the modules in a package; none where it isn't there."""
    spec = find_spec(package) if find_spec(package.partition(".")[0]) else None
    paths = spec.submodule_search_locations if spec else None
    return [module.name for module in pkgutil.iter_modules(paths, f"{package}.")] if paths else []


def has_started_cuda() -> bool:
    """Whether anything in this process has: torch knows only of itself. Starts nothing."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return int(driver.cuDeviceGetCount(ctypes.byref(ctypes.c_int()))) != CUDA_NOT_INITIALIZED
