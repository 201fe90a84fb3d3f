"""Every ablation, and every first step of a constant that shapes the model, gives a train.py that builds and trains."""

import ast
from collections.abc import Iterator
from functools import cache
from itertools import permutations
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from agent.code_lines import changed_lines
from agent.search.ablations import ABLATIONS, Ablation, ablated
from agent.search.knobs import Constants, knobs_of, settle
from research.child_settings import SETTINGS_VARIABLE, ChildSettings
from research.files import research_folder
from research.hyperparameters import read_constants, write_constants
from research.profiles import PROFILES
from research.starting_hyperparameters import fit_to_profile
from tests.research.plain_gpt import PlainGPT
from tests.research.train_edits import EDITS, NoQKNorm, NoSoftcap, edited

CONTRACT = PROFILES["cpu"].contract
SHIPPED = {name: fit_to_profile((research_folder() / "train.py").read_text(), name, None)[0] for name in PROFILES}
"""The shipped train.py with each profile's constants."""
TRAIN_PY = SHIPPED["cpu"]
TINY = {"DEPTH": 3, "ASPECT_RATIO": 16, "HEAD_DIM": 16}
SHAPES = ("DEPTH", "ASPECT_RATIO", "HEAD_DIM", "MLP_RATIO", "WINDOW_PATTERN", "VALUE_GATE_CHANNELS", "TOTAL_BATCH_SIZE")
NAMED = {ablation.title.removeprefix("drop "): ablation for ablation in ABLATIONS}
OPTIMIZER_NAMES = ("the cautious weight-decay mask", "NorMuon's second moment")
MUON_LR = 0.1
PAIRS_THAT_APPLY = 60
"""Ordered pairs of ablations, of 72, in which the second applies after the first; the others change the same lines."""


class PlainReLU(PlainGPT):
    def mlp(self, x: Tensor, layer: int) -> Tensor:
        return self.linear(self.linear(x, layer, "mlp.up").clamp_min(0), layer, "mlp.down")


PLAIN = {"the logit softcap": NoSoftcap, "QK norm": NoQKNorm, "the square of the ReLU": PlainReLU}


