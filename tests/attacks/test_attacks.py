"""A sample of the attacks: each is stopped. `tests/attacks/matrix.py` carries out all of them."""

import pytest
from attack import Attack
from attacks import ATTACKS
from harness import Harness


@pytest.mark.parametrize("attack", [attack for attack in ATTACKS if attack.sample], ids=lambda attack: attack.name)
def test_an_attack_is_stopped(attack: Attack, harness: Harness) -> None:
    outcome = harness.execute(attack)
    assert outcome.stopped, outcome.wrong


def test_every_kind_of_attack_is_there() -> None:
    assert {attack.number for attack in ATTACKS} == set(range(1, 27))
    names = [(attack.number, attack.name) for attack in ATTACKS]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_an_attack_is_python_and_names_targets_that_exist(attack: Attack, harness: Harness) -> None:
    for text in filter(None, (attack.first, attack.train_py)):
        filled = harness.surroundings.fill(text)
        compile(filled, "train.py", "exec")
        assert not [name for name in harness.surroundings.targets if f"${name}" in filled]


def test_the_honest_run_touches_nothing(harness: Harness) -> None:
    harness.surroundings.restore()
    assert harness.honest_score(ATTACKS[0].honest) > 0
    harness.surroundings.check_untouched()
