"""The doctor looks at the real machine, and at the sandbox of four kinds of host."""

import importlib.metadata
import subprocess
from pathlib import Path

import pytest

from agent.researchers.containment import Containment
from cluster import doctor
from cluster.cli import main
from cluster.doctor import CURES, NO_LINUX, check_lines, examine, layers_here, lines_before_runs, sandbox_findings
from cluster.home import Home
from research.errors import UserError
from research.sandbox.layers import NO_LAYERS, Layers
from tests.agent.researchers.agent_stand_ins import install
from tests.cluster.farm_samples import CPU, gpu


def test_every_problem_has_a_cure(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "PACKAGES", ("json",))  # importing all of them takes seconds
    checks = list(examine(Home(tmp_path / "home"), tmp_path / "cache", [CPU]))
    named = {check.name: check for check in checks}
    assert named["torch"].state == "ok"
    assert named["data"].state == "warn"
    assert "farm prepare --profile cpu" in named["data"].cure
    assert all(check.cure for check in checks if check.state != "ok")
    lines = "\n".join(check_lines(checks))
    assert "farm prepare --profile cpu" in lines


def test_a_package_that_is_missing_or_broken_is_named_whether_it_is_imported_or_found(tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text("raise RuntimeError('half installed')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(doctor, "PACKAGES", ("json", "?csv", "absent", "?nowhere", "broken"))
    check = doctor._packages()
    assert check.state == "missing" and "json" not in check.found and "csv" not in check.found
    assert "absent: No module" in check.found and "nowhere: No module" in check.found and "half installed" in check.found


def test_each_coding_agent_that_is_installed_is_named_with_its_version(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (none,) = doctor._coding_agents()
    assert (none.state, "npm install" in none.cure) == ("warn", True)
    for program, prints in (("claude", "2.1.197 (Claude Code)"), ("codex", "codex-cli 0.171.0")):
        install(tmp_path, program, prints, does="")
    found = {check.name: check.found for check in doctor._coding_agents()}
    assert set(found) == {"claude-code", "codex"}
    assert "2.1.197" in found["claude-code"] and "--researcher claude-code" in found["claude-code"]
    assert "0.171.0" in found["codex"]


def test_each_line_is_printed_as_soon_as_it_is_known(monkeypatch, capsys):
    """Into a pipe as well: a check that hangs is otherwise all that one sees of the others."""
    printed = []

    def slow(devices):
        printed.append(capsys.readouterr().out)
        return doctor.Check(name="torch", state="ok", found="at last")

    monkeypatch.setattr(doctor, "_torch", slow)
    monkeypatch.setattr(doctor, "_packages", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(["doctor", "--devices", "cpu"]) == 130
    assert "Python" in printed[0] or "python" in printed[0]
    assert "at last" in capsys.readouterr().out


def test_a_gpu_that_torch_cannot_use_is_missing(monkeypatch):
    answer = '{"version": "2.14", "cuda": null, "available": false, "mps": false}\n'
    monkeypatch.setattr(
        doctor.subprocess, "run", lambda *args, **kwargs: subprocess.CompletedProcess(args, 0, stdout=answer, stderr="")
    )
    check = doctor._torch([gpu()])
    assert (check.state, "it can't use the GPU" in check.found) == ("missing", True)


def test_a_torch_that_does_not_load_is_missing(monkeypatch):
    monkeypatch.setattr(doctor, "TORCH_PROBE", "raise ImportError('libcudart is gone')")
    check = doctor._torch([CPU])
    assert (check.state, "libcudart is gone" in check.found) == ("missing", True)


HOPPER, AMPERE, CONSUMER, UNKNOWN = (gpu(i, capability=c) for i, c in enumerate([(9, 0), (8, 6), (12, 0), None]))


@pytest.mark.parametrize(
    ("devices", "installed", "states"),
    [
        ([CPU], {}, {}),
        ([HOPPER], {}, {"flash-attn-4": "warn"}),
        ([HOPPER], {"flash-attn-4": "4.0"}, {"flash-attn-4": "ok"}),
        ([gpu(capability=(10, 0))], {"flash-attn": "2.8"}, {"flash-attn-4": "warn"}),
        ([AMPERE], {"flash-attn-4": "4.0"}, {"flash-attn": "warn"}),
        ([HOPPER, AMPERE], {"flash-attn": "2.8"}, {"flash-attn-4": "warn", "flash-attn": "ok"}),
        ([CONSUMER, UNKNOWN], {}, {"flash-attn": "warn"}),
    ],
)
def test_the_kernels_that_a_gpu_is_fastest_with_are_looked_for(devices, installed, states, monkeypatch):
    def version(package):
        if package not in installed:
            raise importlib.metadata.PackageNotFoundError(package)
        return installed[package]

    monkeypatch.setattr(doctor.importlib.metadata, "version", version)
    checks = doctor._flash_attention(devices)
    assert {check.name: check.state for check in checks} == states
    for check in checks:
        assert f"{check.name} " in check_lines([check])[0]
        assert check.state == "ok" or "uv sync --extra " + {"flash-attn-4": "hopper"}.get(check.name, "flash") in check.cure


WHOLE = Layers(identity=True, namespaces=True, landlock=7, seccomp=True)


def test_on_a_host_that_has_everything() -> None:
    [(name, found, cure)] = sandbox_findings(WHOLE)
    assert (name, cure) == ("sandbox", "")
    for layer in ("identity", "namespaces", "landlock 7", "seccomp", "no capabilities", "no new privileges"):
        assert layer in found


@pytest.mark.parametrize(
    ("layers", "layer", "cure"),
    [
        (Layers(identity=False, namespaces=False, landlock=7, seccomp=True, problems={"namespaces": "unshare: Operation not "
         "permitted"}), "no namespaces", "sysctl -w user.max_user_namespaces"),
        (Layers(identity=True, namespaces=True, landlock=0, seccomp=True, problems={"landlock": "the kernel has none"}),
         "no landlock", "lsm="),
    ],
    ids=["without user namespaces", "without Landlock"],
)  # fmt: skip
def test_on_a_host_that_lacks_a_layer(layers: Layers, layer: str, cure: str) -> None:
    first, second = sandbox_findings(layers)
    assert first[0] == "sandbox" and layer.removeprefix("no ") not in first[1]
    assert second[0] == layer and second[1] == next(iter(layers.problems.values())) and cure in second[2]


def test_on_a_mac() -> None:
    [(name, found, cure)] = sandbox_findings(NO_LAYERS)
    assert (name, cure) == ("sandbox", NO_LINUX) and "no other layer" in found


def test_here_each_missing_layer_has_a_cure() -> None:
    layers = layers_here()
    assert set(layers.problems) <= set(CURES)
    assert len(sandbox_findings(layers)) == 1 + len(layers.problems)


def test_what_is_missing_is_said_before_runs_begin() -> None:
    partial = Layers(identity=True, namespaces=False, landlock=7, seccomp=True, problems={"namespaces": "not permitted"})
    assert lines_before_runs("auto", WHOLE) == lines_before_runs("strict", WHOLE) == []
    [line] = lines_before_runs("auto", partial)
    assert "no namespaces" in line and "farm doctor" in line
    assert lines_before_runs("auto", NO_LAYERS) == [f"no sandbox here: {NO_LINUX}"]
    assert "your own rights" in lines_before_runs("off", WHOLE)[0]
    with pytest.raises(UserError, match=r"no namespaces.*--sandbox strict"):
        lines_before_runs("strict", partial)


@pytest.mark.parametrize("place", ["/proc/self/x", "/dev/null/x", "/etc/hostname"])
def test_a_folder_that_cannot_be_written_is_found_by_writing(tmp_path, place):
    """The system's own files say who is asked: even root can't write there."""
    assert doctor._disk("cache", tmp_path / "not" / "there").state == "ok"
    assert list(tmp_path.iterdir()) == []
    check = doctor._disk("cache", Path(place))
    assert check.state == "missing" and "can't be written" in check.found and "--cache" in check.cure


def test_a_machine_without_a_home_folder_is_examined_all_the_same(tmp_path, monkeypatch):
    for name in ("_torch", "_packages"):
        monkeypatch.setattr(doctor, name, lambda *_: doctor.Check(name="x", state="ok", found=""))
    checks = list(examine(Home(tmp_path), UserError("~/.cache needs a home folder: give --cache FOLDER."), [CPU]))
    [cache] = [check for check in checks if check.name == "cache"]
    assert (cache.state, "--cache FOLDER" in cache.cure) == ("missing", True)
    assert {"git", "home", "sandbox"} <= {check.name for check in checks}


def test_a_package_that_does_not_load_is_named(monkeypatch):
    monkeypatch.setattr(doctor, "PACKAGES", ("json", "numpi"))
    check = doctor._packages()
    assert (check.state, check.found) == ("missing", "numpi: No module named 'numpi'")


@pytest.mark.parametrize("key", ["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"])
def test_either_key_will_do_and_its_address_is_shown(key, monkeypatch):
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    assert doctor._key().state == "warn"
    monkeypatch.setenv(key, "sk-secret")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "https://gateway.example")
    check = doctor._key()
    assert check.state == "ok" and key in check.found and "gateway.example" in check.found and "sk-" not in check.found


def test_what_contains_a_command_is_said_and_how_to_get_more():
    whole, part, none = (
        doctor._command(Containment(**here))
        for here in (
            {"namespaces": True},
            {"landlock": True, "problems": {"namespaces": "unshare: not permitted"}},
            {"problems": {"Linux": "only Linux has them"}},
        )
    )
    assert (whole.state, whole.cure) == ("ok", "")
    assert part.state == none.state == "warn"
    assert "Landlock" in part.found and "unshare: not permitted" in part.found and part.cure == CURES["namespaces"]
    assert none.cure == NO_LINUX
