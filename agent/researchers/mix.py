"""Several researchers for the loops of one farm: `claude:2,codex:1,search:5` gives them to loops in these proportions."""

from collections.abc import Mapping

from agent.researchers.coding_agents import AGENTS
from research.errors import UserError
from research.formatting import shortened

WITH_MODEL = ("claude", *AGENTS)
"""The researchers by name that take a model."""

ACP = "acp"
"""The researcher that is an agent of the Agent Client Protocol: its command follows a colon."""

HYBRID = "hybrid"
"""The researcher that asks search for constants and a model for structure: the model's name may follow a colon."""

MEMBERS = ("search", HYBRID, *WITH_MODEL)
"""The researchers that a mix can have; hybrid's model may be named in it, too."""

MOST_SHARES = 1_000
"""Limit of a researcher's share."""

READS_TEXT = (*WITH_MODEL, ACP, "command", HYBRID)
"""The researchers that read suggestions; others compute or list their ideas, or stand for a queue or for the farm itself."""

WITH_ARGUMENT = (f"{ACP}:", "command:", "scripted:", f"{HYBRID}:{ACP}:")
"""What researchers begin with whose argument may hold commas, so that they are no mixes."""

FIXED, ADAPTIVE = "fixed", "adaptive"
"""The values of `--mix`: each loop keeps its researcher, or each idea's is chosen by what they have found."""

EXAMPLE = "claude:2,codex:1,search:5"


def shares_of(name: str) -> Mapping[str, int]:
    """The researchers that a value of `--researcher` names, with how many loops each gets in turn: one where it is no mix.

    Raises UserError.
    """
    if "," not in name or name.startswith(WITH_ARGUMENT):
        return {name: 1}
    shares: dict[str, int] = {}
    for part in name.split(","):
        member, _, share = (word.strip() for word in part.rpartition(":"))
        wrong = (
            f"--researcher {shortened(name, 80)}: {shortened(part.strip() or 'an empty part', 40)!r} isn't in the mix's form"
        )
        kind, _, model = member.partition(":")
        if kind not in MEMBERS or (kind == HYBRID and model and model not in WITH_MODEL) or (kind != HYBRID and kind != member):
            raise UserError(f"{wrong} {EXAMPLE}: a mix can have {', '.join(MEMBERS)}.")
        if share == "0":
            raise UserError(f"{wrong} {EXAMPLE}: no loop is to have {member}, so leave it out.")
        if not (share.isascii() and share.isdigit() and len(share) < 9 and 1 <= int(share) <= MOST_SHARES):
            raise UserError(f"{wrong} {EXAMPLE}: a whole number from 1 to {MOST_SHARES} follows each colon.")
        if member in shares:
            raise UserError(f"--researcher {shortened(name, 80)} names {member} twice: add up its two numbers.")
        shares[member] = int(share)
    return shares


def researcher_of_loop(name: str, loop: int) -> str:
    """The researcher of a loop, by its number from 0. Any first loops have about the mix's proportions; then it begins anew."""
    shares = shares_of(name)
    places = [((turn + 0.5) / share, member) for member, share in shares.items() for turn in range(share)]
    order = [member for _, member in sorted(places, key=lambda place: place[0])]
    return order[loop % len(order)]


def check_mix(name: str, mix: str) -> None:
    """Raises UserError if the researchers of `--researcher` can't be mixed in the way of `--mix`."""
    if mix == FIXED:
        return
    members = shares_of(name)
    if len(members) < 2:
        raise UserError(f"--mix {mix} chooses among several researchers: name them, as in --researcher {EXAMPLE}.")
    if any(member.partition(":")[0] == HYBRID for member in members):
        raise UserError(f"--mix {mix} chooses between search and a model itself: name the model in the place of {HYBRID}.")


def of_loop(name: str, loop: int, mix: str) -> str:
    """What the loop with this number asks: all of an adaptive mix, else its own researcher."""
    return researcher_of_loop(name, loop) if mix == FIXED else name


def parts_of(name: str) -> tuple[str, ...]:
    """The researchers that a researcher asks in turn: hybrid's two, else itself. It is no mix."""
    kind, _, model = name.partition(":")
    return ("search", model or "claude") if kind == HYBRID else (name,)


def kinds_in(name: str) -> tuple[str, ...]:
    """The kinds of all researchers that a value of `--researcher` names, hybrid's two for itself. Raises UserError."""
    return tuple(dict.fromkeys(part.partition(":")[0] for member in shares_of(name) for part in parts_of(member)))


def reads_text(name: str) -> bool:
    """Whether a researcher with this name, as `--researcher` takes it, can read what people write; of a mix one that can."""
    return any(member.partition(":")[0] in READS_TEXT for member in shares_of(name))
