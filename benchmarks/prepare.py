"""Measures the throughput and peak memory of `farm prepare`.

    uv run python benchmarks/prepare.py [--megabytes 500] [--profile standard] [--cores 2] [--text FOLDER]

Without --text, the benchmark generates text: shuffled lines of the installed Python packages, as .jsonl documents of a few
kilobytes. It runs the command in a subprocess with an empty cache. Prints a table, then the same as JSON. The figures include
neither downloading text nor reading parquet.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from research.data.prepared import MANIFEST, PreparedData
from research.profiles import PROFILES

ROOT = Path(__file__).parent.parent
DOCUMENT_BYTES = (500, 8_000)
"""Minimum and maximum size of a generated document."""
BLOCK_LINES = 8
"""Consecutive lines that stay together, so that the statistics of neighbouring words are realistic."""
FILE_BYTES = 50_000_000
"""Size of a generated file."""


def write_text(folder: Path, size: int, rng: random.Random) -> None:
    """Writes `size` bytes of documents as .jsonl files; a document is a random choice of blocks of installed source code."""
    blocks = list(_blocks(Path(sysconfig.get_path("purelib")), limit=size))
    for start in range(0, size, FILE_BYTES):
        left = min(FILE_BYTES, size - start)
        with (folder / f"{start // FILE_BYTES:03}.jsonl").open("w") as file:
            while left > 0:
                text = _document(blocks, rng.randint(*DOCUMENT_BYTES), rng)
                left -= len(text.encode())
                file.write(json.dumps({"text": text}) + "\n")


def _document(blocks: list[str], size: int, rng: random.Random) -> str:
    parts: list[str] = []
    while size > 0:
        parts.append(rng.choice(blocks))
        size -= len(parts[-1])
    return "".join(parts)


def _blocks(folder: Path, *, limit: int) -> Iterator[str]:
    for path in sorted(folder.rglob("*.py")):
        lines = path.read_text(errors="ignore").splitlines(keepends=True)
        for start in range(0, len(lines), BLOCK_LINES):
            block = "".join(lines[start : start + BLOCK_LINES])
            limit -= len(block)
            if limit <= 0:
                return
            yield block


def measure(text: Path, profile: str, cores: int) -> dict[str, float | int | str]:
    """Runs `farm prepare` once with an empty cache on the first `cores` cores; returns its figures."""
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, "-m", "cluster.cli", "prepare", "--profile", profile, "--source", f"files:{text}",
                   "--cache", cache]  # fmt: skip
        began = time.monotonic()
        process = subprocess.Popen(command, cwd=ROOT, preexec_fn=lambda: _use_cores(cores))
        if process.wait():
            raise SystemExit("farm prepare failed: see its output above")
        seconds = time.monotonic() - began
        [manifest] = Path(cache).glob(f"prepared/*/{MANIFEST}")
        data = PreparedData.load(manifest.parent)
    tokens = (data.train_rows + data.val_rows + data.audit_rows) * (data.seq_len + 1)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "profile": profile,
        "cores": cores,
        "text_mb": round(data.train_bytes / 1e6, 1),
        "documents": data.train_documents,
        "seconds": round(seconds, 1),
        "documents_per_second": round(data.train_documents / seconds),
        "tokens_per_second": round(tokens / seconds),
        "mb_per_second": round(data.train_bytes / 1e6 / seconds, 2),
        "peak_memory_mb": round(peak / 2**20),
    }


def _use_cores(count: int) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures the throughput and peak memory of farm prepare.")
    parser.add_argument("--megabytes", type=int, default=500, help="amount of text to generate without --text (default: 500)")
    parser.add_argument("--text", type=Path, help="folder of text to use instead")
    parser.add_argument("--profile", default="standard", choices=list(PROFILES), help="vocabulary and rows (default: standard)")
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1, help="cores to use (default: all)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.text is None:
            write_text(Path(folder), options.megabytes * 1_000_000, random.Random(1))
        found = measure((options.text or Path(folder)).resolve(), options.profile, options.cores)
    for name, value in found.items():
        print(f"{name.replace('_', ' '):<24}{value:>12,}" if not isinstance(value, str) else f"{name:<24}{value:>12}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
