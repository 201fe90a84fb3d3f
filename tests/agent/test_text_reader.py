"""Texts that are read ahead: in threads, or in a process that may end at any moment."""

import asyncio
from collections.abc import Iterator

import pytest

from agent.text_reader import FEW_LOOPS, FUNCTIONS, TextReader, about_edit
from research.files import research_folder

BASE = (research_folder() / "train.py").read_text()


@pytest.fixture
def reader() -> Iterator[TextReader]:
    reader = TextReader()
    reader.loops = FEW_LOOPS + 1
    yield reader
    reader.close()


def is_known(text: str) -> bool:
    return all(FUNCTIONS[name].knows(*given) for name, given in about_edit(BASE, text, 10**6))


def read(reader: TextReader, *texts: str) -> None:
    async def all_of_them() -> None:
        await asyncio.gather(*(reader.read(about_edit(BASE, text, 10**6)) for text in texts))

    asyncio.run(all_of_them())


def test_a_process_finds_what_this_one_would(reader: TextReader) -> None:
    text = f"{BASE}\nREAD_APART = 1\n"
    read(reader, text)
    assert is_known(text) and reader._process is not None
    for name, given in about_edit(BASE, text, 10**6):
        assert FUNCTIONS[name](*given) == FUNCTIONS[name].__wrapped__(*given), name  # type: ignore[attr-defined]


def test_a_process_that_was_killed_is_done_without(reader: TextReader) -> None:
    read(reader, f"{BASE}\nFIRST = 1\n")
    process = reader._process
    assert process is not None
    process.kill()
    texts = [f"{BASE}\nKILLED = {number}\n" for number in range(2)]
    read(reader, *texts)
    assert all(map(is_known, texts))


def test_few_loops_need_no_process(reader: TextReader) -> None:
    reader.loops = 1
    text = f"{BASE}\nIN_A_THREAD = 1\n"
    read(reader, text, "no Python (")
    assert is_known(text) and reader._process is None


def test_nothing_is_left_of_a_closed_one(reader: TextReader) -> None:
    read(reader, f"{BASE}\nCLOSED = 1\n")
    process = reader._process
    reader.close()
    assert process is not None and process.returncode is not None
