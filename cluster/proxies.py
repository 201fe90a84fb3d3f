"""Proxies in the environment, which libraries would also use to reach this machine itself."""

import os
from collections.abc import Mapping, MutableMapping

PROXIES = ("http_proxy", "https_proxy", "all_proxy")
EXCEPTIONS = ("no_proxy", "NO_PROXY")
"""The environment variables that name the hosts to reach without a proxy; libraries differ in which they read."""

LOOPBACK = ("localhost", "127.0.0.1", "::1")


def reach_directly(*hosts: str, environment: MutableMapping[str, str] = os.environ) -> None:
    """Lets this process, and what it starts, reach `hosts` without the proxies in the environment, if there are any."""
    if not uses_proxies(environment):
        return
    known = next(filter(None, map(environment.get, EXCEPTIONS)), "")
    listed = [host.strip() for host in known.split(",") if host.strip()]
    if "*" not in listed:
        environment.update(dict.fromkeys(EXCEPTIONS, ",".join(dict.fromkeys([*listed, *hosts]))))


def uses_proxies(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the environment names a proxy."""
    return any(environment.get(name) or environment.get(name.upper()) for name in PROXIES)
