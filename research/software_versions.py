"""The versions of the software that a score depends on."""

import importlib.metadata
import platform

import torch

from research.gpu_driver import driver_version

ATTENTION_PACKAGES = ("flash-attn-4", "flash-attn-3", "flash-attn")
"""Attention kernels that research/kernels/attention.py uses if they are installed."""


def software_versions() -> dict[str, str]:
    """Versions by name: python, torch, cuda, the attention packages that are installed, and NVIDIA's `driver` if there is one.

    When one changes, a branch runs its baseline again.
    """
    versions = {"python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda or "none"}
    versions |= {name: version for name in ATTENTION_PACKAGES if (version := _package_version(name)) is not None}
    driver = driver_version()
    return versions if driver is None else {**versions, "driver": driver}


def _package_version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
