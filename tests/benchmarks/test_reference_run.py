"""Edits of a reference, its runs, and what is read in their logs. The reference here is a stand-in of a few lines."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.reference_figures import NIGHT, OURS, UNTOUCHED, Figures, Head, Record, line, score_summary, speed_summary
from benchmarks.reference_run import (
    CPU_EDITS,
    CPU_PREPARE_EDITS,
    NIGHT_EDITS,
    Reference,
    edited,
    figures_of,
    parse_steps,
    parse_summary,
    seed_edit,
    tail,
    with_constants,
)
from research.errors import UserError
from research.profiles import PROFILES


def step_line(step: int, speed: int) -> str:
    return (
        f"\rstep {step:05d} (1.0%) | loss: 4.{step:06d} | lrm: 1.00 | dt: {round(1e3 * 2**19 / speed)}ms | "
        f"tok/sec: {speed:,} | mfu: 40.1% | epoch: 1 | remaining: 59s    "
    )


SUMMARY = """
---
val_bpb:          0.997900
training_seconds: 60.2
total_seconds:    100.0
peak_vram_mb:     45060.2
mfu_percent:      39.80
total_tokens_M:   8.4
num_steps:        16
num_params_M:     50.3
depth:            8
"""

LOG = "Vocab size: 8,192\n" + "".join(step_line(step, 1_000 if step < 12 else 1_000_000) for step in range(15)) + \
    step_line(15, 500_000) + SUMMARY  # fmt: skip


def test_step_lines_are_read() -> None:
    steps = parse_steps(LOG)
    assert [step.number for step in steps] == list(range(16))
    assert steps[-1].tokens_per_second == 500_000 and steps[-1].mfu_percent == 40.1 and steps[-1].loss == 4.000015


def test_the_summary_is_read() -> None:
    summary = parse_summary(LOG)
    assert summary["val_bpb"] == 0.9979 and summary["num_steps"] == 16 and summary["peak_vram_mb"] == 45060.2
    assert parse_summary("val_bpb: 1.0\n") == {}


def test_speeds_leave_the_first_steps_out() -> None:
    found = figures_of(LOG, variant=UNTOUCHED, seed=1, batch=2**19, wall=110.0)
    assert found.median_tokens_per_second == 1_000_000
    assert found.tokens_per_second == pytest.approx(4 / (3 / 1e6 + 1 / 5e5))  # the mean over time
    assert found.outside_seconds == pytest.approx(49.8)
    assert found.tokens == 16 * 2**19 and found.num_params == 50_300_000 and found.allocated_mb == 45060.2


def test_a_tail_shows_what_was_last_on_the_screen() -> None:
    assert tail(f"start\n{step_line(1, 5)}{step_line(2, 7)}\nTraceback: why\n").split("\n")[1].startswith("step 00002")
    assert tail("a\n" * 100).count("\n") == 29


TRAIN_PY = """
from kernels import get_kernel

import torch

cap = torch.cuda.get_device_capability()
DEPTH = 8                # layers
TOTAL_BATCH_SIZE = 2**19
torch.manual_seed(42)
torch.cuda.manual_seed(42)
device = torch.device("cuda")
context = torch.amp.autocast(device_type="cuda")
torch.cuda.synchronize()
peak = torch.cuda.max_memory_allocated()


def all_the_rest(self, long_window, base=10000):
    short_window = long_window // 2
    s = 3**0.5 * width**-0.5
    self.x0_lambdas.fill_(0.1)
    warm = min(step / 300, 1)
    groups = [
        dict(params=lm_head_params, betas=betas, weight_decay=0.0),
        dict(params=embedding_params, betas=betas, weight_decay=0.0),
        dict(params=value_embeds_params, betas=betas, weight_decay=0.0),
        dict(params=resid_params, betas=betas, weight_decay=0.0),
    ]
