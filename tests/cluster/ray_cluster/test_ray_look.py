"""What the Ray engine tells of a cluster, with a look at it that is played."""

import asyncio
from pathlib import Path

import pytest

from cluster.engine import Change
from cluster.hardware import Device
from cluster.ray_cluster import engine as ray_engine
from cluster.ray_cluster.engine import RayEngine


def test_a_node_that_goes_before_its_worker_was_told_of_joins_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Told the other way round, the dispatcher would go on serving a device that is gone."""
    device = Device(kind="cpu", index=0, name="played", memory_bytes=0, free_bytes=0, threads=1, node="gone")

    async def hired() -> Change:
        return Change(kind="joined", name=device.key, device=device)

    async def look() -> tuple[Change, ...]:
        monkeypatch.setattr(ray_engine, "join_cluster", lambda address, gpus, folder: None)
        monkeypatch.setattr(ray_engine, "alive_nodes", list)
        engine = RayEngine(terms=lambda device: pytest.fail("nobody is hired here"), runs_folder=tmp_path, kind="cpu")
        engine._workers[device.key] = ray_engine._Serving(actor=None, device=device, node_id="gone", data_folder="")
        engine._starting.append(("gone", asyncio.create_task(hired())))
        await asyncio.sleep(0)
        return await engine._look()

    assert [change.kind for change in asyncio.run(look())] == ["joined", "left"]