@pytest.fixture(autouse=True)
def cpu_contract(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(SETTINGS_VARIABLE, ChildSettings(contract=CONTRACT).to_json())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny models: threads only get in each other's way
    yield
    torch.set_num_threads(threads)


def merged(train_py: str, name: str) -> str:
    """`train_py` with an ablation that must fit it."""
    result = ablated(train_py, NAMED[name])
    assert result is not None, "train.py has changed: adapt the ablation's patch"
    return result


def loaded(train_py: str) -> ModuleType:
    module = ModuleType("candidate")
    exec(compile(train_py, "candidate.py", "exec"), module.__dict__)
    return module


def randomised(model: nn.Module) -> dict[str, Tensor]:
    """The model's parameters, none of them zero; they are shared with the model."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.normal_(std=parameter.size(-1) ** -0.5)
    return parameters


def train_one_step(train_py: str) -> float:
    """The loss after a step on random tokens."""
    module = loaded(train_py)
    model = module.build_model()
    ids = torch.randint(module.VOCAB_SIZE, (1, 65))
    optimizer = module.Optimizer(model)
    model(ids[:, :-1], ids[:, 1:]).backward()
    optimizer.step(0, 0.0)
    with torch.no_grad():
        logits = model(ids[:, :-1])
    assert logits.shape == (1, 64, module.VOCAB_SIZE)
    return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()))


@cache
def unread_names(train_py: str) -> set[str]:
    """Names that are defined or imported and never read."""
    read, defined = set(), set()
    for node in ast.walk(ast.parse(train_py)):
        match node:
            case ast.Name(id=name, ctx=ast.Load()) | ast.Attribute(attr=name, ctx=ast.Load()):
                read.add(name)
            case (ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.alias(name=name)
                  | ast.FunctionDef(name=name)):  # fmt: skip
                defined.add(name)
    return defined - read


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", NAMED)
def test_an_ablation_trains_with_the_constants_of_a_profile(name: str, profile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SETTINGS_VARIABLE, ChildSettings(contract=PROFILES[profile].contract).to_json())
    text = merged(SHIPPED[profile], name)
    assert read_constants(text).items() <= read_constants(SHIPPED[profile]).items()
    assert train_one_step(write_constants(text, TINY)) < 14


@pytest.mark.parametrize("name", NAMED)
def test_an_ablation_needs_no_more_lines_and_leaves_nothing_unused(name: str) -> None:
    text = merged(TRAIN_PY, name)
    added, removed = changed_lines(TRAIN_PY, text)
    assert added <= removed + 1  # a long line counts more than once
    assert unread_names(text) <= unread_names(TRAIN_PY)
    assert all(len(line) <= 128 for line in text.splitlines())


@pytest.mark.parametrize("name", [name for name in NAMED if name not in OPTIMIZER_NAMES])
def test_an_ablated_model_has_the_loss_of_plain_pytorch_without_that_part(name: str) -> None:
    torch.manual_seed(1)
    shipped, module = loaded(write_constants(TRAIN_PY, TINY)), loaded(write_constants(merged(TRAIN_PY, name), TINY))
    whole, model = shipped.build_model(), module.build_model()
    everything, weights = randomised(whole), randomised(model)
    neutral = {key: torch.full_like(value, key == "resid_lambdas") for key, value in everything.items()}
    ids, targets = torch.randint(CONTRACT.VOCAB_SIZE, (2, 2, 64))
    loss = model(ids, targets)
    torch.testing.assert_close(loss, PLAIN.get(name, PlainGPT)(shipped, neutral | weights).loss(ids, targets))
    assert abs(loss - PlainGPT(shipped, everything | weights).loss(ids, targets)) > 1e-4


@pytest.mark.parametrize("shape", [(24, 8), (8, 24)])
def test_without_the_cautious_mask_all_weights_decay(shape: tuple[int, int]) -> None:
    undecayed, cautious = muon_step(TRAIN_PY, shape, weight_decay=0.0), muon_step(TRAIN_PY, shape, weight_decay=0.5)
    decayed = muon_step(merged(TRAIN_PY, OPTIMIZER_NAMES[0]), shape, weight_decay=0.5)
    torch.testing.assert_close(decayed, undecayed - MUON_LR * 0.5 * matrix_and_gradient(shape)[0])
    assert 0.2 < float(torch.isclose(decayed, cautious).float().mean()) < 0.8


@pytest.mark.parametrize("shape", [(24, 8), (8, 24)])
def test_without_normuon_the_update_is_the_orthogonalised_momentum(shape: tuple[int, int]) -> None:
    after = muon_step(merged(TRAIN_PY, OPTIMIZER_NAMES[1]), shape, weight_decay=0.0)
    matrix, gradient = matrix_and_gradient(shape)  # the first step's momentum is a multiple of its gradient
    expected = matrix - MUON_LR * loaded(TRAIN_PY).orthogonalize(gradient[None])[0]
    torch.testing.assert_close(after, expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(muon_step(TRAIN_PY, shape, weight_decay=0.0), expected, atol=1e-3)


def muon_step(train_py: str, shape: tuple[int, int], *, weight_decay: float) -> Tensor:
    """The matrix after one step of Muon, whose learning rate for its shape is MUON_LR."""
    matrix, gradient = matrix_and_gradient(shape)
    parameter = nn.Parameter(matrix)
    muon = loaded(train_py).Muon([parameter])
    parameter.grad = gradient
    muon.step(lr=MUON_LR / max(1.0, shape[0] / shape[1]) ** 0.5, momentum=0.9, weight_decay=weight_decay)
    return parameter.detach()


def matrix_and_gradient(shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    torch.manual_seed(2)
    return torch.randn(shape), torch.randn(shape)


def test_most_ablations_apply_on_top_of_each_other() -> None:
    count, ablated_once = 0, {name: merged(TRAIN_PY, name) for name in NAMED}
    for first, second in permutations(NAMED, 2):
        if (both := ablated(ablated_once[first], NAMED[second])) is not None:
            count += 1
            assert unread_names(both) <= unread_names(TRAIN_PY), (first, second)
    assert count >= PAIRS_THAT_APPLY


def test_all_ablations_that_fit_together_train() -> None:
    text = TRAIN_PY
    for ablation in ABLATIONS:
        text = ablated(text, ablation) or text
    assert train_one_step(text) < 14


@pytest.mark.parametrize("ablation", ABLATIONS, ids=lambda ablation: ablation.title)
def test_an_ablation_does_not_fit_where_it_was_made_already(ablation: Ablation) -> None:
    text = ablated(TRAIN_PY, ablation)
    assert text is not None and ablated(text, ablation) is None


def test_an_ablation_does_not_fit_where_its_lines_were_edited_or_are_needed() -> None:
    assert ablated(TRAIN_PY.replace("resid_lambdas", "scales"), NAMED["the residual lambdas"]) is None
    for edit in (edit for edit in EDITS if edit.name in ("SwiGLU", "GELU")):
        assert ablated(edited(TRAIN_PY, edit), NAMED["the square of the ReLU"]) is None
    needed = TRAIN_PY.replace(
        "        width = self.embedding", "        print(self.x0_lambdas)\n        width = self.embedding"
    )
    assert needed != TRAIN_PY and ablated(needed, NAMED["the x0 lambdas"]) is None


def test_the_edits_and_constants_of_a_branch_stay() -> None:
    swiglu = next(edit for edit in EDITS if edit.name == "SwiGLU")
    tuned = {"MATRIX_LR": 0.123, "WEIGHT_DECAY": 0.456}
    for name in ("the value-embedding gate", "the x0 lambdas", "the residual lambdas", "the cautious weight-decay mask"):
        branch = write_constants(edited(TRAIN_PY, swiglu), tuned)
        assert merged(branch, name) == write_constants(edited(merged(TRAIN_PY, name), swiglu), tuned)


def test_constants_and_imports_that_an_ablation_leaves_unused_go() -> None:
    text = merged(TRAIN_PY, "the logit softcap")
    assert read_constants(TRAIN_PY).keys() - read_constants(text).keys() == {"SOFTCAP"}
    assert "softcapped_cross_entropy" not in text and "rms_norm" in text
    assert {"VALUE_GATE_CHANNELS", "VALUE_EMBEDDING_DECAY"}.isdisjoint(read_constants(merged(TRAIN_PY, "the value embeddings")))
    used = TRAIN_PY.replace("def build_model", "LIMIT = 2 * SOFTCAP\n\n\ndef build_model")
    assert read_constants(merged(used, "the logit softcap"))["SOFTCAP"] == 15.0


@pytest.mark.parametrize("text", ["", "x = 1\n", "q, k = 1, 2\n", "class A:\n    def f(self):\n        self.gate = 1\n", "("])
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
