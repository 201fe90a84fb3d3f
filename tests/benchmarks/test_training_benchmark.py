"""The comparison with a reference, interrupted and resumed. The reference is a stand-in of a few lines, on a CPU.

In processes forked for it, as the benchmark's modules and those of other tests share names.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.forked_farm import ForkedFarm
from tests.research.judged import write_documents

ROOT = Path(__file__).parents[2]

PREPARE_PY = """
MAX_SEQ_LEN = 2048
TIME_BUDGET = 300
EVAL_TOKENS = 40 * 524288
NOT_DONE = 'pin_memory=True, device="cuda"'
"""

TRAIN_PY = """
import pathlib
import time
DEPTH = 8
ASPECT_RATIO = 64
HEAD_DIM = 128
WINDOW_PATTERN = "SSSL"
TOTAL_BATCH_SIZE = 2**19
DEVICE_BATCH_SIZE = 128
NOT_DONE = 'torch.cuda.get_device_capability() torch.cuda.synchronize() torch.cuda.max_memory_allocated() device("cuda")'
SEED = "manual_seed(42)"
folder = pathlib.Path(FOLDER)
with (folder / "begun").open("a") as begun:
    print(SEED, file=begun)
while "(2)" in SEED and not (folder / "go").exists():
    time.sleep(0.05)
for step in range(20):
    print(f"\\rstep {step:05d} (1.0%) | loss: 2.0 | lrm: 1.00 | dt: 1ms | tok/sec: 1,000 | mfu: 1.0% | epoch: 1 ", end="")
print("\\n---\\nval_bpb:          1.500000\\ntraining_seconds: 0.5\\nnum_steps:        20")
"""
"""A run with the seed 2 waits for the file `go`."""


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """Compares speeds on two seeds."""
    reference = tmp_path / "reference"
    reference.mkdir()
    (reference / "train.py").write_text(TRAIN_PY.replace("FOLDER", repr(str(tmp_path))))
    (reference / "prepare.py").write_text(PREPARE_PY)
    texts = tmp_path / "texts"
    texts.mkdir()
    write_documents(texts, documents=1500, words=1500, seed=2)
    script = ["--reference", str(reference), "--mode", "speed"]
    folders = ["--cache", str(tmp_path / "cache"), "--work", str(tmp_path / "work"), "--json", str(tmp_path / "runs.json")]
    return [*script, *folders, "--devices", "cpu", "--profile", "cpu", "--source", f"files:{texts}", "--budget", "0.5",
            "--pairs", "2"]  # fmt: skip


def compare(arguments: list[str]) -> int:
    """What the script with these arguments does in its process."""
    from benchmarks.training import main

    sys.argv[1:] = arguments
    return main()


def start(command: list[str], output: Path) -> ForkedFarm:
    return ForkedFarm(command, folder=ROOT, environment=os.environ, output=output, program=compare)


def test_an_interrupted_comparison_resumes(command: list[str], tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    cut_off = start([*command, "--only", "reference"], tmp_path / "cut off")
    try:
        while not (begun.exists() and "manual_seed(2)" in begun.read_text()):
            assert cut_off.poll() is None
            time.sleep(0.05)
    finally:
        os.killpg(cut_off.pid, signal.SIGKILL)
        cut_off.communicate()
    before = json.loads((tmp_path / "runs.json").read_text())
    assert [(run["variant"], run["seed"]) for run in before["runs"]] == [("reference", 1)]

    ours: dict[str, Any] = {**before["runs"][0], "variant": "ours", "tokens_per_second": 1234.0}
    (tmp_path / "ours.json").write_text(json.dumps({**before, "runs": [ours]}))
    (tmp_path / "go").touch()
    added = ["--add", str(tmp_path / "ours.json")]
    done = start([*command, *added], tmp_path / "printed")
    printed, _ = done.communicate(timeout=120)
    assert done.returncode == 0, printed

    after = json.loads((tmp_path / "runs.json").read_text())
    assert [(run["variant"], run["seed"]) for run in after["runs"]] == [("reference", 1), ("reference", 2), ("ours", 2)]
    assert after["runs"][0] == before["runs"][0] and after["runs"][2]["tokens_per_second"] != 1234.0
    assert after["summary"]["tokens_per_second"]["count"] == 2
    table = printed.split("  run\n")[1].split("\n\n")[0].splitlines()
    assert [(line.split()[0], line.split()[-1]) for line in table] == [
        ("1", "reference"), ("1", "ours"), ("2", "reference"), ("2", "ours")
    ]  # fmt: skip
    assert "1,234" in table[1]
    assert begun.read_text().count("(1)") == 1 and begun.read_text().count("(2)") == 2
