"""All attacks, by number."""

from attack import Attack
from outside_attacks import OUTSIDE_ATTACKS
from score_attacks import SCORE_ATTACKS

ATTACKS: list[Attack] = sorted([*SCORE_ATTACKS, *OUTSIDE_ATTACKS], key=lambda attack: attack.number)
