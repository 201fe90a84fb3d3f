"""List prices of tokens as of PRICES_AS_OF, and a user's own: the API reports tokens, not money."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from research.errors import UserError
from research.formatting import shortened

PRICES_AS_OF = "2026-11"


@dataclass(frozen=True, kw_only=True)
class Price:
    """US dollars per million tokens."""

    input: float
    output: float
    cache_read: float | None = None
    """None: a tenth of the input price, as Anthropic's are."""
    cache_write: float | None = None
    """None: 1.25 times the input price, and twice it for an hour, as Anthropic's are."""

    def cost(self, *, input: int, output: int, cache_read: int = 0, cache_write_5m: int = 0, cache_write_1h: int = 0) -> float:
        """US dollars for these numbers of tokens; `input` counts those neither read from nor written to the cache."""
        read = 0.1 * self.input if self.cache_read is None else self.cache_read
        written = (1.25 * self.input, 2.0 * self.input) if self.cache_write is None else (self.cache_write, self.cache_write)
        cached = cache_read * read + cache_write_5m * written[0] + cache_write_1h * written[1]
        return (input * self.input + cached + output * self.output) / 1e6


PRICES: Mapping[str, Price] = MappingProxyType(
    {
        "claude-fable-5-2": Price(input=8.0, output=40.0),
        "claude-fable-5-1": Price(input=10.0, output=50.0),
        "claude-fable-5": Price(input=10.0, output=50.0),
        "claude-opus-5-5": Price(input=4.0, output=20.0),
        "claude-opus-5": Price(input=5.0, output=25.0),
        "claude-opus-4-8": Price(input=5.0, output=25.0),
        "claude-sonnet-5-5": Price(input=2.0, output=10.0),
        "claude-sonnet-5": Price(input=2.0, output=10.0),
        "claude-sonnet-4-6": Price(input=3.0, output=15.0),
    }
)


FIELDS = ("input", "output", "cache_read", "cache_write")
"""What a user's list may say of a model, of which the first two are needed."""

EXAMPLE = '{"MODEL": {"input": 1.5, "output": 6.0, "cache_read": 0.15}}'


def read_prices(path: Path) -> Mapping[str, Price]:
    """The list prices, with a user's own from a JSON file, which count instead. Raises UserError."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--prices {path} can't be read: {error.strerror}.") from None
    except (ValueError, RecursionError):
        raise UserError(f"--prices {path} isn't JSON: it must be like {EXAMPLE}, in US dollars per million tokens.") from None
    if not isinstance(told, dict) or not told:
        raise UserError(f"--prices {path} names no model: it must be like {EXAMPLE}, in US dollars per million tokens.")
    return MappingProxyType({**PRICES, **{model: _read_price(path, model, fields) for model, fields in told.items()}})


def _read_price(path: Path, model: str, fields: object) -> Price:
    wrong = f"--prices {path}: {shortened(model, 60)!r}"
    if not isinstance(fields, dict) or not {"input", "output"} <= fields.keys() or not fields.keys() <= set(FIELDS):
        raise UserError(f"{wrong} must have input and output, and may have cache_read and cache_write, as in {EXAMPLE}.")
    for name, value in fields.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise UserError(
                f"{wrong}: {name} must be a number of US dollars per million tokens, not {shortened(str(value), 40)}."
            )
    return Price(**{name: float(value) for name, value in fields.items()})
