"""What the Ray engine tells of a cluster, with a look at it that is played."""

import asyncio
import socket
from pathlib import Path
from typing import Any, cast

import pytest

from cluster.engine import Change
from cluster.hardware import Device
from cluster.ray_cluster import engine as ray_engine
from cluster.ray_cluster.engine import RayEngine
from cluster.ray_cluster.own_cluster import OwnCluster
from research.errors import UserError


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


def test_an_own_cluster_that_is_gone_is_one_line_and_is_asked_for_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Ray itself would wait for a minute and then end the farm's process."""
    ended: list[bool] = []
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
    own = OwnCluster(address, cast(Any, None))
    monkeypatch.setattr(own, "end", lambda: ended.append(True))
    monkeypatch.setattr(ray_engine, "join_cluster", lambda address, gpus, folder: own)
    monkeypatch.setattr(ray_engine, "alive_nodes", lambda: pytest.fail("it is asked"))

    async def look() -> None:
        engine = RayEngine(terms=lambda device: pytest.fail("nobody is hired here"), runs_folder=tmp_path, kind="cpu")
        engine._workers["gone"] = ray_engine._Serving(actor=None, device=cast(Any, None), node_id="gone", data_folder="")
        try:
            await engine._look()
        finally:
            await engine.close()

    with pytest.raises(UserError, match="same command resumes"):
        asyncio.run(look())
    assert ended == [True]


def test_a_cluster_that_answers_is_not_dead() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        own = OwnCluster(f"127.0.0.1:{server.getsockname()[1]}", cast(Any, None))
        assert not own.is_dead()
    assert own.is_dead()
