"""Computes the probability that the judge catches a model that looks ahead at a share of positions.

    uv run python benchmarks/catching_odds.py

Every checked row is spliced at one random position. A model that looks ahead there reads another row's token, which by itself
exceeds the tolerance for a single token. There are as many audit as validation rows. Prints the table of docs/threat-model.md.
"""

from research.judge.consistency import CONSISTENCY_SHARE, MIN_CONSISTENCY_ROWS
from research.judge.scoring import AUDIT_CHECKED
from research.profiles import PROFILES

SHARES = (1.0, 0.1, 0.01, 0.001)
"""Shares of positions at which a model looks ahead."""


def catching_odds(share: float, rows: int) -> float:
    """Probability that the model looks ahead at one or more of `rows` spliced positions, if it does at a `share` of all."""
    return 1 - (1 - share) ** rows


def table() -> str:
    """Probabilities by profile and share, as a Markdown table."""
    lines = [
        "| rows checked | " + " | ".join(f"{100 * share:g}% of positions" for share in SHARES) + " |",
        "| --- |" + " ---: |" * len(SHARES),
    ]
    for name, profile in PROFILES.items():
        rows = profile.contract.eval_rows
        part, of_audit = (max(MIN_CONSISTENCY_ROWS, round(share * rows)) for share in (CONSISTENCY_SHARE, AUDIT_CHECKED))
        checked = ((rows, "validation, may be kept"), (of_audit, "audit, may be kept"), (part, "validation, a drawn other run"))
        for count, when in checked:
            odds = " | ".join(f"{catching_odds(share, count):.2%}" for share in SHARES)
            lines.append(f"| {name}: {count:,}, {when} | {odds} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table(), end="")
