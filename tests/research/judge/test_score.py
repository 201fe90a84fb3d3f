"""The judge's own arithmetic."""

import os
import re
import subprocess
import sys
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from research.judge.score import (
    Consistency,
    Splices,
    Tolerance,
    can_read_once,
    compare_prefixes,
    cross_entropy,
    cross_entropy_read_once,
    row_scores,
    splice_rows,
    tolerance_for,
)

ALLOWED = Tolerance(mean=1e-4, bias=1e-5, row_rms=2e-4, boundary=1e-3, look=1e-4, largest=0.05)


def consistency(**changes: float) -> Consistency:
    """Of 400 rows that agree, but for `changes`."""
    equal = Consistency(rows=400, mean=0.0, error=0.0, row_rms=0.0, section_rms=0.0, boundary=0.0,
                        boundary_error=0.0, largest=0.0)  # fmt: skip
    return replace(equal, **changes)


@pytest.mark.parametrize("chunk", [1, 7, 8192])
def test_cross_entropy_is_normalised_here(chunk: int) -> None:
    torch.manual_seed(1)
    logits, targets = 5 * torch.randn(3, 5, 11), torch.randint(11, (3, 5))
    expected = -logits.double().log_softmax(-1).gather(-1, targets[..., None])[..., 0]
    found = cross_entropy(logits, targets, chunk_tokens=chunk)
    assert found.shape == (3, 5)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(cross_entropy(logits + 1000, targets), found, atol=1e-3, rtol=1e-3)


def test_huge_logits_are_normalised_and_impossible_tokens_left_out() -> None:
    """A constant on all tokens changes nothing; -inf takes a token out, as an honest model may do with one that is padding."""
    logits, targets = torch.randn(2, 3, 8), torch.randint(4, (2, 3))
    masked = logits.clone()
    masked[..., 4:] = float("-inf")
    torch.testing.assert_close(cross_entropy(masked, targets), cross_entropy(logits[..., :4], targets))
    assert cross_entropy(torch.full((1, 1, 8), 3e38), torch.zeros(1, 1, dtype=torch.int64)).item() == pytest.approx(np.log(8))


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_logits_that_are_no_numbers_give_none(value: float) -> None:
    logits = torch.zeros(1, 2, 8)
    logits[0, 1, 5] = value
    assert cross_entropy(logits, torch.tensor([[1, 5]])).isfinite().tolist() == [[True, False]]


INTERPRETED = """
import torch
from research.judge.cross_entropy_kernel import cross_entropy_rows

inf = float("inf")
for vocabulary in (64, 50, 1000):
    logits, targets = 5 * torch.randn(7, vocabulary), torch.randint(vocabulary, (7,))
    targets[0], targets[1] = 0, vocabulary - 1
    expected = torch.nn.functional.cross_entropy(logits.double(), targets, reduction="none")
    torch.testing.assert_close(cross_entropy_rows(logits, targets).double(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(cross_entropy_rows(logits + 1000, targets).double(), expected, atol=1e-3, rtol=1e-3)
    odd, first = logits.clone(), torch.zeros(7, dtype=torch.int64)
    odd[:, 3:] = -inf
    expected = torch.nn.functional.cross_entropy(odd[:, :3].double(), first, reduction="none")
    torch.testing.assert_close(cross_entropy_rows(odd, first).double(), expected, atol=1e-5, rtol=1e-5)
    odd[0], odd[1, 2], odd[2, 5], odd[3, 0] = 3e38, inf, float("nan"), -inf
    found = cross_entropy_rows(odd, first)
    assert abs(found[0] - torch.tensor(vocabulary).log()) < 1e-4
    assert found.isfinite().tolist() == [True, False, False, False, True, True, True], found
    assert found[3] == inf
print("right")
"""


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
def test_the_judges_kernel_is_right_in_tritons_interpreter() -> None:
    root = Path(__file__).parents[3]
    environment = dict(os.environ) | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", INTERPRETED], env=environment, cwd=root, capture_output=True, text=True)
    assert done.stdout == "right\n", done.stderr


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.parametrize("vocabulary", [50, 2048, 8192, 2**15])
def test_the_compiled_kernel_reads_each_logit_once(vocabulary: int) -> None:
    """A thread reads as often as it has columns, and the target: compiled for a Hopper GPU, which needn't be there."""
    from triton import next_power_of_2
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from research.judge.cross_entropy_kernel import cross_entropy_kernel, warps_for

    columns = next_power_of_2(vocabulary)
    signature = {"logits": "*fp32", "targets": "*i64", "losses": "*fp32", "VOCABULARY": "constexpr", "COLUMNS": "constexpr"}
    source = ASTSource(cross_entropy_kernel, signature, {"VOCABULARY": vocabulary, "COLUMNS": columns})
    warps = warps_for(columns)
    compiled = compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps})
    reads = re.findall(r"ld(?:\.volatile)?\.global\S*", compiled.asm["ptx"])
    assert len([read for read in reads if "volatile" in read]) == columns // (32 * warps)
    assert len([read for read in reads if "volatile" not in read]) == 1


