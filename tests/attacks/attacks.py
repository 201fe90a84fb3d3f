"""All attacks, by number."""

from agent_attacks import AGENT_ATTACKS
from attack import Attack
from clock_attacks import CLOCK_ATTACKS
from data_attacks import DATA_ATTACKS
from exhaustion_attacks import EXHAUSTION_ATTACKS
from judge_attacks import JUDGE_ATTACKS
from lookahead_attacks import LOOKAHEAD_ATTACKS
from machine_attacks import MACHINE_ATTACKS
from memory_attacks import MEMORY_ATTACKS

ATTACKS: list[Attack] = sorted(
    [
        *JUDGE_ATTACKS,
        *LOOKAHEAD_ATTACKS,
        *MEMORY_ATTACKS,
        *DATA_ATTACKS,
        *CLOCK_ATTACKS,
        *MACHINE_ATTACKS,
        *AGENT_ATTACKS,
        *EXHAUSTION_ATTACKS,
    ],
    key=lambda attack: attack.number,
)
