"""farm submit before anything is sent: the job's command line, what is packed, and what is refused."""

import argparse
import http.server
import os
import shlex
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent.repo.repository import make_repository
from agent.researchers.make import CLAUDE_GATEWAY, CLAUDE_KEYS
from cluster.cli import main
from cluster.command_parser import make_parser
from cluster.commands.cluster import jobs_at
from cluster.home import Home
from cluster.ray_cluster import checkout_zip as working_folder
from cluster.ray_cluster.checkout_zip import sent_files, zip_checkout
from cluster.ray_cluster.jobs import dashboard_address
from cluster.ray_cluster.submit import OWN_OPTIONS, about_edits, entrypoint, key_for, what_next
from research.errors import UserError

FILES = {"research/train.py": "DEPTH = 4\n", "program.md": "policy\n", ".gitignore": "*.secret\n", "results/store.py": "\n"}


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "checkout"
    make_repository(folder, FILES)
    monkeypatch.chdir(folder)
    for name in ("FARM_HOME", "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def web_server() -> Iterator[str]:
    """Something that answers HTTP and is no Ray."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_the_jobs_command_line_is_that_of_farm_run() -> None:
    """Quoted for a shell and parsed again, it is what was asked for; `~` is left to the driver's node."""
    asked = ["--tag", "t", "--researcher", "command:claude -p 'a b' $HOME", "--max-cost", "2.5", "--samples", "--loops", "3"]
    asked += ["--no-start-ahead"]
    line = entrypoint(make_parser().parse_args(["submit", *asked, "--follow"]), "~/autoresearch-farm")
    words = shlex.split(line)
    assert words[:3] == ["python3", "-m", "cluster.cli"]
    assert "'--home=~/autoresearch-farm'" in line
    run = vars(make_parser().parse_args(words[3:]))
    assert run == vars(make_parser().parse_args(["run", "--engine", "ray", "--home", "~/autoresearch-farm", *asked]))


@pytest.mark.parametrize("address", ["foo bar", "http://foo:port", "http://foo:99999", "ftp://foo", "http://"])
def test_what_is_no_address_is_said_to_be_none(address: str) -> None:
    with pytest.raises(UserError, match="is not the address of a dashboard"):
        dashboard_address(address)


def test_a_home_that_is_nowhere_is_named_beside_the_cluster_that_does_not_answer(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere is no folder on this machine.* No Ray answers"):
        jobs_at("http://127.0.0.1:1", missing=Home(tmp_path / "nowhere"))


def test_submit_takes_all_that_run_takes() -> None:
    run, submit = (vars(make_parser().parse_args([command])) for command in ("run", "submit"))
    here = {"dashboard", "track"}  # pages are for a browser on the same machine, as are a tracker's client and its key
    assert set(run) - {"engine"} - here == set(submit) - {"follow"}
    assert set(OWN_OPTIONS) <= set(submit)


def test_the_key_goes_only_where_it_is_needed_and_is_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-secret")
    assert key_for("search") == ({}, []) == key_for("scripted:ideas.json")
    for researcher in ("claude", "command:agent -p"):
        environment, lines = key_for(researcher)
        assert environment == {"ANTHROPIC_API_KEY": "sk-secret"}
        assert "dashboard can read it" in lines[0]
        assert "sk-secret" not in "".join(lines)
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    assert key_for("claude")[0] == {}
    assert "set here" in key_for("claude")[1][0] and "node's" in key_for("claude")[1][0]


def test_a_coding_agent_gets_its_own_keys_and_a_mix_those_of_its_members(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL", "CODEX_API_KEY", "GOOGLE_API_KEY", "CLAUDE_CODE_OAUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name in ("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.setenv(name, "sk-secret")
    assert set(key_for("codex")[0]) == {"OPENAI_API_KEY"} and set(key_for("claude-code")[0]) == {"ANTHROPIC_API_KEY"}
    assert set(key_for("search:1,claude:1,gemini:2")[0]) == {"ANTHROPIC_API_KEY", "GEMINI_API_KEY"}
    assert len(key_for("pi")[0]) == 3


@pytest.mark.parametrize("key", ["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"])
def test_a_gateways_key_never_goes_to_the_public_address(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The address travels with the key, whichever of the two it is; without a key it doesn't."""
    for name in CLAUDE_KEYS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(CLAUDE_GATEWAY, "http://gateway.example:4000")
    assert key_for("claude")[0] == {}
    monkeypatch.setenv(key, "sk-secret")
    environment, lines = key_for("claude")
    assert environment == {key: "sk-secret", CLAUDE_GATEWAY: "http://gateway.example:4000"}
    assert "gateway.example" in lines[1] and "this machine" not in lines[1] and "sk-secret" not in "".join(lines)
    monkeypatch.setenv(CLAUDE_GATEWAY, "http://127.0.0.1:4000")
    assert "not this machine" in key_for("claude")[1][1]


def test_what_is_told_after_a_submit_names_the_home_and_the_token() -> None:
    jobs: Any = SimpleNamespace(address="http://head:8265", token_found=True)
    told = what_next("job1", "~/x", jobs)
    assert "farm fetch --home '~/x' --address http://head:8265" in told[-1]
    assert "RAY_AUTH_MODE=token " in told[2] and "ray job stop job1" in told[2]


def test_what_is_sent_is_what_git_would_take(checkout: Path) -> None:
    (checkout / "my.secret").write_text("token\n")
    (checkout / "new.py").write_text("\n")
    (checkout / "results" / "data").mkdir()
    (checkout / "results" / "data" / "journal.jsonl").write_text("\n")
    (checkout / "outside").symlink_to("/etc/passwd")
    (checkout / "program.md").unlink()
    assert sent_files(checkout) == [".gitignore", "new.py", "research/train.py", "results/store.py"]
    assert about_edits(checkout) == []
    (checkout / "research" / "train.py").write_text("DEPTH = 5\n")
    assert "uncommitted edits" in about_edits(checkout)[0]


def test_a_folder_that_git_does_not_know_is_sent_without_state_and_caches(tmp_path: Path) -> None:
    for name in (*FILES, ".venv/bin/python", "results/data/journal.jsonl", "research/__pycache__/x.pyc"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert sent_files(tmp_path) == sorted(FILES)
    (told,) = about_edits(tmp_path)
    assert "uncommitted" not in told and "edits included" in told and "git init" in told


def test_the_same_files_give_the_same_zip(checkout: Path, tmp_path: Path) -> None:
    zip_checkout(checkout, tmp_path / "1.zip")
    os.utime(checkout / "program.md", (0, 0))
    zip_checkout(checkout, tmp_path / "2.zip")
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()
    assert zipfile.ZipFile(tmp_path / "1.zip").read("research/train.py") == b"DEPTH = 4\n"


def test_a_checkout_that_is_too_large_is_named_with_its_file(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(working_folder, "LARGEST_ZIP", 3_000_000)
    (checkout / "data.bin").write_bytes(os.urandom(5_000_000))
    with pytest.raises(UserError, match=r"too large to send: more than 3.0 MB packed, with data.bin"):
        zip_checkout(checkout, tmp_path / "checkout.zip")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--address", "http://127.0.0.1:1"], "No Ray answers at http://127.0.0.1:1: start one ("),
        (["--address", "127.0.0.1:1"], "No Ray answers at http://127.0.0.1:1:"),
        (["--address", "ray://127.0.0.1:1"], "not the address of a dashboard"),
        (["--home", "results/data"], "begins with / or ~/"),
        (["--home", "~other/x"], "begins with / or ~/"),
        (["--cache", "cache"], "--cache cache"),
        (["--researcher", "oracle"], "oracle"),
    ],
)
def test_what_the_user_can_mend_is_one_line(
    checkout: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert main(["submit", *arguments]) == 2
    error = capsys.readouterr().err
    assert (error.startswith("farm: "), error.count("\n")) == (True, 1)
    assert says in error


def test_something_that_is_no_ray_is_said_to_be_none(
    checkout: Path, web_server: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")  # put back afterwards: the command sets it
    assert main(["submit", "--address", web_server]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"farm: What answers at {web_server} is not a Ray dashboard")


def test_a_folder_that_is_no_checkout_cannot_be_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no checkout here"):
        from cluster.commands.cluster import submit

        submit(argparse.Namespace(**vars(make_parser().parse_args(["submit"]))))


def test_where_the_dashboard_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    assert dashboard_address(None) == "http://127.0.0.1:8265"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")  # Ray's own port, no dashboard
    assert dashboard_address(None) == "http://127.0.0.1:8265"
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265/")
    assert dashboard_address(None) == "http://head:8265"
    assert dashboard_address("https://other:1") == "https://other:1"


def test_a_proxy_in_the_environment_is_not_asked_for_this_machine(
    checkout: Path, web_server: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy here refuses all connections, so that whatever is sent to it is said to be unreachable."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.setenv(name, "example.org" if "proxy" in name.lower() else "")
    assert main(["submit", "--address", web_server]) == 2
    assert f"What answers at {web_server} is not a Ray dashboard" in capsys.readouterr().err
    assert os.environ["NO_PROXY"].startswith("example.org,")
