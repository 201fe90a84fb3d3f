"""Each package imports only from those to its left, each heavy dependency has one home, and walls inside packages stand."""

import ast
import sys
from collections.abc import Collection, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("research", "results", "agent", "cluster")
HOMES = {
    "torch": "research",
    "duckdb": "results",
    "anthropic": "agent",
    "acp": "agent/researchers",
    "scipy": "results",
    "pydoe": "results",
    "ray": "cluster/ray_cluster",
    "mcp": "cluster/mcp_server",
    "starlette": "cluster/dashboard",
    "jinja2": "cluster/dashboard",
    "pygments": "cluster/dashboard",
    "uvicorn": "cluster",
}
"""Heavy dependency -> the only folder whose files import it."""

PURE = (
    "cluster/blame.py",
    "cluster/workqueue.py",
    "results/verdict.py",
    "results/effect_prior.py",
    "results/effect_estimate.py",
    "results/policy.py",
    "results/waves.py",
)
"""Files that are told the time: they import neither asyncio nor time."""
FARM_STATE = ("results/data", "results/fetched")
LIGHT = {
    "research/errors.py": set(),
    "research/files.py": {"research.errors"},
    "research/command_hints.py": {"research.files"},
    "research/printable.py": set(),
    "research/formatting.py": {"research.printable"},
    "research/number_options.py": {"research.formatting"},
    "research/cpu_cores.py": set(),
    "cluster/own_packages.py": {"cluster.cli"},
    "research/gpu_memory.py": set(),
    "research/contract.py": {"research.errors", "research.files"},
    "research/child_settings.py": {"research.contract"},
    "research/recipes.py": set(),
    "research/profiles.py": {
        *("research.contract", "research.errors", "research.gpu_memory", "research.child_settings", "research.recipes")
    },
    "research/result.py": {"research.contract"},
    "research/string_syntax.py": set(),
    "research/remembered_texts.py": set(),
    "research/valid_train_py.py": {"research.printable", "research.remembered_texts", "research.string_syntax"},
    "research/plain_text.py": {"research.executed_text", "research.valid_train_py"},
    "research/executed_text.py": {"research.formatting", "research.valid_train_py"},
    "research/own_seeds.py": {"research.formatting", "research.valid_train_py"},
    "research/carried_data.py": {
        *("research.contract", "research.executed_text", "research.formatting", "research.plain_text"),
        "research.valid_train_py",
    },
    "research/runnable.py": {
        "research.remembered_texts",
        *("research.carried_data", "research.executed_text", "research.own_seeds", "research.valid_train_py"),
    },
    "research/hyperparameters.py": {
        "research.remembered_texts",
        "research.errors",
        "research.printable",
        "research.recipes",
        "research.valid_train_py",
    },
}
"""Files that import the standard library and these modules alone, so that every package can use them."""

FORBIDDEN: dict[str, tuple[str, ...]] = {
    # what runs the researcher's code gets rows as shared memory, and knows neither the data nor the judge
    "research/child": ("research.judge", "research.data"),
    "research/session.py": ("research.judge", "research.data"),
    "research/feed.py": ("research.judge", "research.data"),
    "research/train.py": ("research.judge", "research.data"),
    "research/sandbox": ("research.data", "research.kernels", "research.judge", "research.child"),
    "research/kernels": ("research.data", "research.sandbox", "research.judge", "research.child", "research.session"),
    "research/data": ("research.kernels", "research.judge", "research.child"),
    # a researcher sees text, not git
    "agent/researchers": ("agent.repo",),
    "agent/search": ("agent.repo",),
    "agent/repo": ("agent.researcher", "agent.researchers", "agent.search", "agent.loop"),
    # pure: no clock, no event loop
    "results/verdict.py": ("asyncio", "time"),
    "cluster/workqueue.py": ("asyncio", "time"),
}
"""Folder or file -> modules that it never imports, nor anything in them."""

ONLY: dict[str, tuple[str, ...]] = {
    "research/ipc": ("research.ipc", "research.contract", "research.gpu_memory", "research.errors"),
}
"""Folder -> the only modules of the project that it imports."""

