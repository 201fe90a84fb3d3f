"""What researchers cost, from the journal: one cost for each answer of a model, also where no experiment came of it.

An experiment repeats the cost of its own proposal, which counts only if it has no events `answer`, as in journals of earlier
versions. The view `costs` (`results/schema.py`) holds the same costs for SQL.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from results.experiment import CostBasis, Usage, usage_from
from results.journal import JournalRecord

ANSWER = "answer"
"""The kind of event that records an answer's cost."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The cost of an answer, or of a proposal whose answers are not recorded one by one."""

    branch: str
    usage: Usage


def cost_in(record: JournalRecord) -> Cost | None:
    """The cost that a journal record stands for; None if it adds none."""
    if record.kind == "experiment":
        usage = usage_from(record.body.get("usage", {}))
        paid = usage.answers == 0 and (usage.tokens > 0 or usage.cost_usd is not None)
        return Cost(branch=record.body["branch"], usage=usage) if paid else None
    if record.kind != "event":
        return None
    kind, details = record.body["kind"], record.body["details"]
    if kind == ANSWER:
        return Cost(branch=details["branch"], usage=usage_from(details))
    if kind == "proposal_dropped" and details.get("cost_usd") is not None:  # written by earlier versions
        return Cost(branch=details["branch"], usage=Usage(cost_usd=details["cost_usd"]))
    return None


def total(usages: Iterable[Usage]) -> Usage:
    """The sum of several usages; its cost is None if no cost is known."""
    every = list(usages)
    costs = [usage.cost_usd for usage in every if usage.cost_usd is not None]
    return Usage(
        researcher=every[-1].researcher if every else None,
        model=every[-1].model if every else None,
        input_tokens=sum(usage.input_tokens for usage in every),
        output_tokens=sum(usage.output_tokens for usage in every),
        cache_read_tokens=sum(usage.cache_read_tokens for usage in every),
        cache_write_tokens=sum(usage.cache_write_tokens for usage in every),
        cost_usd=sum(costs) if costs else None,
        cost_basis=weakest({usage.cost_basis for usage in every}),
        estimated=any(usage.estimated for usage in every),
        proposal=every[-1].proposal if every else "",
        answers=sum(usage.answers for usage in every),
        seconds=sum(usage.seconds for usage in every),
    )


def weakest(bases: Collection[CostBasis]) -> CostBasis:
    """The basis of a sum of costs: what is the least certain of its parts."""
    order: tuple[CostBasis, ...] = ("missing", "list-price-estimate", "native-reported")
    return next((basis for basis in order if basis in bases), "")


def spent_text(spent_usd: float, max_cost_usd: float, name: str, *, option: str = "--max-cost") -> str:
    """How much of a limit is spent, in a line: that of a tag, or of a loop on the branch of this name."""
    whose = f"tag {name}, all its loops and sessions together" if option == "--max-cost" else f"{name}, earlier sessions too"
    return f"${spent_usd:.2f} of ${max_cost_usd:g} spent already on {whose} ({option})"
