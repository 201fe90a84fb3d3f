"""Mixes of which each idea's researcher is chosen by what all of them have found."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from agent.researcher import BudgetSpent, Context, Guidance, NotConfigured, ProposalFailed
from agent.researchers.adaptive import DEALT_IDEAS, AdaptiveMix
from agent.researchers.bandit import FLOOR, Credit, chosen, credits
from agent.researchers.fallback import AskedResearcher
from agent.researchers.mix import ADAPTIVE, check_mix, of_loop
from agent.researchers.scripted import Step
from research.errors import UserError
from results.experiment import ExperimentRecord, Proposal
from results.steering import Suggestion
from tests.agent.loops_of_a_group import Group
from tests.agent.samples import TRAIN_PY, make_context, make_record

MIX = "claude:1,search:3"


class Member:
    """A researcher whose proposals fail if it is told so."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.end: Exception | None = None
        self.is_closed = False

    async def propose(self, context: Context) -> Proposal:
        if self.end is not None:
            raise self.end
        return Proposal(title="", hypothesis="", train_py=TRAIN_PY, researcher=self.name)

    async def close(self) -> None:
        self.is_closed = True


def idea(number: int, researcher: str, seconds: float = 300.0) -> ExperimentRecord:
    record = make_record(number, researcher=researcher)
    return replace(record, runs=tuple(replace(run, total_seconds=seconds) for run in record.runs))


def asked(mix: AdaptiveMix, ideas: list[ExperimentRecord], effects: Mapping[str, float] | None = None,
          guidance: Guidance | None = None) -> str:  # fmt: skip
    """Who has the next idea after these."""
    context = make_context(tuple(ideas), effects=lambda: effects or {}, guidance=guidance or Guidance())
    return asyncio.run(mix.propose(context)).researcher


def night(ideas: int, finds: Mapping[str, int], seconds: Mapping[str, float]) -> list[str]:
    """Who had the ideas of a night in which each member's every so manyth idea is kept with the same gain."""
    credit = {name: Credit() for name in finds}
    had: list[str] = []
    for number in range(ideas):
        name = chosen(credit, seed=f"a branch {number}")
        had.append(name)
        gain = 0.002 if had.count(name) % finds[name] == 0 else 0.0
        credit[name] += Credit(ideas=1, gain=gain, squares=gain**2, seconds=seconds[name])
    return had


def test_who_gains_more_per_hour_has_more_ideas_and_nobody_starves() -> None:
    same_time = dict.fromkeys(("claude", "search"), 300.0)
    had = Counter(night(300, {"claude": 3, "search": 12}, same_time))
    assert had["claude"] > 2 * had["search"] > 300 * FLOOR
    quicker = Counter(night(300, {"claude": 5, "search": 5}, {"claude": 900.0, "search": 300.0}))
    assert quicker["search"] > 2 * quicker["claude"] > 300 * FLOOR
    nothing = Counter(night(300, {"claude": 1000, "search": 1000}, same_time))
    assert min(nothing.values()) > 100  # without a gain nobody is preferred
    assert night(50, {"claude": 3, "search": 12}, same_time) == night(50, {"claude": 3, "search": 12}, same_time)


def test_credit_is_the_shrunk_gain_of_what_is_in_the_head_and_the_time_of_all() -> None:
    ideas = [idea(1, "claude", 100.0), idea(2, "claude", 200.0), idea(3, "search"), idea(4, "farm"),
             make_record(5, researcher="search", decision=None)]  # fmt: skip
    found = credits(["claude", "search", "codex"], ideas, {"e0002": 0.004, "e0004": 1.0})
    assert found["claude"] == Credit(ideas=2, gain=0.004, squares=0.004**2, seconds=300.0)
    assert found["search"] == Credit(ideas=1, seconds=300.0)
    had = Counter(chosen(found, seed=str(number)) for number in range(1_000))
    assert had["claude"] > had["codex"] > had["search"]  # one that has no ideas yet is expected to be as the mean