IMPORTERS: dict[str, tuple[str, ...]] = {
    "research.train": (),
    "research.judge.judge": ("research/run.py",),
}
"""Module -> the only files of the packages that import it."""


@cache
def imported_modules(text: str) -> frozenset[str]:
    """Every module that a file imports, at its top or inside a function."""
    modules = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not used here"
            modules.add(node.module or "")
            if node.module and node.module.split(".")[0] in PACKAGES:  # what is imported from a package may be a module
                modules |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(modules - set(PACKAGES))


def broken_rules(path: str, text: str) -> list[str]:
    """What a file at `path`, relative to the project, imports and should not."""
    package = path.split("/")[0]
    allowed = PACKAGES[: PACKAGES.index(package) + 1]
    broken = []
    for module in sorted(imported_modules(text)):
        top = module.split(".")[0]
        if top in PACKAGES and top not in allowed:
            broken.append(f"{path} imports {module}: {package} comes before {top}")
        if top in HOMES and not lies_in(path, HOMES[top]):
            broken.append(f"{path} imports {module}: only {HOMES[top]} imports {top}")
        if path in PURE and top in ("asyncio", "time"):
            broken.append(f"{path} imports {module}: it is told the time")
        if path in LIGHT and top not in sys.stdlib_module_names and not any(module.startswith(m) for m in LIGHT[path]):
            broken.append(f"{path} imports {module}: it should need the standard library alone")
    return broken + broken_walls(path, text)


def broken_walls(path: str, text: str) -> list[str]:
    """The imports of a file that FORBIDDEN, ONLY and IMPORTERS rule out."""
    broken = []
    for module in sorted(imported_modules(text)):
        for place, forbidden in FORBIDDEN.items():
            if lies_in(path, place) and any(is_part_of(module, other) for other in forbidden):
                broken.append(f"{path} imports {module}: {place} must not")
        for place, allowed in ONLY.items():
            if lies_in(path, place) and module.split(".")[0] in PACKAGES and not any(is_part_of(module, m) for m in allowed):
                broken.append(f"{path} imports {module}: {place} imports nothing but {', '.join(allowed)}")
        for wanted, importers in IMPORTERS.items():
            if is_part_of(module, wanted) and path not in importers:
                broken.append(f"{path} imports {module}: {'only ' + ', '.join(importers) if importers else 'nobody'} may")
    return broken


def lies_in(path: str, place: str) -> bool:
    """Whether a file is `place`, or lies in the folder `place`."""
    return path == place or path.startswith(f"{place}/")


def is_part_of(module: str, other: str) -> bool:
    """Whether a module is `other`, or something in it."""
    return module == other or module.startswith(f"{other}.")


def source_files(root: Path = ROOT) -> list[str]:
    """The packages' own files: below them a farm keeps its state, with worktrees of the whole project in it."""
    paths = [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]
    kept = [root / folder for folder in FARM_STATE]
    return [str(path.relative_to(root)) for path in paths if not any(path.is_relative_to(folder) for folder in kept)]


def test_there_is_something_to_check() -> None:
    files = source_files()
    assert {path.split("/")[0] for path in files} == set(PACKAGES) and {*LIGHT, *PURE} <= set(files)
    for place in (*FORBIDDEN, *ONLY, *HOMES.values(), *(path for paths in IMPORTERS.values() for path in paths)):
        assert any(lies_in(path, place) for path in files), f"the rule for {place} is about no file"
    modules = {path.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for path in files}
    named = {module for row in (*FORBIDDEN.values(), *ONLY.values()) for module in row} | set(IMPORTERS)
    assert {module for module in named if module.split(".")[0] in PACKAGES} <= modules


