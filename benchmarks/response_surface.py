"""A response surface over 12 constants of train.py: val_bpb without and with the noise between seeds, and out of memory.

The loss is quadratic in each knob's position on its scale (`agent/search/knobs.py`), with interactions. The curvatures, how far
the best values may lie from the original recipe, and the memory are rounded from the differences between runs of one night of
karpathy/autoresearch on an H100 (the session report of March 8, from 0.9979 to 0.9697 bpb). Each repeat draws its own best
values and interactions.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.search.knobs import Knob, knobs_of
from research.recipes import ORIGINAL, Constant

SIGMA = 0.0007
"""Standard deviation of val_bpb between seeds."""

BASELINE = 0.9979
"""The val_bpb of the original recipe without noise."""

MEMORY_LIMIT_GB = 80.0

STEEP = 2.0
"""How much the loss beyond the best value on the steep side exceeds that on the other, on a lopsided surface."""

INTERACTION = 0.3
"""Standard deviation of the correlation that two knobs which interact have in the quadratic form."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One knob of the surface, in units of the knob's scale."""

    name: str
    curvature: float
    """The loss in bpb one unit away from the best value."""
    spread: float
    """Standard deviation of the best value around the original one."""
    reach: float
    """How far from the original value optimizers may go."""


AXES = (
    Axis(name="MATRIX_LR", curvature=0.02, spread=0.4, reach=2.0),
    Axis(name="EMBEDDING_LR", curvature=0.01, spread=0.5, reach=2.0),
    Axis(name="UNEMBEDDING_LR", curvature=0.004, spread=0.5, reach=2.0),
    Axis(name="WEIGHT_DECAY", curvature=0.003, spread=0.7, reach=3.0),
    Axis(name="WARMDOWN_RATIO", curvature=0.06, spread=0.15, reach=0.45),
    Axis(name="FINAL_LR_FRAC", curvature=0.4, spread=0.04, reach=0.2),
    Axis(name="INIT_SCALE", curvature=0.003, spread=0.5, reach=2.0),
    Axis(name="X0_LAMBDA", curvature=0.002, spread=1.0, reach=3.0),
    Axis(name="ROPE_BASE", curvature=0.0002, spread=3.0, reach=6.0),
    Axis(name="TOTAL_BATCH_SIZE", curvature=0.008, spread=1.0, reach=3.0),
    Axis(name="DEPTH", curvature=0.05, spread=0.3, reach=6.0),
    Axis(name="ASPECT_RATIO", curvature=0.02, spread=0.3, reach=1.0),
)
"""DEPTH's curvature and spread are per octave; the curvature of ASPECT_RATIO is that of the width, DEPTH * ASPECT_RATIO."""

INTERACTING = (
    ("MATRIX_LR", "TOTAL_BATCH_SIZE"),
    ("EMBEDDING_LR", "TOTAL_BATCH_SIZE"),
    ("MATRIX_LR", "WARMDOWN_RATIO"),
    ("MATRIX_LR", "INIT_SCALE"),
    ("MATRIX_LR", "WEIGHT_DECAY"),
    ("EMBEDDING_LR", "X0_LAMBDA"),
    ("WARMDOWN_RATIO", "FINAL_LR_FRAC"),
    ("DEPTH", "MATRIX_LR"),
)

CONSTANTS: Mapping[str, Constant] = {axis.name: ORIGINAL[axis.name] for axis in AXES}
TRAIN_PY = "".join(f"{name} = {value!r}\n" for name, value in CONSTANTS.items()) + (
    "\n\ndef build_model():\n    return None\n\n\ndef train(session):\n    session.finish(build_model())\n"
)
"""A text with the surface's constants alone."""


class ResponseSurface:
    """One repeat's surface."""

    def __init__(self, repeat: int, *, lopsided: bool = False) -> None:
        """`lopsided` makes one side of every knob's best value steeper than the other, so that no quadratic fits it."""
        self.repeat = repeat
        self.knobs: Mapping[str, Knob] = {knob.name: knob for knob in knobs_of(CONSTANTS)}
        rng = np.random.default_rng(repeat)
        self._form = _quadratic_form(rng)
        spread = np.array([axis.spread for axis in AXES])
        self._best = self._positions(CONSTANTS) + spread * rng.standard_normal(len(AXES))
        last = [axis.name for axis in AXES].index("FINAL_LR_FRAC")
        self._best[last] = abs(self._best[last])
        self._stretch = np.where(rng.random(len(AXES)) < 0.5, 1, -1) * math.log(STEEP) / 4 * lopsided
        self._origin = self._loss(CONSTANTS)

    def value(self, constants: Mapping[str, Constant]) -> float | None:
        """The val_bpb of these constants without noise; None if they don't fit into memory."""
        if memory_gb(constants) > MEMORY_LIMIT_GB:
            return None
        return BASELINE + self._loss(constants) - self._origin

    @property
    def optimum(self) -> float:
        """The least val_bpb that any constants have, if memory had no limit."""
        return BASELINE - self._origin

    def _loss(self, constants: Mapping[str, Constant]) -> float:
        offset = self._positions(constants) - self._best
        scaled = offset * np.sqrt([axis.curvature for axis in AXES])
        bent = scaled * np.exp(np.sign(scaled) * self._stretch)
        return float(bent @ self._form @ bent)

    def _positions(self, constants: Mapping[str, Constant]) -> NDArray[np.float64]:
        """The place of these constants; depth and width in octaves."""
        places = {name: knob.read(constants[name]) for name, knob in self.knobs.items()}
        assert all(place is not None for place in places.values())
        depth, aspect = float(_number(constants["DEPTH"])), float(_number(constants["ASPECT_RATIO"]))
        places |= {"DEPTH": math.log2(depth), "ASPECT_RATIO": math.log2(depth * aspect)}
        return np.array([places[axis.name] for axis in AXES], dtype=np.float64)


def memory_gb(constants: Mapping[str, Constant]) -> float:
    """Peak GPU memory: linear in depth * width, as five runs of that night with 44 to 73 GB were, within 0.2 GB."""
    depth, aspect = _number(constants["DEPTH"]), _number(constants["ASPECT_RATIO"])
    return 4.2 + 6.2 * depth * (depth * aspect) / 640


def constants_at(knobs: Mapping[str, Knob], unit: Sequence[float]) -> dict[str, Constant]:
    """The constants at a point of the cube [-1, 1] of all knobs' reaches, whose centre is the original recipe."""
    constants: dict[str, Constant] = {}
    for axis, share in zip(AXES, unit, strict=True):
        knob, old = knobs[axis.name], CONSTANTS[axis.name]
        start = knob.read(old)
        assert start is not None
        moved = knob.write(old, start + axis.reach * share)
        constants[axis.name] = old if moved is None else moved
    return constants


def _quadratic_form(rng: np.random.Generator) -> NDArray[np.float64]:
    """A positive definite matrix with ones on its diagonal and the correlations of the knobs that interact."""
    names = [axis.name for axis in AXES]
    form = np.eye(len(names))
    for one, other in INTERACTING:
        here, there = names.index(one), names.index(other)
        form[here, there] = form[there, here] = np.clip(INTERACTION * rng.standard_normal(), -0.6, 0.6)
    values, vectors = np.linalg.eigh(form)
    form = vectors @ np.diag(np.maximum(values, 0.1)) @ vectors.T
    scale = np.sqrt(np.diag(form))
    found: NDArray[np.float64] = form / np.outer(scale, scale)
    return found


def _number(value: Constant) -> float:
    assert isinstance(value, (int, float))
    return value
