"""A search of the documentation of what a train.py may use, held in memory from its first use on."""

import asyncio
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from research.files import research_folder
from research.formatting import one_line

MODULES = (
    *("torch.nn", "torch.nn.functional", "torch.nn.init", "torch.optim", "torch.optim.lr_scheduler"),
    *("research.kernels.fused", "research.kernels.attention", "research.session", "research.profiles"),
)
"""The modules whose public functions and classes are listed."""

START_SECONDS = 120.0
"""How long the listing may take: it imports torch."""

MOST_LISTED = 10
"""Functions and classes that an answer names at most; the first is shown in full."""

LONGEST_SHOWN = 3_000
"""Characters of the docstring that an answer shows."""

_WORD = re.compile(r"[a-z0-9]+")


class NoDocs(Exception):
    """Why the documentation can't be listed, in words."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A function or class."""

    name: str
    """With its module: `torch.nn.functional.gelu`."""
    signature: str
    doc: str

    @property
    def first_line(self) -> str:
        return one_line(next((line for line in self.doc.splitlines() if line.strip()), ""), 120)


class Docs:
    """The documentation, listed by a process of its own when it is first asked for."""

    def __init__(self, modules: Sequence[str] = MODULES) -> None:
        self._modules = modules
        self._entries: Sequence[Entry] | None = None
        self._lock = asyncio.Lock()

    async def search(self, query: str) -> str:
        """The entry that fits best in full, and the names of others. Raises NoDocs."""
        async with self._lock:
            if self._entries is None:
                self._entries = await listed(self._modules)
        return answer(self._entries, query)


def answer(entries: Sequence[Entry], query: str) -> str:
    """The entry that fits a query best, bounded, and a line for each of the next ones."""
    scored = [(score, entry) for entry in entries if (score := _score(entry, query)) > 0]
    found = [entry for _, entry in sorted(scored, key=lambda item: (-item[0], len(item[1].name), item[1].name))][:MOST_LISTED]
    if not found:
        return (
            "Nothing matches. Search for a function or class of torch.nn, torch.optim or research by its name or what it does."
        )
    best, *others = found
    doc = best.doc if len(best.doc) <= LONGEST_SHOWN else f"{best.doc[:LONGEST_SHOWN]} (cut off)"
    lines = [f"{best.name}{best.signature}", "", doc]
    if others:
        lines += ["", "Others:", *(f"{entry.name}: {entry.first_line}" for entry in others)]
    return "\n".join(lines)


async def listed(modules: Sequence[str]) -> list[Entry]:
    """The entries of these modules. Raises NoDocs."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "agent.researchers.docs_index", *modules),
        cwd=research_folder().parent,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        told, errors = await asyncio.wait_for(process.communicate(), START_SECONDS)
    except TimeoutError:
        raise NoDocs(f"the documentation took longer than {START_SECONDS:g} s to list") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise NoDocs(f"the documentation can't be listed: {one_line(errors.decode(errors='replace')[-300:], 300)}")
    return [Entry(**fields) for fields in json.loads(told)]


def _score(entry: Entry, query: str) -> float:
    """How well an entry fits: its name counts most, then the words of its docstring."""
    name, asked = entry.name.lower(), query.lower().strip()
    last, words = name.rpartition(".")[2], _WORD.findall(asked)
    if not words:
        return 0.0
    exact = query.strip() in (entry.name, entry.name.rpartition(".")[2])
    score = 50.0 * exact + 100.0 * (asked in (name, last)) + 20.0 * name.endswith(f".{asked}")
    parts, counts = set(_WORD.findall(name)), Counter(_WORD.findall(entry.doc.lower()))
    for word in words:
        score += 8.0 * (word in parts) + 4.0 * (word in last) + min(counts[word], 5) / 5
    return score if all(word in name or counts[word] for word in words) else score / 10