def test_what_a_farm_keeps_in_the_checkout_is_not_checked(tmp_path: Path) -> None:
    for name in ("results/store.py", "results/data/worktrees/demo/agent/loop.py", "results/fetched/cluster/cli.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert source_files(tmp_path) == ["results/store.py"]


def circles(texts: Mapping[str, str]) -> list[str]:
    """The modules (name -> text) that import each other in a circle, wherever in the file; the first circle that is found."""
    found = {name: {known for module in imported_modules(text) if (known := module_in(module, texts)) not in (None, name)}
             for name, text in texts.items()}  # fmt: skip
    try:
        tuple(TopologicalSorter(found).static_order())
    except CycleError as error:
        return list(error.args[1])
    return []


def module_in(imported: str, modules: Collection[str]) -> str | None:
    """The module that an imported name is or lies in; None for one of another project."""
    names = (imported, imported.rpartition(".")[0])
    return next((name for name in names if name in modules), None)


def test_no_files_import_each_other_in_a_circle() -> None:
    texts = {path.removesuffix(".py").replace("/", "."): (ROOT / path).read_text(encoding="utf-8") for path in source_files()}
    assert circles(texts) == []
    assert circles({"a": "from b import c", "b": "def f():\n    import d.e", "d.e": "import a"})
    assert not circles({"a": "from b import c", "b": "import os", "d.e": "import a"})


def test_imports_follow_the_rule() -> None:
    broken = [rule for path in source_files() for rule in broken_rules(path, (ROOT / path).read_text())]
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("research/judge/judge.py", "import results.store"),
        ("research/judge/judge.py", "from cluster import worker"),
        ("results/store.py", "def f():\n    from agent.compare_programs import merge"),
        ("agent/search/search.py", "from cluster.home import Home"),
        ("cluster/driver.py", "import torch.nn as nn"),
        ("results/report.py", "import torch"),
        ("research/data/prepared.py", "import duckdb"),
        ("cluster/local_api.py", "import duckdb"),
        ("results/report.py", "import anthropic"),
        ("agent/loop.py", "import ray"),
        ("cluster/driver.py", "import ray"),
        ("cluster/commands/cluster.py", "from ray.job_submission import JobSubmissionClient"),
        ("cluster/workqueue.py", "import asyncio"),
        ("results/verdict.py", "from time import monotonic"),
        ("research/contract.py", "import numpy"),
        ("research/contract.py", "from research.data.prepared import PreparedData"),
        ("research/result.py", "import torch"),
        ("research/hyperparameters.py", "from research import session"),
    ],
)
def test_a_wrong_import_is_found(path: str, line: str) -> None:
    assert broken_rules(path, f"import os\n{line}\n")


WALLS = [(place, module) for place, modules in FORBIDDEN.items() for module in modules]


@pytest.mark.parametrize(("place", "module"), WALLS)
def test_an_import_through_a_wall_is_found(place: str, module: str) -> None:
    path = place if place.endswith(".py") else f"{place}/some_file.py"
    package, _, name = module.rpartition(".")
    lines = [f"import {module}", f"from {module} import something", f"def f():\n    import {module}.some_module"]
    for line in [*lines, f"from {package} import {name}"] if package else lines:
        assert broken_walls(path, f"import os\n{line}\n"), line
    assert not broken_walls(path, f"import os\nimport {module}_of_another_name\n")


@pytest.mark.parametrize(("place", "allowed"), ONLY.items())
def test_what_is_not_on_a_folders_list_is_found(place: str, allowed: tuple[str, ...]) -> None:
    right = "".join(f"from {module} import something\n" for module in allowed)
    assert broken_walls(f"{place}/some_file.py", f"import os\nimport torch\n{right}") == []
    assert broken_walls(f"{place}/some_file.py", "from research import feed\n")


@pytest.mark.parametrize(("module", "importers"), IMPORTERS.items())
def test_an_importer_that_is_not_on_the_list_is_found(module: str, importers: tuple[str, ...]) -> None:
    package, _, name = module.rpartition(".")
    for line in (f"import {module}", f"from {module} import something", f"from {package} import {name}"):
        assert broken_walls("research/session.py", f"{line}\n") and broken_walls("cluster/worker.py", f"{line}\n")
        assert all(broken_walls(path, f"{line}\n") == [] for path in importers)


def test_a_right_import_is_not() -> None:
    text = "import os\nimport duckdb\nfrom research import contract\nfrom results.journal import Journal\n"
    assert broken_rules("results/store.py", text) == []
