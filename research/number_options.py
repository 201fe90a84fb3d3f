"""Types for argparse: numbers within sensible bounds, so that a slip of the keyboard is refused. Standard library only."""

import argparse
import math
from collections.abc import Callable
from typing import TypeVar

from research.formatting import shortened

_Number = TypeVar("_Number", int, float)


def number_from(least: _Number, most: _Number, kind: Callable[[str], _Number]) -> Callable[[str], _Number]:
    """A type for argparse: a number from `least` to `most`, both included."""
    bounds = " to ".join(f"{int(bound):,}" if bound == math.floor(bound) else f"{bound:g}" for bound in (least, most))
    wanted = f"{'a whole number' if kind is int else 'a number'} from {bounds}"

    def parse(text: str) -> _Number:
        try:
            value = kind(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"must be {wanted}, not {shortened(text, 40)!r}")
        return value

    return parse


def count_to(most: int) -> Callable[[str], int]:
    """A type for argparse: a whole number from 1 to `most`."""
    return number_from(1, most, int)


budget_seconds = number_from(0.5, 7 * 86_400, float)
"""The type of `--budget`, seconds of training per run: less is over before the first step, and more is no experiment."""

gigabytes = number_from(0.001, 100_000, float)
"""The type of options for memory in GB."""
