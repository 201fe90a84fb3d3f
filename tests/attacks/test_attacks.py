"""A sample of the attacks: each is stopped. `tests/attacks/matrix.py` carries out all of them."""

import pytest

from research.carried_data import evaluation_bytes
from research.runnable import not_runnable
from tests.attacks.attack import Attack
from tests.attacks.attacks import ATTACKS
from tests.attacks.harness import Harness


@pytest.mark.parametrize("attack", [attack for attack in ATTACKS if attack.sample], ids=lambda attack: attack.name)
def test_an_attack_is_stopped(attack: Attack, harness: Harness) -> None:
    outcome = harness.execute(attack)
    assert outcome.stopped, outcome.wrong


def test_every_kind_of_attack_is_there() -> None:
    assert {attack.number for attack in ATTACKS} == set(range(1, 28))
    names = [(attack.number, attack.name) for attack in ATTACKS]
    assert len(names) == len(set(names))


def test_the_attacks_are_python_and_name_targets_that_exist(harness: Harness) -> None:
    for text in (text for attack in ATTACKS for text in (attack.first, attack.train_py) if text is not None):
        filled = harness.surroundings.fill(text)
        compile(filled, "train.py", "exec")
        assert not [name for name in harness.surroundings.targets if f"${name}" in filled]


def test_only_attacks_by_the_text_are_refused_by_their_text(harness: Harness) -> None:
    """One that is refused for a name in its text tries nothing, and shows nothing of what should stop it."""
    evaluation = evaluation_bytes(harness.runner.contract)
    for attack in ATTACKS:
        refused = not_runnable(harness.surroundings.fill(attack.train_py), evaluation)
        assert (refused is not None) == attack.by_its_text, (attack.name, refused)
        if attack.first is not None:
            assert not_runnable(harness.surroundings.fill(attack.first), evaluation) is None, attack.name


def test_the_honest_run_touches_nothing(harness: Harness) -> None:
    harness.surroundings.restore()
    assert harness.honest_score(ATTACKS[0].honest) > 0
    harness.surroundings.check_untouched()
