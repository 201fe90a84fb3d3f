"""What the doctor says of Ray, from real processes and real sockets."""

import os
import subprocess
import sys
from pathlib import Path

from cluster import doctor
from cluster.ray_cluster.exposure import OpenPort, RayHere, look_at_ray

LISTENER = """
import socket, sys
everywhere, here = socket.socket(), socket.socket(socket.AF_INET6)
everywhere.bind(("0.0.0.0", 0))
here.bind(("::1", 0))
everywhere.listen()
here.listen()
print(everywhere.getsockname()[1], here.getsockname()[1], flush=True)
sys.stdin.read()
"""


def test_a_port_that_others_may_reach_is_found(tmp_path: Path) -> None:
    script = tmp_path / "site-packages" / "ray" / "listener.py"
    script.parent.mkdir(parents=True)
    script.write_text(LISTENER)
    process = subprocess.Popen([sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        everywhere, here = map(int, process.stdout.readline().split())
        ray = look_at_ray()
        assert OpenPort(port=everywhere, process="listener") in ray.open_ports
        assert here not in [port.port for port in ray.open_ports]
        assert ray.processes >= 1
    finally:
        process.communicate("")


def checks_of(monkeypatch, **changes: object) -> dict[str, doctor.Check]:
    values = {"address": "10.0.0.1:6379", "processes": 9, "open_ports": (), "token": True}
    monkeypatch.setattr(doctor, "look_at_ray", lambda: RayHere(**{**values, **changes}))
    return {check.name: check for check in doctor._ray()}


def test_what_the_doctor_says(monkeypatch) -> None:
    assert {check.state for check in checks_of(monkeypatch).values()} == {"ok"}
    assert list(checks_of(monkeypatch, address=None, processes=0)) == ["ray"]
    ports = checks_of(monkeypatch, open_ports=(OpenPort(port=6379, process="gcs_server"),))["ray ports"]
    assert (ports.state, "6379 (gcs_server)" in ports.found) == ("warn", True)
    assert "--node-ip-address=127.0.0.1" in ports.cure
    token = checks_of(monkeypatch, token=False)["ray token"]
    assert (token.state, "RAY_AUTH_MODE=token" in token.cure) == ("warn", True)
    assert "user of this machine" in token.found


def test_without_ray_the_shell_decides(monkeypatch) -> None:
    monkeypatch.setattr("cluster.ray_cluster.exposure.psutil.process_iter", lambda names: iter(()))
    monkeypatch.setattr("cluster.ray_cluster.exposure.cluster_here", lambda: None)
    monkeypatch.setitem(os.environ, "RAY_AUTH_MODE", "token")
    assert look_at_ray() == RayHere(address=None, processes=0, open_ports=(), token=True)
