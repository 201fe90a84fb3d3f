"""Edits of train.py written as for plain PyTorch: each gives the loss and gradients of a plain PyTorch model with that edit."""

from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from research.child_settings import SETTINGS_VARIABLE, ChildSettings
from research.files import research_folder
from research.hyperparameters import write_constants
from research.kernels.fused import uses_triton
from research.profiles import contract_for
from research.starting_hyperparameters import fit_to_profile
from tests.research.train_edits import EDITS, Edit, edited

HAS_GPU = torch.cuda.is_available() and uses_triton(torch.device("cuda"), torch.bfloat16)
SHIPPED = (research_folder() / "train.py").read_text()
TOKENS = 128
SIZES = {"DEPTH": 3, "ASPECT_RATIO": 32, "WINDOW_PATTERN": "SL", "BIGRAM_BUCKETS": 100, "VALUE_GATE_CHANNELS": 8}
CLOSE_ON_A_GPU = 4e-2
"""Distance of a bfloat16 gradient from the float32 one, as a share of its norm, that rounding explains through three layers."""


def loaded(monkeypatch: pytest.MonkeyPatch, edit: Edit, *, head_dim: int) -> ModuleType:
    """The edited train.py as a module, on the cpu profile with a small model of at least two heads."""
    monkeypatch.setenv(SETTINGS_VARIABLE, ChildSettings(contract=contract_for("cpu")).to_json())
    constants = SIZES | {"HEAD_DIM": head_dim, "ASPECT_RATIO": 2 * head_dim // 3}
    text = write_constants(fit_to_profile(edited(SHIPPED, edit), "cpu", None)[0], constants)
    train = ModuleType("train")
    exec(compile(text, "train.py", "exec"), train.__dict__)
    return train


def randomised(train: ModuleType) -> nn.Module:
    """A model whose weights all matter: as initialised, half of them are zero."""
    torch.manual_seed(1)
    model: nn.Module = train.build_model()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.7 / parameter.size(-1) ** 0.5)
            else:
                parameter.add_(0.2 * torch.randn_like(parameter))
        for embedding in (module for module in model.modules() if isinstance(module, nn.Embedding)):
            embedding.weight.normal_()
    return model


def loss_and_gradients(loss: Tensor, parameters: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return loss.detach(), {name: grad for name, grad in zip(parameters, gradients, strict=True) if grad is not None}


def plain_loss_and_gradients(
    train: ModuleType, model: nn.Module, edit: Edit, ids: Tensor, targets: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    weights = {name: parameter.detach().float().requires_grad_() for name, parameter in model.named_parameters()}
    torch.manual_seed(7)
    return loss_and_gradients(edit.plain(train, weights).loss(ids, targets), weights)


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.name)
def test_an_edit_means_what_it_would_in_plain_pytorch(edit: Edit, monkeypatch: pytest.MonkeyPatch) -> None:
    train = loaded(monkeypatch, edit, head_dim=24)
    model = randomised(train)
    train.Optimizer(model)  # every weight has an optimizer
    ids, targets = torch.randint(train.VOCAB_SIZE, (2, 2, TOKENS))
    expected, expected_gradients = plain_loss_and_gradients(train, model, edit, ids, targets)
    torch.manual_seed(7)
    loss, gradients = loss_and_gradients(model(ids, targets), dict(model.named_parameters()))
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    assert gradients.keys() == expected_gradients.keys() and len(gradients) > 10
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected_gradients[name], atol=2e-5, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


def test_an_edit_changes_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """No two edits give the same loss: each of the tests above compares something of its own."""
    losses = {}
    for edit in EDITS:
        train = loaded(monkeypatch, edit, head_dim=24)
        ids, targets = torch.randint(train.VOCAB_SIZE, (2, 1, 16), generator=torch.Generator().manual_seed(1))
        losses[edit.name] = round(randomised(train)(ids, targets).item(), 5)
    assert len(set(losses.values())) == len(EDITS), losses


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_GPU, reason="no NVIDIA GPU since Ampere with Triton")
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.name)
def test_an_edit_means_the_same_on_a_gpu(edit: Edit, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if edit.name == "dropout":
        pytest.skip("a GPU draws other masks for bfloat16 than for float32")
    torch.compiler.reset()
    train = loaded(monkeypatch, edit, head_dim=128)
    model = randomised(train)
    train.Optimizer(model)
    ids, targets = torch.randint(train.VOCAB_SIZE, (2, 2, TOKENS), device="cuda")
    expected, expected_gradients = plain_loss_and_gradients(train, model, edit, ids, targets)
    torch.manual_seed(7)
    forward = torch.compile(model, dynamic=False) if compiled else model
    loss, gradients = loss_and_gradients(forward(ids, targets), dict(model.named_parameters()))
    torch.testing.assert_close(loss.float(), expected, atol=2e-2, rtol=1e-3)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        if name.endswith("_lambdas"):
            continue  # one sum over all tokens and channels, whose terms cancel down to their rounding
        reference = expected_gradients[name]
        off = float((gradient.float() - reference).norm() / reference.norm())
        assert off <= CLOSE_ON_A_GPU, f"{name} is off by {off:.3f} of its norm"
