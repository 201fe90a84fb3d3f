"""The judge's own arithmetic."""

import re
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from research.judge.cross_entropy import can_read_once, cross_entropy, cross_entropy_read_once, row_scores


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