"""


def test_the_nights_changes_apply() -> None:
    text = edited(TRAIN_PY, NIGHT_EDITS)
    for words in (
        "base=200000)", "int(long_window * 0.125)", "s = 0.68 * 3**0.5", "x0_lambdas.fill_(0.05)", "step / 200, 1",
        "params=lm_head_params, betas=betas, weight_decay=0.01)", "params=embedding_params, betas=betas, weight_decay=0.001)",
        "params=value_embeds_params, betas=betas, weight_decay=0.003)", "params=resid_params, betas=betas, weight_decay=0.0)",
    ):  # fmt: skip
        assert words in text


def test_edits_for_a_cpu_leave_no_gpu() -> None:
    assert "cuda" not in edited(TRAIN_PY, [*CPU_EDITS, seed_edit(7)]).replace("torch.cuda.manual_seed(7)", "")
    assert edited('f(pin_memory=True, device="cuda")', CPU_PREPARE_EDITS) == 'f(pin_memory=False, device="cpu")'


def test_both_seeds_are_replaced() -> None:
    assert edited(TRAIN_PY, [seed_edit(7)]).count("manual_seed(7)") == 2


def test_an_edit_that_finds_nothing_is_an_error() -> None:
    with pytest.raises(UserError, match="manual_seed"):
        edited("torch.manual_seed(1)", [seed_edit(7)])


def test_constants_are_set_where_they_differ() -> None:
    assert with_constants(TRAIN_PY, {"DEPTH": 8, "TOTAL_BATCH_SIZE": 2**19}) == TRAIN_PY
    assert "DEPTH = 9                # layers" in with_constants(TRAIN_PY, {"DEPTH": 9})


RUNNING_TRAIN_PY = """
import os
from kernels import get_kernel
from prepare import TIME_BUDGET, MAX_SEQ_LEN
TOTAL_BATCH_SIZE = 2**10
SEED = "manual_seed(42)"
assert os.path.expanduser("~").endswith("home") and os.environ["CUDA_VISIBLE_DEVICES"] == "none"
assert os.environ["AUTORESEARCH_ATTENTION"] == "sdpa"
for step in range(20):
    print(f"\\rstep {step:05d} (1.0%) | loss: 2.0 | lrm: 1.00 | dt: 1ms | tok/sec: 1,000 | mfu: 1.0% | epoch: 1 ", end="")
print()
if SEED == "manual_seed(13)":
    raise SystemExit("that went wrong")
