"""Whether two processes' answers agree."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from research.judge.consistency import Consistency, Splices, Tolerance, compare_prefixes, splice_rows, tolerance_for

ALLOWED = Tolerance(mean=1e-4, bias=1e-5, row_rms=2e-4, boundary=1e-3, look=1e-4, boundary_rms=0.01, largest=0.05)


def consistency(**changes: float) -> Consistency:
    """Of 400 rows that agree, but for `changes`."""
    equal = Consistency(rows=400, mean=0.0, error=0.0, row_rms=0.0, section_rms=0.0, boundary=0.0,
                        boundary_error=0.0, boundary_rms=0.0, largest=0.0)  # fmt: skip
    return replace(equal, **changes)


def test_splices_are_prefixes_with_the_suffix_of_another_text() -> None:
    rows = np.arange(20)[:, None] * 100 + np.arange(33)
    donors = rows[:15] + 10_000
    splices = splice_rows(rows, 12, np.random.default_rng(1), donors=donors)
    assert len(set(splices.rows.tolist())) == 12
    everywhere = splice_rows(np.tile(rows, (100, 1)), 2000, np.random.default_rng(1), donors=donors)
    assert set(everywhere.lengths.tolist()) == set(range(1, 33)), "each position is tried, also the last one"
    for row, length, ids in zip(splices.rows, splices.lengths, splices.ids, strict=True):
        assert 1 <= length <= 32
        assert (ids[:length] == rows[row, :length]).all()
        assert (ids[length:] == donors[ids[-1] // 100 - 100, length:]).all()
    assert len({ids[-1] for ids in splices.ids}) == 12, "a suffix that two rows have would show where they were spliced"


@pytest.fixture
def spliced() -> tuple[np.ndarray, np.ndarray, Splices]:
    """A's nats, B's equal ones, and the splices."""
    rng = np.random.default_rng(1)
    splices = splice_rows(rng.integers(0, 9, size=(20, 33)), 12, rng, donors=rng.integers(0, 9, size=(20, 33)))
    nats = rng.random((20, 32)).astype(np.float32)
    return nats, nats[splices.rows].copy(), splices


def test_equal_answers_are_consistent(spliced: tuple[np.ndarray, np.ndarray, Splices]) -> None:
    nats, other, splices = spliced
    for n, length in enumerate(splices.lengths):
        other[n, length:] = 50.0  # behind the splice answers may be anything
    found = compare_prefixes(nats, other, splices, counts=np.ones(nats.shape, dtype=bool))
    assert found == consistency(rows=12) and found.broken_rule(ALLOWED) is None


def test_a_look_one_token_ahead_shows_at_the_last_position_of_the_prefix(
    spliced: tuple[np.ndarray, np.ndarray, Splices],
) -> None:
    nats, other, splices = spliced
    other[np.arange(12), splices.lengths - 1] += 1.0
    found = compare_prefixes(nats, other, splices, counts=np.ones(nats.shape, dtype=bool))
    assert found.boundary == pytest.approx(1.0)
    assert "looks ahead" in str(found.broken_rule(ALLOWED))


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"mean": 2e-4, "error": 1.0}, "on average"),
        ({"mean": -2e-4}, "on average"),
        ({"mean": 6e-5, "error": 1e-5}, "in one direction"),
        ({"mean": -6e-5, "error": 1e-5}, "in one direction"),
        ({"row_rms": 3e-4}, "between rows"),
        ({"section_rms": 6e-4}, "between rows in a part of the positions"),
        ({"boundary_rms": 0.02}, "before the splice"),
        ({"largest": 0.06}, "on one token"),
        ({"mean": float("nan")}, "on average"),
        ({"row_rms": float("inf")}, "between rows"),
    ],
)
def test_other_differences_break_the_rule_too(changes: dict[str, float], where: str) -> None:
    broken = consistency(**changes).broken_rule(ALLOWED)
    assert broken is not None and broken.endswith(f"differently {where}"), "no number that a scorer could choose"


@pytest.mark.parametrize("changes", [{"mean": 4e-5, "error": 1e-5}, {"mean": 1e-5}, {"mean": -9e-5, "error": 3e-5}])
def test_a_mean_within_its_errors_or_below_the_floor_is_honest(changes: dict[str, float]) -> None:
    assert consistency(**changes).broken_rule(ALLOWED) is None


def test_differences_of_both_signs_do_not_cancel(spliced: tuple[np.ndarray, np.ndarray, Splices]) -> None:
    nats, other, splices = spliced
    other += np.where(np.arange(12) % 2, 0.001, -0.001)[:, None].astype(np.float32)
    found = compare_prefixes(nats, other, splices, counts=np.ones(nats.shape, dtype=bool))
    assert abs(found.mean) < 1e-6 and abs(found.boundary) < 1e-6 and found.largest < 0.0011
    assert found.row_rms == pytest.approx(0.001, rel=1e-3) and found.error == pytest.approx(0.001 / 11**0.5, rel=1e-3)
    assert "between rows" in str(found.broken_rule(ALLOWED))


def test_targets_that_no_score_counts_make_up_for_nothing(spliced: tuple[np.ndarray, np.ndarray, Splices]) -> None:
    """A model could answer worse there at no cost, and have as much to gain elsewhere."""
    nats, other, splices = spliced
    counts = np.ones(nats.shape, dtype=bool)
    last = np.arange(12), splices.lengths - 1
    counts[splices.rows[:6], splices.lengths[:6] - 1] = False
    other[last] += np.where(np.arange(12) < 6, -0.002, 0.002).astype(np.float32)
    found = compare_prefixes(nats, other, splices, counts=counts)
    assert found.boundary == pytest.approx(0.002, rel=1e-3) and "looks ahead" in str(found.broken_rule(ALLOWED))


def test_what_is_learned_for_the_last_positions_alone_is_not_diluted_by_the_others() -> None:
    rng = np.random.default_rng(1)
    nats = rng.uniform(1, 3, (400, 64)).astype(np.float32)
    splices = splice_rows(np.zeros((400, 65), dtype=np.int32), 400, rng, donors=np.ones((400, 65), dtype=np.int32))
    other = nats[splices.rows] + np.where(np.arange(64) >= 56, rng.choice([-0.001, 0.001], (400, 1)), 0.0).astype(np.float32)
    found = compare_prefixes(nats, other, splices, counts=np.ones(nats.shape, dtype=bool))
    assert found.row_rms < 1e-4 and found.section_rms == pytest.approx(0.001, rel=1e-2)
    assert "in a part of the positions" in str(found.broken_rule(ALLOWED))


def test_differences_of_both_signs_before_the_splice_do_not_cancel(
    spliced: tuple[np.ndarray, np.ndarray, Splices],
) -> None:
    """A process that knows how some rows go on could make up there for what it can't see in the others."""
    nats, other, splices = spliced
    other[np.arange(12), splices.lengths - 1] += np.where(np.arange(12) % 2, 0.04, -0.04).astype(np.float32)
    found = compare_prefixes(nats, other, splices, counts=np.ones(nats.shape, dtype=bool))
    assert abs(found.boundary) < 1e-6 and found.boundary_rms == pytest.approx(0.04, rel=1e-3)
    assert found.broken_rule(replace(ALLOWED, mean=1.0, bias=1.0, row_rms=1.0)) is not None


@pytest.mark.parametrize("width", [2, 5, 8, 9])
def test_rows_shorter_than_the_sections_are_compared_too(width: int) -> None:
    splices = Splices(rows=np.array([1]), lengths=np.array([1]), ids=np.zeros((1, width + 1)))
    found = compare_prefixes(np.zeros((2, width)), np.full((1, width), 0.25), splices, counts=np.ones((2, width), dtype=bool))
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
