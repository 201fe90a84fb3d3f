"""Prints the signatures and docstrings of what a train.py may use, as JSON: python -m agent.researchers.docs_index MODULE...

A process of its own, since it imports torch. No network is asked: all is read from the installed packages by `inspect`.
"""

import importlib
import inspect
import json
import sys
from collections.abc import Iterator
from typing import Any

LONGEST_DOC = 4_000
"""Characters of a docstring that are kept."""


def entries(module_name: str) -> Iterator[dict[str, str]]:
    """The public functions and classes of a module: name, signature and docstring. Those of ours are named where they stand."""
    module = importlib.import_module(module_name)
    ours = module_name.startswith("research.")
    for name, thing in sorted(vars(module).items()):
        if name.startswith("_") or not callable(thing) or not (inspect.isclass(thing) or inspect.isroutine(thing)):
            continue
        home = getattr(thing, "__module__", None) or ""
        if home != module_name if ours else not home.startswith(("torch.", "torch_")) and not inspect.isbuiltin(thing):
            continue
        yield {"name": f"{module_name}.{name}", "signature": _signature(thing), "doc": _doc(thing)}
        if ours and inspect.isclass(thing):
            for method, function in vars(thing).items():
                if not method.startswith("_") and inspect.isfunction(function):
                    yield {"name": f"{module_name}.{name}.{method}", "signature": _signature(function), "doc": _doc(function)}


def _signature(thing: Any) -> str:
    try:
        return str(inspect.signature(thing))
    except (TypeError, ValueError):  # a builtin: its docstring says it
        return "(...)"


def _doc(thing: Any) -> str:
    return (inspect.getdoc(thing) or "")[:LONGEST_DOC]


if __name__ == "__main__":
    json.dump([entry for module in sys.argv[1:] for entry in entries(module)], sys.stdout)
