"""The constants of train.py that search changes: the scale of each, its range, and which values are possible together."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal

from research.recipes import Constant

Scale = Literal["log", "to_one", "linear", "ladder"]
"""The unit of a position: octaves (`log`), octaves of 1 - value (`to_one`), the value itself, or rungs of a list (`ladder`)."""

Constants = Mapping[str, Constant]

FIXED = ("PROFILE", "MAX_SEQ_LEN", "VOCAB_SIZE", "TIME_BUDGET", "EVAL_TOKENS", "DEVICE_BATCH_SIZE")
"""Constants that search leaves alone. DEVICE_BATCH_SIZE only follows TOTAL_BATCH_SIZE."""


@dataclass(frozen=True, kw_only=True)
class Knob:
    """One number of train.py, on a scale on which equal steps have effects of about equal size."""

    name: str
    """The constant's name; in KNOBS a pattern, in which `*` stands for any letters."""
    component: int | None = None
    """The index in a tuple; None for a constant that is not a tuple."""
    scale: Scale = "log"
    low: float = 0.0
    high: float = math.inf
    probe: float = 1.0
    """The size of the first step, in units of the scale."""
    finest: float = 0.15
    """The smallest step whose effect can be told from noise, in units of the scale."""
    first: int = 1
    """The direction that is tried first: 1 or -1."""
    prior: float = 0.3
    """The expected gain in sigmas, which sets the order before there is a history."""
    ladder: tuple[str | int, ...] = ()
    """The values of a `ladder` scale, in order."""
    from_zero: float | None = None
    """The first value to try if the value is 0, which a log scale can't represent."""
    prior_at_zero: float | None = None
    """The `prior` if the value is 0; None if it is the same."""

    @property
    def label(self) -> str:
        return self.name if self.component is None else f"{self.name}[{self.component}]"

    def read(self, value: Constant | None) -> float | None:
        """The position of a constant's value on the scale; None if it has none."""
        if isinstance(value, tuple):
            in_range = self.component is not None and self.component < len(value)
            return self._coordinate(value[self.component or 0]) if in_range else None
        return None if value is None or self.component is not None else self._coordinate(value)

    def write(self, old: Constant, position: float) -> Constant | None:
        """The constant's value with this knob at `position`, rounded to two digits; None outside the range."""
        if isinstance(old, tuple):
            index = self.component or 0
            number = self._value(position, old[index])
            if number is None or isinstance(number, str):
                return None
            return (*old[:index], float(number), *old[index + 1 :])
        return self._value(position, old)

    def _coordinate(self, value: int | float | str | bool) -> float | None:
        if self.scale == "ladder":
            return float(self.ladder.index(value)) if value in self.ladder else None
        if isinstance(value, str):
            return None
        if self.scale == "linear":
            return float(value)
        if self.scale == "to_one":
            return -math.log2(1 - value) if value < 1 else None
        if value == 0 and self.from_zero is not None:
            return math.log2(self.from_zero) - self.probe
        return math.log2(value) if value > 0 else None

    def _value(self, position: float, old: int | float | str | bool) -> int | float | str | bool | None:
        if self.scale == "ladder":
            rung = round(position)
            return self.ladder[rung] if 0 <= rung < len(self.ladder) else None
        if not -100 < position < (1e9 if self.scale == "linear" else 100):
            return None
        if self.scale == "linear":
            value = round(position, 3)
        elif self.scale == "to_one":
            value = round(1 - _two_digits(2.0**-position), 6)
        else:
            value = _two_digits(2.0**position)
        if isinstance(old, int):
            value = round(2**position) if self.scale == "log" else round(value)
            if value >= 1000 and value.bit_count() > 1:
                value = int(_two_digits(value))
        return value if self.low <= value <= self.high else None


def _two_digits(value: float) -> float:
    return float(f"{value:.2g}")


