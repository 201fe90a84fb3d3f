"""A curve per knob from the history: how good its values were, and which step to take next."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

from agent.search.knobs import Knob
from results.experiment import ExperimentRecord

FAILURE = -15.0
"""The gain, in sigmas, that a crash, a divergence or a broken rule counts as."""
NOTHING_SHOWN = 1.4
"""Standard deviation of the difference of two scores of the same code, in sigmas: a smaller loss shows nothing."""
LARGEST = 25.0
"""Gains and losses are clipped to this many sigmas."""
FORGET_AFTER = 6
"""Keeps after which a measurement is stale: so much has changed that the value may be tried again."""


@dataclass(frozen=True, kw_only=True)
class Move:
    """The last experiment that brought a knob to a position."""

    old: float
    kept: bool
    failed: bool
    """Whether it has no score, so that its gain is FAILURE."""


@dataclass(kw_only=True)
class Curve:
    """A knob's values and how good they were, in sigmas on one common scale, assuming that knobs act independently."""

    heights: dict[float, float] = field(default_factory=dict)
    """Position -> height."""
    measured: dict[float, int] = field(default_factory=dict)
    """Position -> keeps of the branch when it was measured."""
    moves: dict[float, Move] = field(default_factory=dict)
    """Position -> the last experiment that moved the knob there."""
    came_from: float | None = None
    """Position of the knob before its last keep."""
    trials: int = 0
    """Experiments that say something about the knob: those that changed it alone, or were kept."""
    keeps: int = 0
    changes: int = 0
    """All experiments with an outcome that changed the knob."""
    busy: bool = False
    """Whether the experiment that is training now changes the knob."""

    def seen_from(self, head: float, *, keeps: int) -> dict[float, float]:
        """Distance from the head -> height relative to the head's. Stale measurements are left out."""
        if head not in self.heights:
            return {}
        fresh = [position for position, then in self.measured.items() if keeps - then < FORGET_AFTER]
        base = self.heights[head]
        return {position - head: self.heights[position] - base for position in fresh if position != head}

    @property
    def success(self) -> float:
        """A factor on the prior: 1 before the first experiment, more after keeps, less if all failed."""
        return (1 + self.keeps) / (1 + 0.5 * self.trials)

    def add(self, old: float, new: float, gain: float, *, kept: bool, failed: bool, keeps: int) -> None:
        """Adds one experiment that moved the knob from `old` to `new`."""
        if old not in self.heights:  # the head's value comes from an edit that the curve doesn't hold
            self.heights, self.measured, self.moves = {old: 0.0}, {}, {}
        self.heights[new] = self.heights[old] + gain
        self.measured[old] = self.measured[new] = keeps
        self.moves[new] = Move(old=old, kept=kept, failed=failed)
        self.trials += 1
        if kept:
            self.keeps += 1
            self.came_from = old


@dataclass(frozen=True, kw_only=True)
class KnobStep:
    """A step of one knob that is worth trying."""

    position: float
    score: float
    """The expected gain, in sigmas."""
    why: str
    """The reason, as it is shown in the hypothesis."""


def outcome(record: ExperimentRecord, sigma: float) -> float | None:
    """The gain of an experiment in sigmas; None while it trains, if it was lost, or if nothing is known of its gain.

    A later ruling, such as that it is kept after all, has an estimated effect instead of the gain of one run.
    """
    verdict = record.verdict
    if verdict is None or verdict.decision == "lost":
        return None
    if has_failed(record):
        return FAILURE
    gain = verdict.effect if verdict.gain is None else verdict.gain
    return None if gain is None else max(-LARGEST, min(LARGEST, gain / (verdict.sigma or sigma)))


def has_failed(record: ExperimentRecord) -> bool:
    """Whether an experiment has ended without a score."""
    return record.verdict is not None and record.verdict.decision in ("crash", "invalid")


def read_curves(knobs: Iterable[Knob], records: Iterable[ExperimentRecord], sigma: float) -> dict[str, Curve]:
    """Each knob's curve, by label. Experiments that changed several knobs count only if they were kept."""
    curves = {knob.label: Curve() for knob in knobs}
    by_name: dict[str, list[Knob]] = {}
    for knob in knobs:
        by_name.setdefault(knob.name, []).append(knob)
    keeps = 0
    for record in records:
        kept = record.verdict is not None and record.verdict.decision == "keep"
        keeps += kept
        moves = _moves(record, by_name)
        gain = outcome(record, sigma)
        for knob, old, new in moves:
            curve = curves[knob.label]
            curve.busy = curve.busy or record.verdict is None
            curve.changes += gain is not None
            if gain is not None and (kept or len(moves) == 1):
                curve.add(old, new, gain / len(moves), kept=kept, failed=has_failed(record), keeps=keeps)
    return curves