def test_a_cpu_reads_from_a_copy() -> None:
    assert not can_read_once(torch.device("cpu"), 8)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible")
@pytest.mark.parametrize("vocabulary", [50, 8192, 2**15, 2**15 + 1])
def test_a_gpu_finds_what_float64_does(vocabulary: int) -> None:
    torch.manual_seed(1)
    logits = 5 * torch.randn(2, 300, vocabulary, device="cuda")
    targets = torch.randint(vocabulary, (2, 300))
    expected = torch.nn.functional.cross_entropy(logits.double().flatten(0, 1), targets.flatten().cuda(), reduction="none")
    torch.testing.assert_close(cross_entropy(logits, targets).flatten().double(), expected.cpu(), atol=1e-5, rtol=1e-5)
    assert can_read_once(logits.device, vocabulary) is (vocabulary <= 2**15)
    if vocabulary <= 2**15:
        found = cross_entropy_read_once(logits, targets)
        assert found.shape == (2, 300)
        torch.testing.assert_close(found.flatten().double(), expected.cpu(), atol=1e-5, rtol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible")
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_logits_that_are_no_numbers_give_none_on_a_gpu(value: float) -> None:
    logits = torch.zeros(1, 2, 8, device="cuda")
    logits[0, 1, 5] = value
    assert cross_entropy_read_once(logits, torch.tensor([[1, 5]])).isfinite().tolist() == [[True, False]]


def test_a_target_that_is_impossible_costs_without_bound() -> None:
    logits = torch.zeros(1, 1, 8)
    logits[..., 3] = float("-inf")
    assert cross_entropy(logits, torch.tensor([[3]])).item() == float("inf")


def test_bits_per_byte_weighs_by_bytes_and_leaves_special_tokens_out() -> None:
    token_bytes = np.array([1, 3, 0])
    targets = np.array([[0, 1, 2], [1, 1, 2]])
    nats = np.log(2) * np.array([[1.0, 2.0, 100.0], [3.0, 4.0, 100.0]])
    scores = row_scores(nats, targets, token_bytes)
    assert scores.bytes.tolist() == [4, 6]
    assert scores.bits_per_byte == pytest.approx((1 + 2 + 3 + 4) / (1 + 3 + 3 + 3))


def test_splices_are_prefixes_with_another_rows_suffix() -> None:
    rows = np.arange(20)[:, None] * 100 + np.arange(33)
    splices = splice_rows(rows, 12, np.random.default_rng(1))
    assert len(set(splices.rows.tolist())) == 12
    everywhere = splice_rows(np.tile(rows, (100, 1)), 2000, np.random.default_rng(1))
    assert set(everywhere.lengths.tolist()) == set(range(1, 32)), "each place that can be looked ahead from is tried"
    for row, length, ids in zip(splices.rows, splices.lengths, splices.ids, strict=True):
        assert 1 <= length <= 31
        assert (ids[:length] == rows[row, :length]).all()
        donor = ids[-1] // 100
        assert donor != row and (ids[length:] == rows[donor, length:]).all()


@pytest.fixture
def spliced() -> tuple[np.ndarray, np.ndarray, Splices]:
    """A's nats, B's equal ones, and the splices."""
    rng = np.random.default_rng(1)
    splices = splice_rows(rng.integers(0, 9, size=(20, 33)), 12, rng)
    nats = rng.random((20, 32)).astype(np.float32)
    return nats, nats[splices.rows].copy(), splices


def test_equal_answers_are_consistent(spliced: tuple[np.ndarray, np.ndarray, Splices]) -> None:
    nats, other, splices = spliced
    for n, length in enumerate(splices.lengths):
        other[n, length:] = 50.0  # behind the splice answers may be anything
    found = compare_prefixes(nats, other, splices)
    assert found == consistency(rows=12) and found.broken_rule(ALLOWED) is None


def test_a_look_one_token_ahead_shows_at_the_last_position_of_the_prefix(
    spliced: tuple[np.ndarray, np.ndarray, Splices],
) -> None:
    nats, other, splices = spliced
    other[np.arange(12), splices.lengths - 1] += 1.0
    found = compare_prefixes(nats, other, splices)
    assert found.boundary == pytest.approx(1.0)
    assert "looks ahead" in str(found.broken_rule(ALLOWED))


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"mean": 2e-4, "error": 1.0}, "on average"),
        ({"mean": -2e-4}, "on average"),
        ({"mean": 6e-5, "error": 1e-5}, "one way"),
        ({"mean": -6e-5, "error": 1e-5}, "one way"),
        ({"row_rms": 3e-4}, "from row to row"),
        ({"section_rms": 6e-4}, "from row to row in a part of the positions"),
        ({"largest": 0.06}, "for a token"),
        ({"mean": float("nan")}, "on average"),
        ({"row_rms": float("inf")}, "from row to row"),
    ],
)
def test_other_differences_break_the_rule_too(changes: dict[str, float], where: str) -> None:
    broken = consistency(**changes).broken_rule(ALLOWED)
    assert broken is not None and broken.startswith(f"the same prefix got other answers in a fresh process, {where}")
    assert "on 400 rows" in broken and len(broken) < 300


