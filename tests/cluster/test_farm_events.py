"""What a farm tells its user beside verdicts."""

import pytest

from cluster.farm_events import MESSAGES


@pytest.mark.parametrize(
    ("kind", "fields", "line"),
    [
        (
            "proposal_withdrawn",
            {"title": "1 -> 2"},
            "b: 1 -> 2 was withdrawn before its run: the last keep changed the same thing",
        ),
        ("proposal_failed", {"reason": "{HTTP} 500", "again_in_s": 30.0}, "b: no proposal, asking again in 30 s: {HTTP} 500"),
        ("run_lost", {"run": "mar8-0001", "reason": "the node is gone"}, "b: run mar8-0001 was lost: the node is gone"),
    ],
)
def test_an_event_is_told_in_a_sentence(kind: str, fields: dict[str, object], line: str) -> None:
    assert MESSAGES[kind].format(branch="b", **fields) == line
