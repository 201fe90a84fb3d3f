"""Every ablation, and every first step of a constant that shapes the model, gives a train.py that builds and trains."""

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

import research.train
from agent.diff import count_lines, unified_diff
from agent.search.ablations import ABLATIONS, ablated
from agent.search.knobs import Constants, knobs_of, settle
from research.hyperparameters import read_constants, write_constants
from research.profiles import PROFILES, starting_hyperparameters
from research.settings import SETTINGS_VARIABLE, ChildSettings

CONTRACT = PROFILES["cpu"].contract
TRAIN_PY = write_constants(Path(research.train.__file__).read_text(), starting_hyperparameters("cpu", free_bytes=None))
SHAPES = ("DEPTH", "ASPECT_RATIO", "HEAD_DIM", "MLP_RATIO", "WINDOW_PATTERN", "VALUE_GATE_CHANNELS", "TOTAL_BATCH_SIZE")


def train_one_step(train_py: str) -> float:
    """The loss after a step on random tokens."""
    module = ModuleType("candidate")
    exec(compile(train_py, "candidate.py", "exec"), module.__dict__)
    model = module.build_model()
    ids = torch.randint(CONTRACT.VOCAB_SIZE, (1, 65))
    optimizer = module.Optimizer(model)
    model(ids[:, :-1], ids[:, 1:]).backward()
    optimizer.step(0, 0.0)
    with torch.no_grad():
        logits = model(ids[:, :-1])
    assert logits.shape == (1, 64, CONTRACT.VOCAB_SIZE)
    return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()))


@pytest.fixture(autouse=True)
def cpu_contract(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(SETTINGS_VARIABLE, ChildSettings(contract=CONTRACT).to_json())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny models: threads only get in each other's way
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("ablation", ABLATIONS, ids=lambda ablation: ablation.title)
def test_an_ablation_trains_and_needs_no_more_lines(ablation: object) -> None:
    edited = ablated(TRAIN_PY, ablation)  # type: ignore[arg-type]
    assert edited is not None, "train.py has changed: teach the ablation its new shape, or take it out"
    added, removed = count_lines(unified_diff(TRAIN_PY, edited))
    assert added <= removed
    assert train_one_step(edited) < 12
    assert ablated(edited, ablation) is None  # type: ignore[arg-type]


def test_all_ablations_together_train() -> None:
    text = TRAIN_PY
    for ablation in ABLATIONS:
        text = ablated(text, ablation) or text
    assert train_one_step(text) < 12


@pytest.mark.parametrize("text", ["", "x = 1\n", "q, k = 1, 2\n", "class A:\n    def f(self):\n        self.gate = 1\n"])
def test_ablations_leave_other_code_alone(text: str) -> None:
    assert [ablated(text, ablation) for ablation in ABLATIONS] == [None] * len(ABLATIONS)


@pytest.mark.parametrize("direction", [-1, 1])
def test_first_steps_that_change_shapes_train(direction: int) -> None:
    constants: Constants = read_constants(TRAIN_PY)
    stepped = []
    for knob in (knob for knob in knobs_of(constants) if knob.name in SHAPES):
        position = knob.read(constants[knob.name])
        assert position is not None
        new = knob.write(constants[knob.name], position + direction * knob.probe)
        changes = {} if new is None else settle(constants, {knob.name: new}, max_seq_len=CONTRACT.MAX_SEQ_LEN)
        if changes:
            assert train_one_step(write_constants(TRAIN_PY, changes)) < 20, changes
            stepped.append(knob.name)
    assert len(stepped) >= 4
