"""Which engine a farm uses: this machine's devices, or a Ray cluster."""

import os
import socket
from collections.abc import Sequence

from cluster.farm_options import EngineKind
from cluster.hardware import Device, DeviceRequest, choose_devices
from research.errors import UserError
from research.formatting import shortened

NAMES_OF_CLUSTERS = ("auto", "local")
"""Addresses that name no host: Ray finds, or starts, these clusters itself."""

CONNECT_SECONDS = 5.0
"""How long the host of a cluster may take to accept a connection; Ray itself would try for minutes."""


def chosen_engine(name: str, request: DeviceRequest, found: Sequence[Device], address: str | None) -> EngineKind:
    """The engine that `--engine` names; `auto` is local for one device without a cluster, else ray.

    Raises UserError for options that exclude each other, and for the address of a cluster that can't be reached.
    """
    if name == "local":
        if address:
            raise UserError("--engine local uses no cluster: leave out --address, or use --engine ray.")
        return "local"
    given = address or os.environ.get("RAY_ADDRESS")
    if given:
        check_reachable(given)
    if name == "ray" or address or len(choose_devices(request, found)) > 1:
        return "ray"
    from cluster.ray_cluster.engine import cluster_here

    return "local" if cluster_here() is None else "ray"


def check_reachable(address: str) -> None:
    """Raises UserError for an address of a Ray cluster that isn't HOST:PORT, or at which nothing accepts a connection."""
    scheme, _, place = address.rpartition("://")
    if address in NAMES_OF_CLUSTERS or scheme not in ("", "ray"):
        return
    host, _, port = place.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or not 1 <= int(port) <= 65_535:
        raise UserError(
            f"{shortened(address, 80)} is not the address of a Ray cluster: give HOST:PORT, such as 10.0.0.1:6379, with a "
            "port from 1 to 65535."
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"No Ray cluster answers at {shortened(address, 80)} ({why}): start one with `ray start --head`, or correct "
            "the address (--address, else $RAY_ADDRESS)."
        ) from None