def test_first_ideas_have_the_mixs_proportions_then_the_history_decides_and_a_resumed_farm_chooses_alike() -> None:
    members = {name: Member(name) for name in ("claude", "search")}
    ideas: list[ExperimentRecord] = []
    for number in range(1, 120):
        effects = {one.experiment.id: 0.002 for one in ideas if one.experiment.researcher == "claude"}
        name = asked(AdaptiveMix(MIX, members), ideas, effects)
        assert name == asked(AdaptiveMix(MIX, members), ideas, effects)
        ideas.append(idea(number, name))
    had = [one.experiment.researcher for one in ideas]
    assert Counter(had[:DEALT_IDEAS]) == {"claude": DEALT_IDEAS // 4, "search": 3 * DEALT_IDEAS // 4}
    later = Counter(had[DEALT_IDEAS:])
    assert later["claude"] > 3 * later["search"] > 0


def test_a_member_that_fails_is_passed_over_once_and_one_that_can_not_go_on_is_left_out() -> None:
    members = {name: Member(name) for name in ("claude", "search")}
    mix = AdaptiveMix("claude:1,search:1", members)
    first = asked(mix, [])
    members[first].end = ProposalFailed("busy")
    with pytest.raises(ProposalFailed, match="busy"):
        asked(mix, [])
    other = asked(mix, [])
    assert other != first
    members[first].end = NotConfigured("no key")
    with pytest.raises(ProposalFailed, match=f"{first} is left out of the mix: no key"):
        asked(mix, [])
    assert members[first].is_closed and asked(mix, []) == other
    members[other].end = BudgetSpent("$5 of $5")
    with pytest.raises(BudgetSpent):
        asked(mix, [])


def test_a_suggestion_is_for_a_member_that_reads() -> None:
    mix = AdaptiveMix(MIX, {name: Member(name) for name in ("claude", "search")})
    told = Guidance(suggestion=Suggestion(number=1, text="try X"))
    ideas = [idea(number, "search") for number in range(1, 4)]
    assert {asked(mix, ideas[:number], guidance=told) for number in range(4)} == {"claude"}


def test_members_that_can_not_work_here_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    researcher, problem = AskedResearcher(name="codex:3,search:1").made()
    assert problem == "" and asked(researcher, []) == "search"  # type: ignore[arg-type]
    alone, problem = AskedResearcher(name="codex:3,pi:1").made()
    assert alone.name == "search" and "codex" in problem and "pi" in problem
    with pytest.raises(NotConfigured):
        AskedResearcher(name="codex:3,search:1", falls_back=False).made()


@pytest.mark.parametrize("name", ["search", "claude", "hybrid:2,search:1", "command:a,b"])
def test_what_can_not_be_mixed_is_refused(name: str) -> None:
    check_mix(name, "fixed")
    with pytest.raises(UserError, match="--mix") as error:
        check_mix(name, ADAPTIVE)
    assert "\n" not in str(error.value)


def test_a_loop_asks_all_of_an_adaptive_mix() -> None:
    assert of_loop(MIX, 0, ADAPTIVE) == MIX and {of_loop(MIX, loop, "fixed") for loop in range(4)} == {"claude", "search"}


def test_the_gains_that_it_goes_by_are_those_of_the_heads_ideas(tmp_path: Path) -> None:
    deeper, wider = (Step(title=name, replace=(("= 2 ", f"= {depth} "),)) for name, depth in (("deeper", 4), ("shallower", 1)))
    group = Group(tmp_path, TRAIN_PY, lambda text: 2.0 if "DEPTH = 4" in text else 3.0)
    ((first, _),) = group.research(2, [deeper, wider])
    (loop,) = group.open(())
    effects = loop.context().effects()
    assert effects.keys() == {first.experiment.id} and 0.5 < effects[first.experiment.id] < 1.0
    group.store.close()
