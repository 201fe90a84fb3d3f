"""What the picture to share shows of a head."""

from collections.abc import Sequence

from agent.repo.branch_names import short_name
from cluster.dashboard.headlines import Headline, headlines
from cluster.home import Home
from research.errors import UserError
from results.card import Card, Tried
from results.confirmation import in_words
from results.history import BranchHistory


def newest_head(home: Home, histories: Sequence[BranchHistory]) -> Headline:
    """The head of the newest experiment, of those that have a score. Raises UserError if none has."""
    for one in headlines(histories, home.runs):
        if one.baseline is not None:
            return one
    raise UserError("Nothing has a score yet: there is nothing to draw. The first is the baseline's.")


def card_of(one: Headline) -> Card:
    """The picture of a head and of all that was tried on its branches."""
    records = one.group.records
    return Card(
        name=short_name(one.name),
        device=one.branch.platform,
        profile=one.branch.profile,
        experiments=one.counts.done,
        kept=one.counts.kept,
        runs=one.group.scored_runs,
        gain=None if one.told is None or one.is_at_baseline else one.told.gain,
        confirmed=in_words(one.confirmation) if one.confirmation else "",
        tried=tuple(
            Tried(at=at, val_bpb=record.val_bpb, is_kept=record.outcome == "keep")
            for at, record in enumerate(records)
            if record.val_bpb is not None and record.outcome in ("keep", "discard")
        ),
        steps=one.fall.steps,
        last=max(0, len(records) - 1),
    )
