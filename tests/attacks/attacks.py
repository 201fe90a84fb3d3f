"""All attacks, by number."""

from tests.attacks.agent_attacks import AGENT_ATTACKS
from tests.attacks.attack import Attack
from tests.attacks.clock_attacks import CLOCK_ATTACKS
from tests.attacks.corpus_attacks import CORPUS_ATTACKS
from tests.attacks.data_attacks import DATA_ATTACKS
from tests.attacks.exhaustion_attacks import EXHAUSTION_ATTACKS
from tests.attacks.file_state_attacks import FILE_STATE_ATTACKS
from tests.attacks.judge_attacks import JUDGE_ATTACKS
from tests.attacks.lookahead_attacks import LOOKAHEAD_ATTACKS
from tests.attacks.machine_attacks import MACHINE_ATTACKS
from tests.attacks.memory_attacks import MEMORY_ATTACKS
from tests.attacks.text_attacks import TEXT_ATTACKS

ATTACKS: list[Attack] = sorted(
    [
        *JUDGE_ATTACKS,
        *LOOKAHEAD_ATTACKS,
        *MEMORY_ATTACKS,
        *FILE_STATE_ATTACKS,
        *DATA_ATTACKS,
        *CORPUS_ATTACKS,
        *CLOCK_ATTACKS,
        *MACHINE_ATTACKS,
        *AGENT_ATTACKS,
        *EXHAUSTION_ATTACKS,
        *TEXT_ATTACKS,
    ],
    key=lambda attack: attack.number,
)
