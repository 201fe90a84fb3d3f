"""The judge's own arithmetic."""

import numpy as np
import pytest
import torch

from research.score import Consistency, Tolerance, bits_per_byte, compare_prefixes, cross_entropy, splice_rows, tolerance_for

ALLOWED = Tolerance(mean=1e-4, boundary=1e-3, largest=0.05)


@pytest.mark.parametrize("chunk", [1, 7, 8192])
def test_cross_entropy_is_normalised_here(chunk: int) -> None:
    torch.manual_seed(1)
    logits, targets = 5 * torch.randn(3, 5, 11), torch.randint(11, (3, 5))
    expected = -logits.double().log_softmax(-1).gather(-1, targets[..., None])[..., 0]
    found = cross_entropy(logits, targets, chunk_tokens=chunk)
    assert found.shape == (3, 5)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(cross_entropy(logits + 1000, targets), found, atol=1e-3, rtol=1e-3)


def test_bits_per_byte_weighs_by_bytes_and_leaves_special_tokens_out() -> None:
    token_bytes = np.array([1, 3, 0])
    targets = np.array([[0, 1, 2], [1, 1, 2]])
    nats = np.log(2) * np.array([[1.0, 2.0, 100.0], [3.0, 4.0, 100.0]])
    assert bits_per_byte(nats, targets, token_bytes) == pytest.approx((1 + 2 + 3 + 4) / (1 + 3 + 3 + 3))


def test_splices_are_prefixes_with_another_rows_suffix() -> None:
    rows = np.arange(20)[:, None] * 100 + np.arange(33)
    splices = splice_rows(rows, 12, np.random.default_rng(1))
    assert len(set(splices.rows.tolist())) == 12
    for row, length, ids in zip(splices.rows, splices.lengths, splices.ids, strict=True):
        assert 4 <= length <= 29
        assert (ids[:length] == rows[row, :length]).all()
        donor = ids[-1] // 100
        assert donor != row and (ids[length:] == rows[donor, length:]).all()


@pytest.fixture
def spliced() -> tuple[np.ndarray, np.ndarray, object]:
    """A's nats, B's equal ones, and the splices."""
    rng = np.random.default_rng(1)
    splices = splice_rows(rng.integers(0, 9, size=(20, 33)), 12, rng)
    nats = rng.random((20, 32)).astype(np.float32)
    return nats, nats[splices.rows].copy(), splices


def test_equal_answers_are_consistent(spliced: tuple) -> None:  # type: ignore[type-arg]
    nats, other, splices = spliced
    for n, length in enumerate(splices.lengths):
        other[n, length:] = 50.0  # behind the splice answers may be anything
    found = compare_prefixes(nats, other, splices)
    assert found == Consistency(rows=12, mean=0.0, boundary=0.0, largest=0.0) and found.broken_rule(ALLOWED) is None


def test_a_look_one_token_ahead_shows_at_the_last_position_of_the_prefix(spliced: tuple) -> None:  # type: ignore[type-arg]
    nats, other, splices = spliced
    other[np.arange(12), splices.lengths - 1] += 1.0
    found = compare_prefixes(nats, other, splices)
    assert found.boundary == pytest.approx(1.0)
    assert "looks ahead" in str(found.broken_rule(ALLOWED))


@pytest.mark.parametrize(("mean", "boundary", "largest"), [(2e-4, 0.0, 0.0), (0.0, 0.0, 0.06), (float("nan"), 0.0, 0.0)])
def test_other_differences_break_the_rule_too(mean: float, boundary: float, largest: float) -> None:
    assert "fresh process" in str(Consistency(rows=1, mean=mean, boundary=boundary, largest=largest).broken_rule(ALLOWED))


@pytest.mark.parametrize("boundary", [2e-3, -2e-3, float("nan")])
def test_a_difference_at_the_boundary_counts_in_both_directions(boundary: float) -> None:
    assert "looks ahead" in str(Consistency(rows=1, mean=0.0, boundary=boundary, largest=0.0).broken_rule(ALLOWED))


def test_a_cpu_is_held_to_more_than_a_gpu() -> None:
    cpu, gpu = tolerance_for(torch.device("cpu")), tolerance_for(torch.device("cuda"))
    assert cpu.mean < gpu.mean and cpu.boundary < gpu.boundary and cpu.largest < gpu.largest
