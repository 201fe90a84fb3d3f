"""How likely it is that the judge catches a model that looks at the next token now and then.

    uv run python benchmarks/catching_odds.py

Every checked row is spliced at one random place. A model that peeks there reads another row's token, and a single such peek
exceeds the tolerance for a single token. Prints the table of docs/threat-model.md.
"""

from research.judge.consistency import CONSISTENCY_SHARE, MIN_CONSISTENCY_ROWS
from research.profiles import PROFILES

SHARES = (1.0, 0.1, 0.01, 0.001)


def catching_odds(share: float, rows: int) -> float:
    """Probability that at least one of `rows` splices meets a model that peeks at a share `share` of positions."""
    return 1 - (1 - share) ** rows


def table() -> str:
    """Odds by profile and share, in Markdown."""
    lines = [
        "| rows checked | " + " | ".join(f"{100 * share:g}% of positions" for share in SHARES) + " |",
        "| --- |" + " ---: |" * len(SHARES),
    ]
    for name, profile in PROFILES.items():
        rows = profile.contract.eval_rows
        part = max(MIN_CONSISTENCY_ROWS, round(CONSISTENCY_SHARE * rows))
        for count, when in ((part, "an ordinary run"), (rows, "one that would be kept")):
            odds = " | ".join(f"{catching_odds(share, count):.2%}" for share in SHARES)
            lines.append(f"| {name}: {count:,}, {when} | {odds} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table(), end="")
