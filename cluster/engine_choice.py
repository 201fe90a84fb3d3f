"""Which engine a farm uses: this machine's devices, or a Ray cluster."""

from collections.abc import Sequence

from cluster.farm_options import EngineKind
from cluster.hardware import Device, DeviceRequest, choose_devices
from research.errors import UserError


def chosen_engine(name: str, request: DeviceRequest, found: Sequence[Device], address: str | None) -> EngineKind:
    """The engine that `--engine` names; `auto` is local for one device without a cluster, else ray.

    Raises UserError for options that exclude each other.
    """
    if name == "local":
        if address:
            raise UserError("--engine local uses no cluster: leave out --address, or use --engine ray.")
        return "local"
    if name == "ray" or address or len(choose_devices(request, found)) > 1:
        return "ray"
    from cluster.ray_cluster.engine import cluster_here

    return "local" if cluster_here() is None else "ray"
