"""What an honest run gets: a score that an independent computation confirms, and a log that people can grep."""

import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_tensors

from research.child_settings import SETTINGS_VARIABLE, ChildSettings
from research.contract import Contract
from research.data.prepared import PreparedData, Split
from research.gpu_memory import GIB, trainer_bytes
from research.ipc.buffer import rows_per_batch
from research.judge.consistency import MIN_CONSISTENCY_ROWS
from research.judge.failures import cure_for_memory, ended_by_itself
from research.judge.log import Log
from research.judge.row_scores import load_row_scores
from research.result import RunResult
from research.sandbox.limits import MemoryUse
from research.session import DIVERGED
from tests.research.judged import TRAIN_PY, Run, Runner, check_every_run, check_no_run, read_result, variant, with_train


@pytest.fixture(scope="module")
def honest(run: Runner) -> Run:
    return run(TRAIN_PY, save_model=True)


def float64_bpb(weights: dict[str, np.ndarray], rows: np.ndarray, token_bytes: np.ndarray) -> float:
    """Bits per byte of the model in TRAIN_PY, in numpy alone."""
    w = {name: array.astype(np.float64) for name, array in weights.items()}
    x, y = rows[:, :-1], rows[:, 1:]
    logits = w["embedding.weight"][x] @ w["out.weight"].T + w["out.bias"]
    peak = logits.max(axis=-1)
    normaliser = peak + np.log(np.exp(logits - peak[..., None]).sum(axis=-1))
    nats = normaliser - np.take_along_axis(logits, y[..., None].astype(np.int64), axis=-1)[..., 0]
    total_bytes = token_bytes[y].sum()
    return float(nats[token_bytes[y] > 0].sum() / total_bytes / np.log(2))


@pytest.mark.parametrize("split", ["val", "audit"])
def test_the_score_equals_an_independent_float64_computation(split: Split, honest: Run, judged_data: PreparedData) -> None:
    weights = load_file(honest.folder / "model.safetensors")
    rows = np.asarray(judged_data.load_rows(split))
    expected = float64_bpb(weights, rows, judged_data.token_bytes())
    found = honest.result.val_bpb if split == "val" else honest.result.audit_bpb
    assert found == pytest.approx(expected, abs=1e-4)
    assert found is not None and 1.0 < found < 4.0
    special = judged_data.token_bytes()[rows[:, 1:]] == 0
    assert special.any(), "rows hold tokens without bytes, so that leaving them out is tested"


def test_an_honest_run_is_told_in_full(honest: Run, run: Runner, judged_data: PreparedData) -> None:
    result = honest.result
    assert (result.status, result.seed, result.device) == ("ok", 1, "cpu")
    assert result.reason == f"val_bpb {result.val_bpb:.6f} on 256 rows"
    assert result.num_params == 512 * 16 + 16 * 512 + 512
    assert result.reported_depth == 1 and result.reported_kernel == "none"
    assert result.reported_recompiles == 0
    assert result.reported_steps and result.reported_tokens == result.reported_steps * 8 * 64
    assert result.reported_mfu_percent is None and result.reported_peak_memory_mb is None
    assert len(result.reported_curve) >= 2
    assert result.peak_memory_mb and result.peak_memory_mb > 50
    assert result.tensor_shapes == {"embedding.weight": (512, 16), "out.weight": (512, 16), "out.bias": (512,)}
    assert result.score_fingerprint == judged_data.score_fingerprint(run.contract)
    hashes = (judged_data.tokenizer_sha256, judged_data.val_sha256, judged_data.audit_sha256)
    assert (result.tokenizer_sha256, result.val_sha256, result.audit_sha256) == hashes
    assert result.data_fingerprint == judged_data.data_fingerprint
    assert set(result.software) >= {"python", "torch", "cuda"}
    assert read_result(honest.folder) == result
    assert (honest.folder / "train.py").read_text() == TRAIN_PY
    assert honest.left_alive == ()


@pytest.mark.parametrize("split", ["val", "audit"])
def test_every_rows_score_is_kept(split: Split, honest: Run, judged_data: PreparedData) -> None:
    scores = load_row_scores(honest.folder, split)
    assert scores is not None and scores.nats.dtype == np.float32
    targets = np.asarray(judged_data.load_rows(split))[:, 1:]
    assert (scores.bytes == judged_data.token_bytes()[targets].sum(axis=1)).all()
    expected = honest.result.val_bpb if split == "val" else honest.result.audit_bpb
    assert scores.bits_per_byte == pytest.approx(expected, rel=1e-6)


