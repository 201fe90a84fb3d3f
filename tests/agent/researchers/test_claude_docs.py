"""The documentation that a Claude model can search: real docstrings, listed by a process of its own."""

import asyncio
from dataclasses import replace

import pytest

from agent.researchers.claude_docs import LONGEST_SHOWN, MODULES, Docs, Entry, NoDocs, answer
from agent.researchers.claude_draft import Draft
from agent.researchers.claude_editor import Editor, EditRefused
from agent.researchers.docs_index import entries
from tests.agent.samples import TRAIN_PY, make_context

LIGHT = ("research.profiles",)
"""What is listed without torch, in a moment."""


def test_a_model_searches_the_docstrings_of_what_is_installed() -> None:
    async def asked() -> None:
        draft = Draft(context=make_context(), editor=Editor(TRAIN_PY), docs=Docs(LIGHT))
        told = await draft.use("search_docs", {"query": "active_contract"})
        assert told.startswith("<data") and "research.profiles.active_contract() -> " in told and len(told) < 6000
        assert "profiles.memory_limit(" in await draft.use("search_docs", {"query": "memory limit"})
        for query in ("", 7, None):
            with pytest.raises(EditRefused):
                await draft.use("search_docs", {"query": query})
        with pytest.raises(NoDocs, match="no_such_module"):
            await Docs(("research.no_such_module",)).search("x")

    asyncio.run(asked())


def test_torch_and_our_own_modules_are_listed() -> None:
    found = [Entry(**fields) for module in MODULES for fields in entries(module)]
    by_name = {entry.name: entry for entry in found}
    assert "approximate" in by_name["torch.nn.functional.gelu"].doc
    assert by_name["torch.nn.functional.rms_norm"].signature.startswith("(input")
    assert by_name["torch.optim.AdamW"].signature.startswith("(params") and "torch.nn.Linear" in by_name
    assert {"research.kernels.fused.relu2_mlp", "research.session.Session.finish"} <= by_name.keys()
    assert not any(name.split(".")[-1].startswith("_") for name in by_name)
    assert answer(found, "gelu").splitlines()[0].startswith("torch.nn.functional.gelu(")
    assert answer(found, "AdamW").startswith("torch.optim.AdamW(")
    assert "RMSNorm" in answer(found, "root mean square layer normalization")
    assert "orthogonal" in answer(found, "fill a tensor with an orthogonal matrix").splitlines()[0]
    assert "Nothing matches" in answer(found, "xyzzy")


def test_an_answer_is_bounded() -> None:
    long = Entry(name="torch.nn.Long", signature="(x)", doc="word\n" * 2000)
    many = [replace(long, name=f"torch.nn.Long{number}") for number in range(500)]
    assert len(answer([long, *many], "word")) < LONGEST_SHOWN + 2000
