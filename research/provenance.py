"""What a run was made with: versions that a score depends on."""

import platform

import torch


def software_versions() -> dict[str, str]:
    """Versions by name: a change of one asks for the baseline once more. `driver` is NVIDIA's, where there is one."""
    versions = {"python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda or "none"}
    driver = _driver_version()
    return versions if driver is None else {**versions, "driver": driver}


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
