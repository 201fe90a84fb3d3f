"""What every run on a GPU imports for many seconds: imported once, in the process that its children are forked off."""

import contextlib
import gc
import importlib
import os

import torch

from research.attention import FLASH_4, INSTALLED
from research.supervision import gpu_capability

COMPILER = "torch._inductor.compile_fx"

FLASH_4_BASE = "quack"
"""What flash-attn-4 is built on, and most of its import. Not flash_attn.cute: that reads at import where it may keep what it
compiles, and every run has a folder of its own."""

FLASH_4_BASE_ARCHITECTURE = "QUACK_ARCH"
"""Tells it what GPU there is; it would start CUDA to find out."""


def preload_for_gpu() -> None:
    """Preloads for the GPU that this process sees; nothing without one of NVIDIA's."""
    capability = gpu_capability()
    if capability is not None:
        preload(capability)


def preload(capability: tuple[int, int]) -> None:
    """Imports torch's compiler, and what flash-attn-4 is built on where that is there.

    Raises RuntimeError where one of them has started CUDA: children that are forked off this process could not use it.
    """
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # torch.cuda.is_available() starts CUDA otherwise
    before = set(os.environ)
    os.environ[FLASH_4_BASE_ARCHITECTURE] = "{}{}".format(*capability)
    importlib.import_module(COMPILER)
    if INSTALLED.issuperset(FLASH_4):
        with contextlib.suppress(Exception):  # a package that is broken shows where it is used
            importlib.import_module(FLASH_4_BASE)
    for name in set(os.environ) - before:  # the compiler notes there where it keeps what it compiles
        del os.environ[name]
    torch._inductor.config.cpp_cache_precompile_headers = False  # they would go to a folder chosen at import, closed to runs
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        raise RuntimeError(f"importing {COMPILER} or {FLASH_4_BASE} has started CUDA: no run could be forked off this process")
    gc.collect()
    gc.freeze()  # children's collections need not go through all that again
