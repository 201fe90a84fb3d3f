"""Each package imports only from those to its left, and each heavy dependency has one home."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("research", "results", "agent", "cluster")
HOMES = {"torch": "research", "duckdb": "results", "anthropic": "agent", "git": "agent", "ray": "cluster"}
FARM_STATE = ("results/data", "results/fetched")
LIGHT = {
    "research/errors.py": set(),
    "research/files.py": set(),
    "research/text.py": set(),
    "research/machine.py": set(),
    "research/gpu_memory.py": set(),
    "research/contract.py": {"research.errors", "research.files"},
    "research/profiles.py": {"research.contract", "research.errors", "research.gpu_memory"},
    "research/result.py": {"research.contract"},
    "research/train_py.py": set(),
    "research/hyperparameters.py": {"research.errors", "research.profiles", "research.train_py"},
}
"""Files of the standard library and these modules alone, so that every package can use them."""


def imported_modules(text: str) -> set[str]:
    """Every module that a file imports, at its top or inside a function."""
    modules = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not used here"
            modules.add(node.module or "")
            modules |= {f"{node.module}.{alias.name}" for alias in node.names if node.module in PACKAGES}
    return modules - set(PACKAGES)


def broken_rules(path: str, text: str) -> list[str]:
    """What a file at `path`, relative to the project, imports and should not."""
    package = path.split("/")[0]
    allowed = PACKAGES[: PACKAGES.index(package) + 1]
    broken = []
    for module in sorted(imported_modules(text)):
        top = module.split(".")[0]
        if top in PACKAGES and top not in allowed:
            broken.append(f"{path} imports {module}: {package} comes before {top}")
        if HOMES.get(top, package) != package:
            broken.append(f"{path} imports {module}: that belongs into {HOMES[top]}")
        if path in LIGHT and top not in sys.stdlib_module_names and not any(module.startswith(m) for m in LIGHT[path]):
            broken.append(f"{path} imports {module}: it should need the standard library alone")
    return broken


def source_files(root: Path = ROOT) -> list[str]:
    """The packages' own files: below them a farm keeps its state, with worktrees of the whole project in it."""
    paths = [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]
    kept = [root / folder for folder in FARM_STATE]
    return [str(path.relative_to(root)) for path in paths if not any(path.is_relative_to(folder) for folder in kept)]


def test_there_is_something_to_check() -> None:
    files = source_files()
    assert {path.split("/")[0] for path in files} == set(PACKAGES) and set(LIGHT) <= set(files)


def test_what_a_farm_keeps_in_the_checkout_is_not_checked(tmp_path: Path) -> None:
    for name in ("results/store.py", "results/data/worktrees/demo/agent/loop.py", "results/fetched/cluster/cli.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert source_files(tmp_path) == ["results/store.py"]


@pytest.mark.parametrize("path", source_files())
def test_imports_follow_the_rule(path: str) -> None:
    assert broken_rules(path, (ROOT / path).read_text()) == []


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("research/judge/judge.py", "import results.store"),
        ("research/judge/judge.py", "from cluster import worker"),
        ("results/store.py", "def f():\n    from agent.patch import merge"),
        ("agent/search/search.py", "from cluster.home import Home"),
        ("cluster/driver.py", "import torch.nn as nn"),
        ("results/report.py", "import torch"),
        ("research/data/prepared.py", "import duckdb"),
        ("cluster/local_api.py", "import duckdb"),
        ("cluster/try_once.py", "from git import Repo"),
        ("results/report.py", "import anthropic"),
        ("agent/loop.py", "import ray"),
        ("research/contract.py", "import numpy"),
        ("research/contract.py", "from research.data.prepared import PreparedData"),
        ("research/result.py", "import torch"),
        ("research/hyperparameters.py", "from research import session"),
    ],
)
def test_a_wrong_import_is_found(path: str, line: str) -> None:
    assert broken_rules(path, f"import os\n{line}\n")


def test_a_right_import_is_not() -> None:
    text = "import os\nimport duckdb\nfrom research import contract\nfrom results.journal import Journal\n"
    assert broken_rules("results/store.py", text) == []