def _moves(record: ExperimentRecord, by_name: Mapping[str, list[Knob]]) -> list[tuple[Knob, float, float]]:
    """The knobs that an experiment changed, with their old and new positions."""
    changes = record.experiment.changes
    moves = []
    for name, (before, after) in changes.items():
        if name == "ASPECT_RATIO" and "DEPTH" in changes:
            continue  # it only follows DEPTH
        for knob in by_name.get(name, []):
            old, new = knob.read(before), knob.read(after)
            if old is not None and new is not None and old != new:
                moves.append((knob, old, new))
    return moves


def next_steps(knob: Knob, head: float, curve: Curve, *, keeps: int) -> list[KnobStep]:
    """Steps worth taking from the head: a line search on the measurements at both sides of it."""
    seen = curve.seen_from(head, keeps=keeps)
    expected = knob.prior * curve.success
    below, above = (max((d for d in seen if d < 0), default=None), min((d for d in seen if d > 0), default=None))
    if below is not None and above is not None:
        return _between(knob, head, (below, seen[below]), (above, seen[above]), expected)
    known = below if below is not None else above
    if known is not None:
        return _away_from(knob, head, known, seen[known], expected, curve)
    why = "nothing that was measured compares with its value now" if curve.changes else "it has not been tried yet"
    return [
        KnobStep(position=head + knob.first * knob.probe, score=expected, why=why),
        KnobStep(position=head - knob.first * knob.probe, score=0.6 * expected, why=why),
    ]


def _away_from(knob: Knob, head: float, known: float, height: float, expected: float, curve: Curve) -> list[KnobStep]:
    """The next step if one side is measured: continue after a gain, reverse after a loss."""
    away = -1 if known > 0 else 1
    said = partial(_of_one_side, curve.moves.get(head + known), head, height)
    if height > 0:  # better, though not by enough to be kept
        why = f"{said('in this direction')}: go further"
        return [KnobStep(position=head + 1.5 * known, score=0.5 * expected + height / 4, why=why)]
    if curve.came_from is None and height > -NOTHING_SHOWN:
        why = f"{said('in this direction')}, which may be noise: take a larger one"
        return [KnobStep(position=head + 2 * known, score=0.8 * expected, why=why)]
    if curve.came_from is not None and math.isclose(curve.came_from, head + known):
        factor = 1.5 if height < -5 else 1.0
        stride = min(abs(known) * factor, max(2.0, knob.probe) if knob.scale in ("log", "to_one") else 2 * knob.probe)
        why = f"the last keep moved it in this direction, which gained {-height:.1f} sigma by the scores so far: continue"
        return [KnobStep(position=head + away * stride, score=max(expected, -height / 3), why=why)]
    why = said("in the other direction")
    return [KnobStep(position=head + away * knob.probe, score=0.6 * expected + min(-height, 10) / 10, why=why)]


def _of_one_side(move: Move | None, head: float, height: float, where: str) -> str:
    """What the history says of the nearest measured position on one side of the head's, which `move` led to."""
    if move is not None and move.failed:
        return f"a step {where} failed"
    figure = f"{abs(height):.1f} sigma"
    if move is None or move.kept or not math.isclose(move.old, head):  # its height is the sum of several steps
        return f"by the scores so far, a value {where} is {figure} {'better' if height > 0 else 'worse'}"
    return f"a step {where} gained {figure}, too little to be kept" if height > 0 else f"a step {where} lost {figure}"


def _between(
    knob: Knob, head: float, below: tuple[float, float], above: tuple[float, float], expected: float
) -> list[KnobStep]:
    """The next step if both sides are measured: to the vertex of the parabola through both and the head."""
    (left, left_height), (right, right_height) = below, above
    curvature = (left_height / left - right_height / right) / (left - right)
    slope = right_height / right - curvature * right
    if curvature < 0:
        offset = max(1.5 * left, min(1.5 * right, -slope / (2 * curvature)))
    else:
        offset = 1.5 * (right if right_height > left_height else left)
    if abs(offset) < knob.finest:
        offset = knob.finest if offset > 0 else -knob.finest
    gain = slope * offset + curvature * offset**2
    room = min(1.0, (right - left) / (4 * knob.probe))
    why = f"both sides are measured, and the parabola through them predicts {gain:+.1f} sigma"
    return [KnobStep(position=head + offset, score=gain / 3 + 0.3 * expected * room, why=why)]
