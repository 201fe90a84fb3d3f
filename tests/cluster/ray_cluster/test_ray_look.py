"""What the Ray engine tells of a cluster, with a look at it that is played."""

import asyncio
import socket
from pathlib import Path
from typing import Any, cast

import pytest
from ray.job_submission import JobStatus

from cluster.engine import Change
from cluster.hardware import Device
from cluster.ray_cluster import engine as ray_engine
from cluster.ray_cluster.engine import RayEngine
from cluster.ray_cluster.jobs import Jobs, told
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


@pytest.mark.parametrize(("kind", "names"), [("cpu", "--num-cpus"), ("cuda", "--num-gpus")])
def test_a_cluster_that_has_nothing_to_give_is_told_of_once_with_the_cure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: Any, names: str
) -> None:
    monkeypatch.setattr(ray_engine, "join_cluster", lambda address, gpus, folder: None)
    monkeypatch.setattr(ray_engine, "alive_nodes", lambda: [ray_engine._Node(id="a", name="bare", gpus=0, cpus=0)])
    engine = RayEngine(terms=lambda device: pytest.fail("nobody is hired here"), runs_folder=tmp_path, kind=kind)

    async def looks() -> None:
        for _ in range(3):
            assert await engine._look() == ()

    asyncio.run(looks())
    assert len(caplog.records) == 1 and names in caplog.text and engine._starting == []


def test_all_of_rays_message_about_versions_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import ray

    def refuse(**settings: Any) -> None:
        of_cluster = "Version mismatch: The cluster was started with:\n    Ray: 2.9.0\n    Python: 3.10.1\n"
        raise RuntimeError(of_cluster + "This process was started with:\n    Ray: 2.60.0\n    Python: 3.12.2\n")

    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setattr(ray_engine, "inside_job", lambda: True)
    with pytest.raises(UserError) as told:
        ray_engine.join_cluster("10.0.0.1:6379", None, tmp_path)
    assert all(part in str(told.value) for part in ("2.9.0", "3.10.1", "2.60.0", "3.12.2")) and "\n" not in str(told.value)


@pytest.mark.parametrize(("said", "expected"), [
    ("Request failed with status code 500: Traceback:\n  line\nRuntimeError: no raylet\n.", "RuntimeError: no raylet"),
    ("Request failed with status code 500: \n.", "ray status"),
    ("", "RuntimeError"),
])  # fmt: skip
def test_what_ray_refuses_is_told_in_words(said: str, expected: str) -> None:
    assert expected in told(RuntimeError(said))


def test_a_job_that_fails_at_once_is_a_failure() -> None:
    played = ["PENDING", "RUNNING", "FAILED"]

    class Client:
        def get_job_status(self, job: str) -> JobStatus:
            return JobStatus(played.pop(0) if len(played) > 1 else played[0])

        def get_job_logs(self, job: str) -> str:
            return "Traceback\n  one\nModuleNotFoundError: No module named 'cluster'\n\n"

    jobs = object.__new__(Jobs)
    jobs.address, jobs._client = "http://127.0.0.1:1", Client()
    assert jobs.failed_at_once("job") == "ModuleNotFoundError: No module named 'cluster'"
    played[:] = ["SUCCEEDED"]
    assert jobs.failed_at_once("job") is None
