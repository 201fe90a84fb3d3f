"""List prices of tokens as of PRICES_AS_OF: the API reports tokens, not money."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

PRICES_AS_OF = "2026-11"


@dataclass(frozen=True, kw_only=True)
class Price:
    """US dollars per million tokens. The prices of cached tokens are multiples of the input price."""

    input: float
    output: float

    def cost(self, *, input: int, output: int, cache_read: int = 0, cache_write_5m: int = 0, cache_write_1h: int = 0) -> float:
        """US dollars for these numbers of tokens; `input` counts those neither read from nor written to the cache."""
        input_units = input + 0.1 * cache_read + 1.25 * cache_write_5m + 2.0 * cache_write_1h
        return (input_units * self.input + output * self.output) / 1e6


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


def price_of(model: str) -> Price | None:
    """The price of a model; None if it is unknown, which never counts as free."""
    return PRICES.get(model)
