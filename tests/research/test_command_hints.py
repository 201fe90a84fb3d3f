"""A hint names a command as its reader can type it."""

import sys
from pathlib import Path

import pytest

from research.command_hints import to_type
from research.files import research_folder

PROJECT = research_folder().parent
SCRIPTS = Path(sys.executable).parent


@pytest.fixture
def bin_folder(tmp_path: Path) -> Path:
    """A folder with programs of another environment: uv, and somebody else's farm."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("uv", "farm"):
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
    return folder


def test_whoever_started_it_by_uv_can_type_that(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """uv puts its environment first on the PATH, so that the PATH alone would say otherwise."""
    started = {"PATH": str(SCRIPTS), "UV_RUN_RECURSION_DEPTH": "1"}
    monkeypatch.chdir(PROJECT)
    assert to_type("farm stop --home x", environment=started) == "uv run farm stop --home x"
    assert to_type("ray job stop 7", environment=started) == "uv run ray job stop 7"
    assert to_type("farm run", environment={"PATH": str(SCRIPTS), "UV": "/bin/uv"}) == "uv run farm run"
    assert to_type("uv sync --extra wandb", environment=started) == "uv sync --extra wandb"
    monkeypatch.chdir(tmp_path)
    assert to_type("uv sync", environment=started) == f"uv sync --project {PROJECT}"
    assert to_type("farm stop", environment=started) == f"uv run --project {PROJECT} farm stop"


def test_an_activated_environment_needs_no_uv() -> None:
    assert to_type("farm stop", environment={"PATH": f"/nowhere:{SCRIPTS}"}) == "farm stop"


def test_another_environments_farm_is_not_meant(bin_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    monkeypatch.setattr("sys.argv", ["farm"])
    assert to_type("farm stop", environment={"PATH": str(bin_folder)}) == "uv run farm stop"
    (bin_folder / "uv").unlink()
    assert to_type("farm stop", environment={"PATH": str(bin_folder)}) == f"{SCRIPTS / 'farm'} stop"
