"""How much text to add to the user's own where it is too little."""

import math

from research.contract import Contract
from research.data.sources import BYTES_PER_TOKEN, MOST_VALIDATION, SPREAD, Source, chance_bytes
from research.formatting import counted, size
from research.profiles import PROFILES

REPEATED = 0.9
"""The share of text without repeats below which repeats are named as a cause of too little text."""


def add_text(
    contract: Contract, source: Source, *, rows: int = 0, documents: int = 0, needed: int = 0, distinct: int | None = None
) -> str:
    """How much text to add so that `needed` rows probably come out instead of `rows` of that many documents, and which files
    were skipped.

    Without rows it is estimated what the contract needs in total. `distinct`: bytes of the text without repeats, if known.
    """
    is_smallest = not any(profile.contract.EVAL_TOKENS < contract.EVAL_TOKENS for profile in PROFILES.values())
    smaller = "" if is_smallest else ", or choose a smaller --profile"
    if source.survey is None:
        return f"Add text{smaller}."
    every = source.survey.text_bytes
    have = every if distinct is None else min(every, distinct)
    least = contract.EVAL_TOKENS * BYTES_PER_TOKEN / MOST_VALIDATION
    if rows:  # few documents may have been more than their share of the text
        total = have * needed / rows * (1 + SPREAD / math.sqrt(max(documents, 1)))
    else:
        total = max(least + chance_bytes(least, every / max(source.survey.documents, 1)), 2 * have)
    skipped = source.survey.skipped_line()
    files = f"{size(every)} in {counted(len(source.survey.read), 'file')}"
    if have < REPEATED * every:
        files += f", of which only {size(have)} is left without repeats"
    more = f"Add about {size(max(total - have, 1000))} of text to the {files}{smaller}."
    return f"{more} {skipped[0].upper()}{skipped[1:]}." if skipped else more
