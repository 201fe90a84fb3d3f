"""Texts, and files of them, for tests of sources."""

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def write_parquet(path: Path, texts: list[str], *, rows_in_group: int = 7) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"text": texts}), path, row_group_size=rows_in_group)
    return path


def sentences(seed: int, count: int) -> list[str]:
    """Documents of made-up words, different for each seed."""
    chance = random.Random(seed)
    words = ["".join(chance.choices("abcdefghijklmnop", k=chance.randint(2, 8))) for _ in range(300)]
    return [f"{seed}.{n} " + " ".join(chance.choices(words, k=chance.randint(20, 120))) for n in range(count)]
