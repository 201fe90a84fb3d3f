import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cluster.home import Home, find_home, home_option
from cluster.local_api import silent_farm
from research.errors import UserError


def checkout(folder: Path) -> Path:
    (folder / "research").mkdir(parents=True)
    (folder / "research" / "train.py").touch()
    (folder / "program.md").touch()
    return folder


def test_where_the_home_is(tmp_path, monkeypatch):
    monkeypatch.delenv("FARM_HOME", raising=False)
    repo = checkout(tmp_path / "repo")
    assert find_home(start=repo / "research").folder == repo / "results" / "data"
    assert "autoresearch-farm" in str(find_home(start=tmp_path).folder)
    monkeypatch.setenv("FARM_HOME", str(tmp_path / "elsewhere"))
    assert find_home(start=repo).folder == tmp_path / "elsewhere"
    assert find_home(tmp_path / "override", start=repo).folder == tmp_path / "override"


def test_advice_names_the_home_where_it_would_not_be_found(tmp_path, monkeypatch):
    monkeypatch.delenv("FARM_HOME", raising=False)
    repo = checkout(tmp_path / "repo")
    monkeypatch.chdir(repo)
    assert home_option(find_home()) == ""
    assert home_option(Home(tmp_path / "my home")) == f" --home '{tmp_path / 'my home'}'"
    monkeypatch.setenv("FARM_HOME", str(tmp_path / "my home"))
    assert home_option(Home(tmp_path / "my home")) == ""
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert home_option(find_home()) != ""  # whoever reads a job's output is elsewhere


def test_a_second_farm_on_a_home_is_refused_by_name(tmp_path):
    home = Home(tmp_path)
    program = f"""
import sys
from pathlib import Path
from cluster.home import Home
with Home(Path({str(tmp_path)!r})).lock():
    print("held", flush=True)
    sys.stdin.read()
"""
    other = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=f"process {other.pid}"), home.lock():
        pass
    with pytest.raises(UserError, match=f"process {other.pid}"):
        home.check_free()
    assert f"process {other.pid}" in silent_farm(home)
    other.kill()
    other.communicate()
    home.check_free()
    assert home.holder() is None and silent_farm(home) == ""
    with home.lock():
        assert json.loads(home.lock_file.read_text())["pid"] == os.getpid()


def test_an_event_is_one_line(tmp_path):
    home = Home(tmp_path)
    home.log_event("verdict", decision="keep", gain=0.01)
    home.log_event("stop", path=tmp_path)
    lines = [json.loads(line) for line in home.log_file.read_text().splitlines()]
    assert [line["event"] for line in lines] == ["verdict", "stop"]
    assert lines[0]["gain"] == 0.01


def test_a_home_that_cannot_be_made_is_the_users_to_mend(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="choose another --home"):
        Home(tmp_path / "file" / "home").create()


@pytest.mark.parametrize("job", [{"runtime_env": {"working_dir": "gcs://_ray_pkg_1.zip"}, "metadata": {}}, "not even JSON"])
def test_a_jobs_home_is_not_in_its_working_folder(tmp_path, monkeypatch, job):
    monkeypatch.delenv("FARM_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", job if isinstance(job, str) else json.dumps(job))
    folder = checkout(tmp_path / "_ray_pkg_1")
    assert find_home(start=folder).folder == tmp_path / "user" / "autoresearch-farm"
    assert find_home("~/other", start=folder).folder == tmp_path / "user" / "other"
    monkeypatch.setenv("FARM_HOME", str(tmp_path / "elsewhere"))
    assert find_home(start=folder).folder == tmp_path / "elsewhere"


def test_a_job_in_a_checkout_that_stays_keeps_its_home_there(tmp_path, monkeypatch):
    monkeypatch.delenv("FARM_HOME", raising=False)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"runtime_env": {"env_vars": {}}, "metadata": {}}))
    folder = checkout(tmp_path / "repo")
    assert find_home(start=folder).folder == folder / "results" / "data"


def test_a_file_is_no_home(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("FARM_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match="--home"):
        find_home()


def test_a_look_at_the_lock_never_refuses_a_farm_that_starts(tmp_path):
    """`farm status` asked again and again while farms start."""
    home, looking = Home(tmp_path).create(), threading.Event()
    watcher = threading.Thread(target=lambda: [home.holder() for _ in iter(looking.is_set, True)])
    watcher.start()
    try:
        for _ in range(200):
            with home.lock():
                pass
    finally:
        looking.set()
        watcher.join()


def test_a_log_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    home = Home(tmp_path).create()
    home.log_file.mkdir()
    with pytest.raises(UserError, match=r"--home\.$"):
        home.log_event("verdict")