RATE = Knob(name="*_LR", low=1e-5, high=10.0, probe=1.5, prior=0.8)
"""Learning rates, probed by a factor of 2.8, so that one that is far off is corrected in a few steps."""

BETA = Knob(name="*BETA*", scale="to_one", low=0.0, high=0.9999, probe=0.8, finest=0.25, prior=0.4)

KNOBS: tuple[Knob, ...] = (
    replace(RATE, name="MATRIX_LR", prior=3.0),
    Knob(name="TOTAL_BATCH_SIZE", low=256, high=2**22, finest=1.0, first=-1, prior=2.2),
    replace(RATE, name="EMBEDDING_LR", prior=2.0),
    replace(RATE, name="UNEMBEDDING_LR", prior=1.8),
    Knob(name="WARMDOWN_RATIO", scale="linear", low=0.05, high=1.0, probe=0.2, finest=0.05, prior=1.5),
    Knob(name="DEPTH", scale="linear", low=1, high=48, finest=1.0, prior=1.3),
    replace(RATE, name="SCALAR_LR", prior=1.3),
    Knob(name="ASPECT_RATIO", low=8, high=256, probe=0.5, finest=0.1, prior=1.1),
    Knob(name="FINAL_LR_FRAC", scale="linear", low=0.0, high=0.5, probe=0.05, finest=0.02, prior=0.9),
    Knob(name="WINDOW_PATTERN", scale="ladder", ladder=("L", "SL", "SSL", "SSSL", "SSSSL"), finest=1.0, prior=0.9),
    Knob(name="INIT_SCALE", low=0.05, high=5.0, probe=0.5, finest=0.08, first=-1, prior=0.9),
    Knob(name="MUON_MOMENTUM", scale="to_one", low=0.5, high=0.995, probe=0.7, finest=0.25, first=-1, prior=0.9),
    Knob(name="X0_LAMBDA", low=0.005, high=2.0, first=-1, prior=0.8, from_zero=0.05),
    Knob(name="BIGRAM_BUCKETS", low=2**10, high=2**20, finest=1.0, prior=0.5, from_zero=2**15, prior_at_zero=2.5),
    Knob(name="SHORT_WINDOW_RATIO", low=1 / 64, high=1.0, finest=0.3, first=-1, prior=0.8),
    Knob(name="ROPE_BASE", low=100, high=10_000_000, probe=2.5, finest=0.5, prior=0.8),
    Knob(name="MUON_WARMUP_STEPS", low=1, high=5_000, finest=0.3, first=-1, prior=0.8),
    Knob(name="WEIGHT_DECAY", low=0.005, high=2.0, finest=0.25, prior=0.7, from_zero=0.05),
    Knob(name="WARMUP_RATIO", scale="linear", low=0.0, high=0.4, probe=0.05, finest=0.02, prior=0.7),
    Knob(name="MLP_RATIO", scale="linear", low=1, high=12, finest=1.0, prior=0.6),
    Knob(name="MUON_MOMENTUM_START", scale="to_one", low=0.3, high=0.99, probe=0.7, finest=0.3, first=-1, prior=0.5),
    Knob(name="HEAD_DIM", scale="ladder", ladder=(16, 32, 64, 128, 256), finest=1.0, first=-1, prior=0.5),
    Knob(name="SOFTCAP", low=2.0, high=200.0, probe=0.5, finest=0.15, prior=0.5),
    Knob(name="EMBEDDING_STD", low=0.01, high=10.0, finest=0.3, first=-1, prior=0.4),
    Knob(name="UNEMBEDDING_STD", low=1e-5, high=0.5, finest=0.4, prior=0.4),
    Knob(name="VALUE_GATE_CHANNELS", low=4, high=1024, finest=1.0, first=-1, prior=0.3),
    # constants that researchers add, by what their names suggest
    RATE,
    replace(BETA, name="ADAM_BETAS", prior=0.6),
    replace(BETA, name="*BETA*"),
    replace(BETA, name="*MOMENTUM*"),
    Knob(name="*DECAY*", low=1e-5, high=5.0, finest=0.3, prior=0.6, from_zero=0.003),
    Knob(name="*_FRAC", scale="linear", low=0.0, high=1.0, probe=0.1, finest=0.03, prior=0.4),
    Knob(name="*", finest=0.3, prior=0.4, from_zero=0.05),
)
"""The knobs of train.py, those with the highest prior first. A constant's row is the first whose name matches."""


