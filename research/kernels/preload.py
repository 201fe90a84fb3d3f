"""Imports the modules that every run on a GPU needs, which take many seconds, once: in the process that forks the children."""

import contextlib
import ctypes
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
"""Modules that the compiler imports when it is first used."""

COMPILER_PATTERNS = "torch._inductor.fx_passes.serialized_patterns"
"""Package whose modules the compiler imports one by one."""

COMPILER_KEYS = (("torch._inductor.codecache", "torch_key"), ("torch._inductor.runtime.triton_compat", "triton_key"))
"""Functions, as (module, name), that hash the compiler's own files for its cache keys, and remember the hash."""

FLASH_4_BASE = "quack"
"""Package that flash-attn-4 is built on; it takes most of the import time. flash_attn.cute itself is not preloaded: it reads at
import where its compile cache is, which differs between runs."""

FLASH_4_BASE_ARCH_VARIABLE = "QUACK_ARCH"
"""Environment variable that names the GPU architecture, so that the package need not initialise CUDA to find it."""

OFF_VARIABLE = "AUTORESEARCH_PRELOADING_OFF"
"""Environment variable of a process that must not preload."""

CUDA_NOT_INITIALIZED = 3


def preload_for_gpu() -> None:
    """Preloads for the GPU that is visible to this process; does nothing without an NVIDIA GPU.

    If an import initialised CUDA, which forked children could not use, the process restarts itself without preloading.
    """
    capability = gpu_capability()
    if capability is None or OFF_VARIABLE in os.environ:
        return
    preload(capability)
    if has_initialised_cuda():
        print(f"importing {COMPILER} or {FLASH_4_BASE} initialised CUDA: each run imports them itself", file=sys.stderr)
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, OFF_VARIABLE: "1"})


def preload(capability: tuple[int, int]) -> None:
    """Imports torch's compiler, computes its cache keys, and imports the package that flash-attn-4 is built on, if installed.

    Errors are suppressed: a run that uses a module that can't be imported reports it.
    """
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # else torch.cuda.is_available() initialises CUDA
    os.environ[FLASH_4_BASE_ARCH_VARIABLE] = "{}{}".format(*capability)
    with contextlib.suppress(Exception):
        importlib.import_module(COMPILER)
        torch._inductor.config.cpp_cache_precompile_headers = False  # at import it chooses a folder that runs can't write to
    for name in (*COMPILER_PARTS, *modules_of(COMPILER_PATTERNS)):
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    for name, key in COMPILER_KEYS:
        with contextlib.suppress(Exception):
            getattr(importlib.import_module(name), key)()
    if INSTALLED.issuperset(FLASH_4):
        with contextlib.suppress(Exception):
            importlib.import_module(FLASH_4_BASE)
    del os.environ[FLASH_4_BASE_ARCH_VARIABLE]


def modules_of(package: str) -> list[str]:
    """Names of the modules in a package; empty if it isn't installed."""
    spec = find_spec(package) if find_spec(package.partition(".")[0]) else None
    paths = spec.submodule_search_locations if spec else None
    return [module.name for module in pkgutil.iter_modules(paths, f"{package}.")] if paths else []


def has_initialised_cuda() -> bool:
    """Whether anything in this process has initialised CUDA, not only torch. The check itself initialises nothing."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return int(driver.cuDeviceGetCount(ctypes.byref(ctypes.c_int()))) != CUDA_NOT_INITIALIZED
