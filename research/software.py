"""What a run was made with: versions that a score depends on."""

import importlib.metadata
import platform

import torch

KERNEL_PACKAGES = ("flash-attn-4", "flash-attn-3", "flash-attn")
"""Kernels of attention that research/kernels/attention.py takes where they are installed."""


def software_versions() -> dict[str, str]:
    """Versions by name: a change of one asks for the baseline once more. `driver` is NVIDIA's, where there is one."""
    versions = {"python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda or "none"}
    versions |= {name: version for name in KERNEL_PACKAGES if (version := _version_of(name)) is not None}
    driver = _driver_version()
    return versions if driver is None else {**versions, "driver": driver}


def _version_of(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _driver_version() -> str | None:
    import pynvml

    try:
        pynvml.nvmlInit()
        try:
            return str(pynvml.nvmlSystemGetDriverVersion())
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return None
