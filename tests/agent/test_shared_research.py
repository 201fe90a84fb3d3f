"""Several loops on one head: merges, waves, flips and drops, and what a kill -9 leaves of them."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from agent.repo.git_command import run_git
from research.files import research_folder
from results.group_entries import Joined
from results.group_state import GroupState, advance, begin, estimate_of
from results.parsed_records import verdict_of
from tests.agent.shared_lab import EFFECTS, GROUP, SharedLab

BOUNDARIES = (
    "after explore experiment",
    "before head",
    "after head",
    "after merge experiment",
    "after merge run",
    "before merge verdict",
    "before flip",
    "after flip",
    "after wave",
    "after wave experiment",
    "before wave verdict",
    "before ruling",
    "after ruling",
)


@pytest.fixture(autouse=True)
def plain_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")


def test_loops_go_on_from_one_head_that_is_put_together_from_the_ideas_of_all(tmp_path: Path) -> None:
    lab = SharedLab(tmp_path)
    asyncio.run(lab.research())
    kinds = dict(lab.rows("SELECT kind, count(*) FROM experiments GROUP BY kind"))
    ((ideas,),) = lab.rows("SELECT count(*) FROM experiments WHERE kind = 'explore' AND researcher <> 'farm'")
    assert ideas == len(EFFECTS) and kinds["merge"] >= 2 and kinds["control"] >= 1 and kinds["wave"] >= 8
    heads = lab.rows("SELECT patches, commit FROM heads")
    assert {name.rpartition("-")[0] for name in heads[-1][0]} == {"mar8-cpu0", "mar8-cpu1"}, "ideas of both loops"
    flips = lab.rows("SELECT before, decision FROM decisions WHERE before <> decision")
    assert ("keep", "discard") in flips and ("discard", "keep") in flips
    merges = lab.rows("SELECT commit, parents FROM experiments WHERE kind = 'merge' AND len(parents) > 1")
    lineage = run_git(lab.repo, "log", "-1", "--format=%P", merges[0][0]).split()
    assert lineage[1:] == [lab.store.record(idea).experiment.commit for idea in merges[0][1]]
    check_consistency(lab)
    check_recorded_estimates(lab)
    lab.store.close()


def test_a_farm_that_is_killed_at_any_boundary_goes_on_and_doubles_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.agent.shared_lab", str(tmp_path), *BOUNDARIES]
    done = subprocess.run(command, cwd=research_folder().parent, check=True, capture_output=True, text=True)
    killed = done.stdout.splitlines()
    assert len(killed) >= len(BOUNDARIES) - 2, killed
    lab = SharedLab(tmp_path)
    check_consistency(lab)
    check_recorded_estimates(lab)
    lab.store.close()


def check_consistency(lab: SharedLab) -> None:
    """Everything is decided once, and the journal, the estimates and git agree on the head."""
    assert lab.rows("SELECT id FROM experiments WHERE id NOT IN (SELECT experiment_id FROM verdicts)") == []
    assert lab.rows("SELECT experiment_id FROM runs GROUP BY 1 HAVING count(*) > 1") == []
    assert lab.rows("SELECT title FROM experiments WHERE kind IN ('explore', 'wave') GROUP BY 1 HAVING count(*) > 1") == []
    state, head = lab.store.groups.state(GROUP), lab.store.groups.head(GROUP)
    assert head is not None and frozenset(head.patches) == state.farm.head and not state.farm.plan
    assert run_git(lab.repo, "rev-parse", GROUP).strip() == head.commit
    for branch in lab.names:
        run_git(lab.repo, "merge-base", "--is-ancestor", branch, GROUP)
    kept = {id for (id,) in lab.rows("SELECT id FROM history WHERE kind = 'explore' AND decision = 'keep'")}
    assert kept == state.farm.head


def check_recorded_estimates(lab: SharedLab) -> None:
    """The runs that are stored give every estimate as it was recorded."""
    entries = lab.store.groups.entries(GROUP)
    rows = lab.rows("SELECT seq, experiment_id FROM verdicts ORDER BY seq")
    assert entries and isinstance(entries[0][1], Joined)
    state: GroupState = begin(entries[0][1].branch)
    checked = 0
    for seq, experiment in rows:
        while entries and entries[0][0] < seq:
            state = advance(state, entries.pop(0)[1])
        ((text,),) = lab.store._rows("SELECT record FROM verdicts WHERE seq = ?", seq)
        verdict = verdict_of(text)
        if verdict.effect is not None:
            found = estimate_of(state, experiment)
            assert found is not None and found.effect == pytest.approx(verdict.effect)
            assert found.helps == pytest.approx(verdict.helps)
            checked += 1
    assert checked > len(EFFECTS)
