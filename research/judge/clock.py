"""How long the phases of a run may take."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Caps:
    """Seconds that the phases of a run may take, beside the time budget itself."""

    startup: float
    grace: float
    """After the budget: a model that comes later makes the run invalid."""
    late: float
    """After the grace: a trainer that handed nothing over by then has hung."""
    scoring: float

    @staticmethod
    def for_budget(budget: float, device: str) -> "Caps":
        patience = 180.0 if device.startswith("cuda") else 60.0
        return Caps(startup=patience + budget, grace=max(2.0, 0.01 * budget), late=5.0, scoring=2 * patience + budget)
