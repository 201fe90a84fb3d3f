"""A child's settings, from the judge's environment variable to the child."""

from research.child_settings import SETTINGS_VARIABLE, ChildSettings
from research.profiles import contract_for


def test_settings_arrive_as_they_were() -> None:
    settings = ChildSettings(
        contract=contract_for("cpu"),
        seed=7,
        device="cuda:0",
        batch_rows=32,
        threads=3,
        gpu_memory_bytes=2**33,
        rehearse=True,
        channel=5,
    )
    assert list(settings.environment()) == [SETTINGS_VARIABLE]
    assert ChildSettings.from_environment(settings.environment()) == settings


def test_without_a_judge_there_are_none() -> None:
    assert ChildSettings.from_environment({}) is None
