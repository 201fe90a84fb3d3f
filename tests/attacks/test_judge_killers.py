"""The farm of judge-killing proposals: what it proposes, and how it counts."""

from pathlib import Path

from research.runnable import not_runnable
from tests.attacks.judge_killers import HONEST_EVERY, HONEST_TITLE, summary, write_proposals
from tests.attacks.killer_texts import head, killer_texts


def test_every_proposal_is_another_program_that_runs(tmp_path: Path) -> None:
    """What is refused by its text would end no judge."""
    count = 2 * len(killer_texts())
    write_proposals(tmp_path / "proposals", count)
    texts = [(tmp_path / "proposals" / f"{number}.py").read_text() for number in range(count)]
    titles = [(tmp_path / "proposals" / f"{number}.title").read_text() for number in range(count)]
    assert len({head(), *texts}) == count + 1
    assert [text for text in texts if not_runnable(text, 10**6)] == []
    assert [n for n, title in enumerate(titles) if title.startswith(HONEST_TITLE)] == list(range(4, count, HONEST_EVERY))


def test_a_lost_run_a_quarantine_and_an_honest_edit_without_a_score_are_counted() -> None:
    rows = [
        ("k-0", "baseline", "baseline", "ok", "ran"),
        ("k-1", "kills the judge (proposal 0)", "idea", "lost", "the judge died"),
        ("k-1", "kills the judge (proposal 0)", "idea", "crash", "the judge died"),
        ("k-2", f"{HONEST_TITLE} (proposal 4)", "idea", "ok", "ran"),
        ("k-3", f"{HONEST_TITLE} (proposal 9)", "idea", "crash", "an error"),
    ]
    found = summary(rows, ["joined", "quarantined", "left"])
    assert (found["runs"], found["lost"], found["quarantined"]) == (5, 1, 1)
    assert (found["honest"], found["honest_judged"], found["statuses"]["crash"]) == (2, 1, 2)
