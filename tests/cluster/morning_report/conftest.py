"""The nights that the dashboard's tests look at."""

from tests.cluster.dashboard.conftest import hostile_night, night

__all__ = ["hostile_night", "night"]
