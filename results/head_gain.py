"""What all runs say of a head's gain: as a record, as the event that records it, and in words.

The loops record it as an event after every run, so that whoever reads the journal shows the same figures at once, without NumPy
(`GroupHistory.gain`). Whatever shows a baseline's score, a head's, or the gain of a head (the live view, `farm status`, the
report, the end of a farm) shows `ExpectedGain` in the words of `gain_text`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

DECIMALS = 4
"""The decimals of a gain that people are told."""


@dataclass(frozen=True, kw_only=True)
class ExpectedGain:
    """What all runs say of a train.py's gain over the untouched one, in bpb: shrunk for having been selected."""

    baseline: float
    """The val_bpb that is expected of the untouched train.py."""
    gain: float
    low: float
    high: float
    """The ends of the gain's 90% interval."""
    sigma: float
    """Standard deviation of val_bpb between seeds, as far as runs have told."""

    @property
    def head(self) -> float:
        """The val_bpb that is expected of the train.py."""
        return self.baseline - self.gain


def gain_event(group: str, commit: str, records: int, gain: ExpectedGain) -> dict[str, Any]:
    """The details of the event that records what a group's head gains, by so many records of the group."""
    return {"group": group, "branch": group, "commit": commit, "records": records, **asdict(gain)}


def gain_in(event: Mapping[str, Any], commit: str, records: int) -> ExpectedGain | None:
    """The gain that an event holds; None if it is that of another head, or if more has been recorded since."""
    if (event["commit"], event["records"]) != (commit, records):
        return None
    return ExpectedGain(**{name: event[name] for name in ("baseline", "gain", "low", "high", "sigma")})


def gain_text(gain: ExpectedGain) -> str:
    """The scores that are expected of baseline and head, and the gain with its interval, in one line."""
    if gain.low == gain.high:
        return f"val_bpb {gain.baseline:.4f} expected: the head is still the baseline"
    words = interval_text(gain.gain, gain.low, gain.high)
    return f"val_bpb {gain.baseline:.4f} -> {gain.head:.4f} expected: gain {words} (90%)"


def is_told(value: float) -> bool:
    """Whether a gain in bpb is more, or less, than nothing by the decimals with which it is told."""
    return round(value, DECIMALS) != 0


def interval_text(value: float, low: float, high: float) -> str:
    """A gain in bpb with the ends of its interval; what its decimals don't show is +0.0000."""
    value, low, high = (round(one, DECIMALS) + 0.0 for one in (value, low, high))
    return f"{value:+.{DECIMALS}f} [{low:+.{DECIMALS}f}, {high:+.{DECIMALS}f}]"
