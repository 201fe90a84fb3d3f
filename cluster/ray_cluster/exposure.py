"""Finds Ray's processes on this machine, and whether other machines could reach them. Doesn't import ray."""

import ipaddress
import os
from dataclasses import dataclass

import psutil

from cluster.ray_cluster.engine import cluster_here

CONTROL_STORE = "gcs_server"
"""The process that runs once on each cluster's head node."""


@dataclass(frozen=True, kw_only=True)
class OpenPort:
    """A port of Ray that other machines can reach."""

    port: int
    process: str


@dataclass(frozen=True, kw_only=True)
class RayHere:
    """Ray on this machine."""

    address: str | None
    """The address of the cluster that this machine is part of; None if none answers."""
    processes: int
    open_ports: tuple[OpenPort, ...]
    token: bool
    """Whether all head nodes here ask for a token; without a head node, whether this shell is set to use one."""


def look_at_ray() -> RayHere:
    """Ray on this machine, as far as this user may inspect its processes."""
    processes = [process for process in psutil.process_iter(["name", "cmdline"]) if _belongs_to_ray(process)]
    ports = {port for process in processes for port in _open_ports(process)}
    heads = [process for process in processes if process.info["name"] == CONTROL_STORE]
    modes = [_auth_mode(process) for process in heads] or [os.environ.get("RAY_AUTH_MODE", "")]
    return RayHere(
        address=cluster_here(),
        processes=len(processes),
        open_ports=tuple(sorted(ports, key=lambda port: port.port)),
        token=all(mode.lower() == "token" for mode in modes),
    )


def _belongs_to_ray(process: psutil.Process) -> bool:
    command = process.info["cmdline"] or []
    title = " ".join(command)
    return title.startswith("ray::") or any("/site-packages/ray/" in part for part in command[:3])


def _open_ports(process: psutil.Process) -> list[OpenPort]:
    try:
        connections = process.net_connections(kind="tcp")
    except psutil.Error:  # it has ended, or it is another user's
        return []
    listening = (connection.laddr for connection in connections if connection.status == psutil.CONN_LISTEN)
    name = _short_name(process)
    return [OpenPort(port=address.port, process=name) for address in listening if _reachable(address.ip)]


def _reachable(ip: str) -> bool:
    """Whether a socket that listens on this address can be reached from other machines."""
    address = ipaddress.ip_address(ip.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return not (mapped or address).is_loopback


def _short_name(process: psutil.Process) -> str:
    """The name that people know a process by: `gcs_server`, `dashboard`, `ray::NodeWorker`."""
    command = process.info["cmdline"] or [""]
    if command[0].startswith("ray::"):
        return str(command[0].split(" ")[0])
    script = next((part for part in command[:3] if "/site-packages/ray/" in part), command[0])
    return str(script.rpartition("/")[2].removesuffix(".py"))


def _auth_mode(process: psutil.Process) -> str:
    try:
        return str(process.environ().get("RAY_AUTH_MODE", ""))
    except psutil.Error:
        return ""