def test_the_clock_is_the_budget(honest: Run) -> None:
    assert honest.result.training_seconds is not None
    assert 0.45 <= honest.result.training_seconds < 2.3


def test_everything_is_checked_for_a_run_that_would_be_kept(run: Runner, honest: Run, judged_data: PreparedData) -> None:
    result = run(TRAIN_PY, keep_below=100.0, save_model=True).result
    assert (result.consistency_rows, result.audit_rows) == (256, judged_data.audit_rows)
    assert (honest.result.consistency_rows, honest.result.audit_rows) == (256, judged_data.audit_rows), "no limit: the same"
    assert result.consistency_max is not None and result.consistency_max < 1e-3 and not result.unchecked
    assert (Path(run.runs_folder) / result.run_id / "model.safetensors").exists()


@pytest.mark.parametrize(("before", "rows"), [(check_every_run, MIN_CONSISTENCY_ROWS), (check_no_run, None)])
def test_a_run_that_would_not_be_kept_is_sometimes_checked_on_a_sample(
    before: Callable[[], None], rows: int | None, run: Runner, judged_data: PreparedData
) -> None:
    short = run(TRAIN_PY, keep_below=0.1, save_model=True, before=before)
    assert short.result.status == "ok" and short.result.unchecked
    assert (short.result.consistency_rows, short.result.audit_rows) == (rows, round(judged_data.audit_rows / 10))
    assert not (short.folder / "model.safetensors").exists()


SUMMARY = """---
val_bpb:          [0-9.]+
training_seconds: [0-9.]+
total_seconds:    [0-9.]+
peak_vram_mb:     [0-9.]+
mfu_percent:      n/a
total_tokens_M:   [0-9.]+
num_steps:        [0-9]+
num_params_M:     [0-9.]+
depth:            1
"""


def test_the_log_ends_with_the_known_summary(honest: Run) -> None:
    ending = "\n".join(honest.log.split("\n")[-11:])
    assert re.fullmatch(SUMMARY, ending)
    grep = subprocess.run(
        ["grep", r"^val_bpb:\|^peak_vram_mb:", "run.log"], cwd=honest.folder, capture_output=True, text=True, check=True
    )
    assert grep.stdout.split()[1] == f"{honest.result.val_bpb:.6f}"
    assert len(grep.stdout.splitlines()) == 2


STEP_LINE = (
    r"step \d{5} \(\d+\.\d%\) \| loss: \d+\.\d+ \| lrm: \d\.\d\d \| dt: \d+ms \| tok/sec: [\d,]+ \| mfu: .*% \| "
    r"epoch: \d+ \| remaining: \d+s"
)


def test_step_lines_have_the_known_format(honest: Run) -> None:
    lines = [line for line in honest.log.split("\n") if line.startswith("step ")]
    assert len(lines) >= 2
    assert all(re.fullmatch(STEP_LINE, line) for line in lines), lines


# --- other honest models --------------------------------------------------------------------------------------------

OUT = "        self.out = nn.Linear(16, CONTRACT.VOCAB_SIZE)\n"
TIED = variant((OUT, OUT + "        self.out.weight = self.embedding.weight\n"))

WINDOWED = variant(
    ("from torch import nn\n", "from torch import nn\nfrom research.kernels.attention import causal_attention\n"),
    ("        self.out =", "        self.qkv = nn.Linear(16, 48)\n        self.out ="),
    (
        "return self.out(self.embedding(ids))",
        "x = self.embedding(ids)\n"
        "        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 8)).unbind(2)\n"
        "        return self.out(x + causal_attention(q, k, v, window=5).flatten(2))",
    ),
)

AVERAGED = variant(
    ("    step = 0\n\n    def run", "    step = 0\n    average = torch.optim.swa_utils.AveragedModel(model)\n\n    def run"),
    ("            optimizer.step()\n", "            optimizer.step()\n            average.update_parameters(model)\n"),
    ("session.finish(model,", "session.finish(average.module,"),
)

BUFFERS = variant(
    ("        self.out =", "        self.register_buffer('scale', torch.ones(()))\n        self.out ="),
    ("return self.out(self.embedding(ids))", "return self.out(self.embedding(ids)) * self.scale"),
    ("    session.finish(", "    model.scale.fill_(0.5)\n    session.finish("),
)

HONEST = {
    "tied weights": TIED,
    "a sliding window": WINDOWED,
    "an odd batch size": variant(("BATCH_SIZE = 8", "BATCH_SIZE = 7")),
    "averaged weights": AVERAGED,
    "a persistent buffer": BUFFERS,
}


