"""What a farm was asked to do."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cluster.hardware import Device, DeviceKind
from cluster.home import Home
from research.profiles import Recipe
from research.result import SandboxMode
from results.verdict import Rule

EngineKind = Literal["local", "ray"]


@dataclass(frozen=True, kw_only=True)
class FarmOptions:
    """What the command line asks for. None: the profile's or the hardware's own."""

    repo: Path
    """The git repository that gets the branches."""
    home: Home
    cache: Path
    tag: str
    researcher: str
    """A name that `agent.researchers.make` knows."""
    profile: str | None = None
    recipe: Recipe | None = None
    """Where new branches start from; None: from train.py as it is, under its profile."""
    budget: float | None = None
    """Seconds of training."""
    source: str | None = None
    num_shards: int | None = None
    devices: tuple[Device, ...]
    """Of this machine: what the local engine uses."""
    engine: EngineKind = "local"
    device_kind: DeviceKind | None = None
    """What a Ray cluster's workers use; None: GPUs where the cluster has any."""
    gpu_indices: tuple[int, ...] | None = None
    """GPUs that a Ray cluster of one's own may use; None: all."""
    cache_asked_for: str | None = None
    """As the user named it, for nodes whose default lies elsewhere."""
    address: str | None = None
    """Of a running Ray cluster."""
    loops: int | None = None
    """In all; None: one per device."""
    experiments: int | None = None
    """Per loop, on its branch; None: until stopped."""
    hours: float | None = None
    """After these no new experiment begins."""
    max_cost: float | None = None
    """US dollars for the researcher."""
    model: str | None = None
    dirty: bool = False
    """Start from uncommitted edits of train.py too."""
    samples: bool = False
    """Keep the model of every kept run, for `farm sample`."""
    start_ahead: bool = True
    """While a GPU scores a run, start the processes of the one that will probably be next."""
    rule: Rule = "noise"
    sandbox: SandboxMode = "auto"
    gpu_memory_bytes: int | None = None
    """Of each GPU, for runs on it; `devices` are limited to it already."""
    baseline_runs: int = 2
