"""The picture to share: from where to where, how sure, of how many runs, on what."""

from dataclasses import replace

import pytest

from cluster.home import Home
from cluster.morning_report.card_of import card_of, newest_head
from results.card import Card, card_figure
from results.history import read_history


@pytest.fixture(scope="module")
def card(night: Home) -> Card:
    return card_of(newest_head(night, read_history(night.journal)))


def words_in(card: Card) -> str:
    figure = card_figure(card)
    return " ".join(text.get_text() for text in figure.texts)


def test_the_picture_says_baseline_best_interval_runs_sigma_and_device(card: Card) -> None:
    said = words_in(card)
    for fact in ("1.0421", "1.0140", "+0.0281", "[+0.0262, +0.0301]", "90%", "5 fresh seeds", "18 experiments", "5 kept",
                 "31 scored runs", "sigma", "NVIDIA H100", "standard"):  # fmt: skip
        assert fact in said, fact


def test_the_curve_has_every_score_and_the_head_with_its_interval(card: Card) -> None:
    (axes,) = card_figure(card).axes
    drawn = sum(len(one.get_offsets()) for one in axes.collections if one.get_label() in ("kept", "discarded"))
    assert drawn == len(card.tried) == 17
    (line,) = [line for line in axes.lines if line.get_label().startswith("head")]
    first, *_, last = line.get_ydata()
    assert (first, last) == (pytest.approx(1.0421), pytest.approx(1.0140))
    low, high = axes.get_ylim()
    assert low < min(one.val_bpb for one in card.tried) and high > 1.0421


def test_a_head_that_is_still_the_baseline_claims_nothing(card: Card) -> None:
    said = words_in(replace(card, gain=None, confirmed="", steps=(), tried=(), name="$x^2$"))
    assert "still the baseline" in said and "sigma" not in said and "gain +" not in said


def test_a_head_that_is_still_the_baseline_leaves_room_for_all_scores(card: Card) -> None:
    """Whose expected score, by which nothing has changed yet, spans no range."""
    one, other = (replace(card.tried[0], at=at, val_bpb=score, is_kept=at == 0) for at, score in ((0, 1.07), (1, 1.09)))
    (axes,) = card_figure(replace(card, gain=None, tried=(one, other), steps=((0, 1.05),), last=1)).axes
    low, high = axes.get_ylim()
    assert low < 1.05 and high > 1.09 and "up" not in " ".join(text.get_text() for text in axes.get_legend().get_texts())


def test_one_bad_score_does_not_flatten_the_curve(card: Card) -> None:
    far = replace(card, tried=(replace(card.tried[0], val_bpb=9.0, is_kept=False), *card.tried[1:]))
    (axes,) = card_figure(far).axes
    assert axes.get_ylim()[1] < 1.2
    named = [text.get_text() for text in axes.get_legend().get_texts()]
    assert any("further up (1)" in text for text in named), "it is shown all the same"
    assert any("90%" in text for text in named), "and so is what the whisker means"