def built(text: str, contract: Contract, monkeypatch: pytest.MonkeyPatch) -> torch.nn.Module:
    """The model that a train.py builds."""
    monkeypatch.setenv(SETTINGS_VARIABLE, ChildSettings(contract=contract).to_json())
    module = ModuleType("variant")
    exec(compile(text, "train.py", "exec"), module.__dict__)
    model = module.build_model()
    assert isinstance(model, torch.nn.Module)
    return model


@pytest.mark.parametrize("name", HONEST)
def test_other_honest_models_pass(name: str, quick: Runner, judged_data: PreparedData, monkeypatch: pytest.MonkeyPatch) -> None:
    done = quick(HONEST[name], save_model=True, sandbox="off")
    assert done.result.status == "ok", done.result.reason
    model = built(HONEST[name], quick.contract, monkeypatch)
    model.load_state_dict(load_tensors(done.folder / "model.safetensors"))
    rows = torch.from_numpy(np.asarray(judged_data.load_rows("val")).astype(np.int64))
    with torch.no_grad():
        logits = model.double()(rows[:, :-1])
    nats = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="none")
    lengths = torch.from_numpy(judged_data.token_bytes())[rows[:, 1:].flatten()]
    expected = nats[lengths > 0].sum() / lengths.sum() / np.log(2)
    assert done.result.val_bpb == pytest.approx(float(expected), abs=1e-4)


# --- the judge's own parts ------------------------------------------------------------------------------------------


class Ended:
    """A child that has ended, after printing `text`."""

    name = "trainer"

    def __init__(self, text: str, code: int, *, has_begun: bool = True, outside: bool = False) -> None:
        self.log = Log(None)
        for line in text.splitlines():
            self.log.write(line + "\n")
        self._code, self._outside, self.has_begun = code, outside, has_begun

    def was_killed_from_outside(self) -> bool:
        return self._outside

    def exit_code(self) -> int:
        return self._code


@pytest.mark.parametrize(
    ("text", "code", "status", "reason"),
    [
        (
            "step 1\nFAIL: the training loss is nan at step 3\nlast",
            DIVERGED,
            "diverged",
            "FAIL: the training loss is nan at step 3",
        ),
        ("FAIL: what a train.py says of itself", 1, "crash", "FAIL: what a train.py says of itself"),
        ("Traceback\ntorch.OutOfMemoryError: CUDA out of memory.", 1, "oom", "torch.OutOfMemoryError: CUDA out of memory."),
        ("RuntimeError: DefaultCPUAllocator: can't allocate memory: 8 bytes", 1, "oom", "RuntimeError: Default"),
        (
            "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
            1,
            "oom",
            "RuntimeError: CUDA",
        ),
        ('RuntimeError: NVML_SUCCESS == r INTERNAL ASSERT FAILED at "CUDACachingAllocator.cpp":983', 1, "oom", "RuntimeError"),
        ("step 1", -9, "crash", "killed by SIGKILL"),
        ("Traceback\nValueError: boom", 1, "crash", "ValueError: boom"),
        ("", -11, "crash", "no output"),
    ],
)
def test_what_an_early_end_means(text: str, code: int, status: str, reason: str) -> None:
    end = ended_by_itself(Ended(text, code))  # type: ignore[arg-type]
    assert end.status == status and end.reason.startswith(reason)


def test_out_of_memory_is_told_by_evidence() -> None:
    """The kernel's counter or the measured peak, not the signal alone; and nothing that a child can do makes a run lost."""
    little = MemoryUse(peak_bytes=2**28, limit_bytes=2**34, kills=0)
    for use, outside, begun, status in (
        (little, False, True, "crash"),
        (little, True, True, "lost"),
        (little, False, False, "lost"),
        (replace(little, kills=1), False, True, "oom"),
        (replace(little, kills=1), True, False, "oom"),  # the kernel kills from outside, too
        (replace(little, peak_bytes=2**34 - 1), False, True, "oom"),
    ):
        child: Any = Ended("step 1", -9, has_begun=begun, outside=outside)
        end = ended_by_itself(child, use=use)
        assert end.status == status, (use, outside, begun)
        if not outside and begun:
            assert "of 16.0 GiB" in end.reason
    closed: Any = Ended("step 1", -9)
    closed.log.close()
    assert ended_by_itself(closed, use=little).status == "crash"
    assert [ended_by_itself(closed, use=replace(little, kills=1)).status, closed.exit_code()] == ["oom", -9]