@pytest.mark.parametrize("changes", [{"mean": 4e-5, "error": 1e-5}, {"mean": 1e-5}, {"mean": -9e-5, "error": 3e-5}])
def test_a_mean_within_its_errors_or_below_the_floor_is_honest(changes: dict[str, float]) -> None:
    assert consistency(**changes).broken_rule(ALLOWED) is None


def test_differences_of_both_signs_do_not_cancel(spliced: tuple[np.ndarray, np.ndarray, Splices]) -> None:
    nats, other, splices = spliced
    other += np.where(np.arange(12) % 2, 0.001, -0.001)[:, None].astype(np.float32)
    found = compare_prefixes(nats, other, splices)
    assert abs(found.mean) < 1e-6 and abs(found.boundary) < 1e-6 and found.largest < 0.0011
    assert found.row_rms == pytest.approx(0.001, rel=1e-3) and found.error == pytest.approx(0.001 / 11**0.5, rel=1e-3)
    assert "from row to row" in str(found.broken_rule(ALLOWED))


def test_what_is_learned_for_the_last_positions_alone_is_not_diluted_by_the_others() -> None:
    rng = np.random.default_rng(1)
    nats = rng.uniform(1, 3, (400, 64)).astype(np.float32)
    splices = splice_rows(np.zeros((400, 65), dtype=np.int32), 400, rng)
    other = nats[splices.rows] + np.where(np.arange(64) >= 56, rng.choice([-0.001, 0.001], (400, 1)), 0.0).astype(np.float32)
    found = compare_prefixes(nats, other, splices)
    assert found.row_rms < 1e-4 and found.section_rms == pytest.approx(0.001, rel=1e-2)
    assert "in a part of the positions" in str(found.broken_rule(ALLOWED))


@pytest.mark.parametrize("width", [2, 5, 8, 9])
def test_rows_shorter_than_the_sections_are_compared_too(width: int) -> None:
    splices = Splices(rows=np.array([1]), lengths=np.array([1]), ids=np.zeros((1, width + 1)))
    found = compare_prefixes(np.zeros((2, width)), np.full((1, width), 0.25), splices)
    assert found.section_rms == found.row_rms == 0.25


@pytest.mark.parametrize("boundary", [2e-3, -2e-3, float("nan")])
def test_a_difference_at_the_boundary_counts_in_both_directions(boundary: float) -> None:
    assert "looks ahead" in str(consistency(boundary=boundary).broken_rule(ALLOWED))


def test_a_look_ahead_below_the_fixed_limit_is_found_by_its_direction() -> None:
    """Rounding has none: 5e-4 nats each row are too much where their mean is known to 5e-5, and not where it is to 5e-4."""
    assert "looks ahead" in str(consistency(boundary=5e-4, boundary_error=5e-5).broken_rule(ALLOWED))
    assert consistency(boundary=5e-4, boundary_error=5e-4).broken_rule(ALLOWED) is None


def test_a_cpu_is_held_to_more_than_a_gpu() -> None:
    cpu, gpu = tolerance_for(torch.device("cpu")), tolerance_for(torch.device("cuda"))
    assert all(limit < asdict(gpu)[name] for name, limit in asdict(cpu).items())
