"""All attacks, by number."""

from attack import Attack
from score_attacks import SCORE_ATTACKS

ATTACKS: list[Attack] = sorted([*SCORE_ATTACKS], key=lambda attack: attack.number)