TORCH_SAYS = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 8.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which "
    "3.19 GiB is free. Including non-PyTorch memory, this process has 75.91 GiB memory in use. Of the allocated memory "
    "74.77 GiB is allocated by PyTorch, and 463.18 MiB is reserved by PyTorch but unallocated. If reserved but unallocated "
    "memory is large try setting PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid fragmentation.  See documentation "
    "for Memory Management  (https://docs.pytorch.org/docs/stable/notes/cuda.html#optimizing-memory-usage)"
)
"""As torch prints it, on one line."""


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (TORCH_SAYS, "out of memory (needed 8.00 GiB more, had 74.77 GiB, GPU has 79.11 GiB, 3.19 GiB free): cure"),
        (
            TORCH_SAYS.replace("Including non-PyTorch memory, this process has 75.91 GiB memory in use.", "76.00 GiB allowed;"),
            "out of memory (needed 8.00 GiB more, had 74.77 GiB, may use 76.00 GiB, GPU has 79.11 GiB, 3.19 GiB free): cure",
        ),
        (
            "torch.OutOfMemoryError: CUDA out of memory. Allocation was preemptively rejected because it would exceed "
            "per_process_memory_fraction limit. Requested size: 512.00 MiB",
            "out of memory (needed 512.00 MiB more): cure",
        ),
    ],
)
def test_a_full_gpu_is_one_line_with_what_to_do(said: str, reason: str) -> None:
    text = f"Traceback (most recent call last):\n  in forward\n{said}\n"
    end = ended_by_itself(Ended(text, 1), memory_cure="cure")  # type: ignore[arg-type]
    assert (end.status, end.reason) == ("oom", reason)


def test_the_cure_for_a_full_gpu_names_what_to_edit() -> None:
    assert cure_for_memory("DEVICE_BATCH_SIZE = 2**7  # rows", trains=True) == "halve DEVICE_BATCH_SIZE, now 128 rows"
    for text in ("DEVICE_BATCH_SIZE = 1", "BATCH = 8", "def ("):
        assert cure_for_memory(text, trains=True) == "make the model smaller"
    assert "forward pass" in cure_for_memory("DEVICE_BATCH_SIZE = 128", trains=False)


def test_a_run_that_fills_the_gpu_says_so(quick: Runner) -> None:
    result = quick(with_train(f"raise torch.OutOfMemoryError({TORCH_SAYS.partition(': ')[2]!r})")).result
    assert result.status == "oom" and result.reason.startswith("out of memory (needed 8.00 GiB more")


@pytest.mark.parametrize("sandbox", ["auto", "off"])
def test_a_limit_of_gpu_memory_reaches_the_children_and_the_record(run: Runner, sandbox: str) -> None:
    body = "import json\nprint('may use', json.loads(os.environ['AUTORESEARCH_SETTINGS'])['gpu_memory_bytes'])"
    done = run(with_train(body), gpu_memory_bytes=8 * GIB, sandbox=sandbox)
    assert f"may use {trainer_bytes(8 * GIB)}\n" in done.log and done.result.gpu_memory_bytes == 8 * GIB


def test_scoring_batches_fit_their_buffer(run: Runner) -> None:
    cpu = torch.device("cpu")
    assert rows_per_batch(run.contract, cpu) == 64
    large = replace(run.contract, MAX_SEQ_LEN=2048, EVAL_TOKENS=2048, VOCAB_SIZE=8192)
    assert rows_per_batch(large, cpu) == 1
    assert rows_per_batch(large, torch.device("cuda")) == rows_per_batch(large, torch.device("cuda"), gpu_memory=80 * GIB) == 32
    assert rows_per_batch(large, torch.device("cuda"), gpu_memory=8 * GIB) == 4
    assert rows_per_batch(large, cpu, gpu_memory=8 * GIB) == 1


def test_a_result_survives_json(honest: Run) -> None:
    text = honest.result.to_json()
    assert RunResult.from_json(text) == honest.result
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_start_up_is_not_charged_to_the_budget(run: Runner) -> None:
    """Start-up is outside the clock: what it takes is not charged to the budget."""
    done = run(variant(("    step = 0\n\n    def run", "    step = 0\n    import time\n    time.sleep(0.7)\n\n    def run")))
    assert done.result.startup_seconds is not None and done.result.startup_seconds >= 0.7
    assert done.result.training_seconds is not None and 0.45 <= done.result.training_seconds < 2.3