def knobs_of(constants: Constants) -> list[Knob]:
    """The knobs of these constants. Strings and booleans have none unless KNOBS names them; FIXED constants have none."""
    knobs = []
    for name, value in constants.items():
        plain = name.rpartition(".")[2].upper()  # a dataclass's field
        if plain in FIXED:
            continue
        row = next(knob for knob in KNOBS if fnmatchcase(plain, knob.name))
        if value == 0 and row.prior_at_zero is not None:
            row = replace(row, prior=row.prior_at_zero)
        if isinstance(value, tuple):
            numbers = [replace(row, name=name, component=index) for index in range(len(value))]
        else:
            numbers = [replace(row, name=name)]
        known = row.name != "*" or not isinstance(value, bool)
        knobs += [knob for knob in numbers if known and knob.read(value) is not None]
    return knobs


def settle(constants: Constants, changes: Constants, *, max_seq_len: int) -> dict[str, Constant] | None:
    """`changes`, and the changes of other constants that they require; None if they can't work or have no effect."""
    settled = dict(changes)
    if "DEPTH" in changes and "ASPECT_RATIO" not in changes:
        width = _width(constants)
        if width is not None:  # keep the width, which has its own knob
            settled["ASPECT_RATIO"] = max(1, width // _integer(changes["DEPTH"]))
    if "TOTAL_BATCH_SIZE" in changes and "DEVICE_BATCH_SIZE" in constants:
        rows, left_over = divmod(_integer(changes["TOTAL_BATCH_SIZE"]), max_seq_len)
        if left_over or not rows:
            return None
        device = settled["DEVICE_BATCH_SIZE"] = math.gcd(rows, _integer(constants["DEVICE_BATCH_SIZE"]))
        if device < min(rows, _integer(constants["DEVICE_BATCH_SIZE"])) / 4:
            return None  # micro-batches this small would be slow
    settled = {name: value for name, value in settled.items() if constants.get(name) != value}
    return settled if settled and _has_effect(constants, {**constants, **settled}, settled) else None


def _has_effect(before: Constants, after: Constants, changes: Constants) -> bool:
    """Whether the changes give a model that can be built and that differs from the one before."""
    width = _width(after)
    if "ASPECT_RATIO" in changes and "DEPTH" not in changes and width is not None and width == _width(before):
        return False
    if "HEAD_DIM" in changes and width is not None and _integer(changes["HEAD_DIM"]) > width:
        return False
    if width is not None and _integer(after.get("VALUE_GATE_CHANNELS", 0)) > width:
        return False
    pattern, depth = str(after.get("WINDOW_PATTERN", "S")), after.get("DEPTH")
    if "WINDOW_PATTERN" in changes and depth is not None and len(pattern) > _integer(depth):
        return False  # the last layer is always L: a pattern longer than the depth adds nothing
    return "SHORT_WINDOW_RATIO" not in changes or "S" in pattern


def _width(constants: Constants) -> int | None:
    """The model's width: DEPTH * ASPECT_RATIO, rounded up to a multiple of HEAD_DIM; None if a constant is missing."""
    if not {"DEPTH", "ASPECT_RATIO", "HEAD_DIM"} <= constants.keys():
        return None
    head = max(1, _integer(constants["HEAD_DIM"]))
    return -(-_integer(constants["DEPTH"]) * _integer(constants["ASPECT_RATIO"]) // head) * head


def _integer(value: Constant) -> int:
    return int(value) if isinstance(value, (int, float)) else 0
