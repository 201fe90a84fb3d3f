"""Texts that are read ahead: in threads, or in a process that may end at any moment."""

import asyncio
import contextlib
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
    assert is_known(text) and len(reader._processes) == 1
    for name, given in about_edit(BASE, text, 10**6):
        assert FUNCTIONS[name](*given) == FUNCTIONS[name].__wrapped__(*given), name  # type: ignore[attr-defined]


def test_a_process_that_was_killed_is_done_without(reader: TextReader) -> None:
    read(reader, f"{BASE}\nFIRST = 1\n")
    (process,) = reader._processes
    process.kill()
    texts = [f"{BASE}\nKILLED = {number}\n" for number in range(2)]
    read(reader, *texts)
    assert all(map(is_known, texts))


def test_few_loops_need_no_process(reader: TextReader) -> None:
    reader.loops = 1
    text = f"{BASE}\nIN_A_THREAD = 1\n"
    read(reader, text, "no Python (")
    assert is_known(text) and not reader._processes


def test_nothing_is_left_of_a_closed_one(reader: TextReader) -> None:
    read(reader, f"{BASE}\nCLOSED = 1\n")
    (process,) = reader._processes
    reader.close()
    assert process.returncode is not None
    read(reader, f"{BASE}\nAFTERWARDS = 1\n")
    assert not reader._processes


def test_several_processes_read_for_many_loops() -> None:
    with contextlib.closing(TextReader(most_processes=2)) as reader:
        reader.loops = 8
        texts = [f"{BASE}\nSEVERAL = {number}\n" for number in range(6)]
        read(reader, *texts)
        assert len(reader._processes) == 2 and all(map(is_known, texts))