print("---")
print("val_bpb:          1.500000")
print(f"training_seconds: {TIME_BUDGET * 0:.1f}")
print("num_steps:        20")
"""


@pytest.fixture
def reference(tmp_path: Path) -> Reference:
    folder = tmp_path / "reference"
    folder.mkdir()
    (folder / "train.py").write_text(RUNNING_TRAIN_PY)
    (folder / "prepare.py").write_text("MAX_SEQ_LEN = 2048\nTIME_BUDGET = 300\nEVAL_TOKENS = 40 * 524288\n")
    kernels = tmp_path / "work" / "stand-ins"
    kernels.mkdir(parents=True)
    (kernels / "kernels.py").write_text("get_kernel = None\n")
    return Reference(
        folder=folder, work=tmp_path / "work", contract=PROFILES["cpu"].contract, visible_device="none", attention="sdpa"
    )


def test_a_run_has_the_contracts_constants_and_its_figures(reference: Reference) -> None:
    before = {path.name: path.read_text() for path in reference.folder.iterdir()}
    found = reference.run("one", variant=UNTOUCHED, seed=3, train_py=reference.train_py())
    assert (found.status, found.reason, found.reference_bpb, found.tokens) == ("ok", "", 1.5, 20 * 2**10)
    assert found.tokens_per_second == 1000.0 and found.outside_seconds is not None
    folder = reference.work / "runs" / "one"
    assert (folder / "prepare.py").read_text() == "MAX_SEQ_LEN = 256\nTIME_BUDGET = 15\nEVAL_TOKENS = 2**16\n"
    assert "manual_seed(3)" in (folder / "train.py").read_text()
    assert {path.name: path.read_text() for path in reference.folder.iterdir()} == before


def test_a_run_that_fails_shows_the_end_of_its_log(reference: Reference) -> None:
    found = reference.run("one", variant=UNTOUCHED, seed=13, train_py=reference.train_py())
    assert found.status == "failed" and found.own_bpb is None
    assert found.reason.startswith("exit status 1") and found.reason.endswith("that went wrong")
    assert "that went wrong" in line(found)


def run(variant: str, seed: int, bpb: float, speed: float = 1.0) -> Figures:
    figures = Figures(variant=variant, seed=seed, status="ok", own_bpb=bpb + 0.01, reference_bpb=bpb)
    return replace(figures, tokens_per_second=speed, allocated_mb=0.0)


def test_speeds_compare_pair_by_pair() -> None:
    runs = [run(UNTOUCHED, 1, 1.0, 10.0), run(OURS, 1, 1.0, 11.0), run(UNTOUCHED, 2, 1.0, 20.0), run(OURS, 2, 1.0, 26.0)]
    summary = speed_summary([*runs, run(OURS, 3, 1.0, 9.0)])
    assert list(summary) == ["tokens_per_second"]
    assert summary["tokens_per_second"]["mean"] == pytest.approx(1.2)
    assert (summary["tokens_per_second"]["least"], summary["tokens_per_second"]["most"]) == (1.1, 1.3)


HEAD = Head(platform="a card", profile="cpu", budget=1.0, mode="score", attention="sdpa")


def test_scores_compare_seed_by_seed(tmp_path: Path) -> None:
    record = Record(HEAD, tmp_path / "figures.json")
    for variant, bpb in ((UNTOUCHED, 1.0), (NIGHT, 0.9), (OURS, 0.8)):
        for seed in (1, 2):
            record.add(run(variant, seed, bpb + seed / 100))
    summary = score_summary(record.runs)
    assert summary[UNTOUCHED]["deviation"] == pytest.approx(0.01 / 2**0.5)
    assert summary[f"{OURS} - {NIGHT}"]["mean"] == pytest.approx(-0.1)
    assert summary["our judge - the reference's evaluator"]["mean"] == pytest.approx(0.01)
    assert (tmp_path / "figures.json").read_text().count('"variant"') == 6
    assert OURS in record.summary_text()


FAILED = Figures(variant=OURS, seed=2, status="oom", reason="no memory")


def test_a_record_resumes_from_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "figures.json"
    record = Record(HEAD, path)
    for found in (run(UNTOUCHED, 1, 1.0), FAILED, replace(run(OURS, 1, 0.8), reference_bpb=None, reason="not scored")):
        record.add(found)
    printed = capsys.readouterr().out
    again = Record(HEAD, path)
    again.begin()
    assert sorted(capsys.readouterr().out.splitlines()) == sorted(printed.splitlines())
    assert [again.lacks(*which) for which in ((UNTOUCHED, 1), (OURS, 1), (OURS, 2), (NIGHT, 1))] == [False, True, True, True]
    again.add(run(OURS, 2, 0.8))
    assert not again.lacks(OURS, 2)
    assert [(found.variant, found.seed) for found in Record(HEAD, path).runs] == [(UNTOUCHED, 1), (OURS, 1), (OURS, 2)]
    assert list(tmp_path.iterdir()) == [path]


def test_a_record_counts_the_runs_of_added_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [tmp_path / name for name in ("one.json", "other.json", "all.json")]
    for path, found in ((paths[0], run(UNTOUCHED, 2, 1.0)), (paths[1], FAILED), (paths[1], run(OURS, 1, 0.8))):
        Record(HEAD, path).add(found)
    record = Record(HEAD, paths[2], added=paths[:2])
    capsys.readouterr()
    record.begin()
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["1", "2", "2", "oom:"]  # seed by seed
    assert (record.lacks(UNTOUCHED, 2), record.lacks(OURS, 2), record.lacks(OURS, 1)) == (False, True, False)
    record.add(run(OURS, 2, 0.7))
    written = json.loads(paths[2].read_text())
    assert [(found["variant"], found["seed"]) for found in written["runs"]] == [(OURS, 2)]
    assert written["summary"][f"{OURS} - {UNTOUCHED}"]["mean"] == pytest.approx(-0.3)
    assert written["summary"][OURS]["count"] == 2


def test_an_own_run_counts_before_an_added_one(tmp_path: Path) -> None:
    Record(HEAD, tmp_path / "other.json").add(run(OURS, 1, 0.8))
    Record(HEAD, tmp_path / "own.json").add(run(OURS, 1, 0.7))
    record = Record(HEAD, tmp_path / "own.json", added=[tmp_path / "other.json"])
    assert [found.reference_bpb for found in record.runs] == [0.7]


def test_runs_under_another_head_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    Record(HEAD, path).add(run(OURS, 1, 0.8))
    before = path.read_text()
    other = replace(HEAD, platform="another card", budget=2.0)
    for read in (lambda: Record(other, path), lambda: Record(other, tmp_path / "new.json", added=[path])):
        with pytest.raises(UserError) as refused:
            read()
        message = str(refused.value)
        assert "platform 'a card' there, 'another card' here; budget 1.0 there, 2.0 here)" in message
        assert str(path) in message and "name another file" in message and "\n" not in message
    assert path.read_text() == before


@pytest.mark.parametrize("text", ["", "[]", '{"runs": [{"variant": "ours"}]}'])
def test_another_kind_of_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "figures.json"
    path.write_text(text)
    with pytest.raises(UserError, match="has no runs of this benchmark"):
        Record(HEAD, path)


def test_an_added_file_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="can't be read"):
        Record(HEAD, added=[tmp_path / "none.json"])
