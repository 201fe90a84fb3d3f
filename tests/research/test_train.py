"""The shipped train.py on the cpu profile: model, optimizer, schedules."""

from itertools import repeat
from types import ModuleType

import pytest
import torch

from research import run as run_module
from research.child_settings import SETTINGS_VARIABLE, ChildSettings
from research.hyperparameters import write_constants
from research.profiles import contract_for
from research.starting_hyperparameters import fit_to_profile

SHIPPED = run_module.SHIPPED_TRAIN_PY.read_text()


def loaded(monkeypatch: pytest.MonkeyPatch, **constants: int | float | str) -> ModuleType:
    """train.py on the cpu profile, with constants of it replaced."""
    torch.set_num_threads(1)
    monkeypatch.setenv(SETTINGS_VARIABLE, ChildSettings(contract=contract_for("cpu")).to_json())
    text = write_constants(fit_to_profile(SHIPPED, "cpu", None)[0], constants)
    module = ModuleType("train")
    exec(compile(text, "train.py", "exec"), module.__dict__)
    return module


def test_the_loss_falls_within_a_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    train = loaded(monkeypatch)
    torch.manual_seed(1)
    model = train.build_model()
    optimizer = train.Optimizer(model)
    ids = torch.randint(50, (4, 65))
    losses = []
    for step, batch in enumerate(repeat(ids, 8)):
        loss = model(batch[:, :-1], batch[:, 1:])
        loss.backward()
        optimizer.step(step, 0.0)
        model.zero_grad(set_to_none=True)
        losses.append(loss.item())
    assert losses[0] == pytest.approx(torch.tensor(2048.0).log().item(), abs=0.1), "it starts from knowing nothing"
    assert losses[-1] < losses[0] - 2.0


def test_the_seed_makes_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    train = loaded(monkeypatch)

    def made(seed: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(seed)
        state: dict[str, torch.Tensor] = train.build_model().state_dict()
        return state

    first, again, other = made(1), made(1), made(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["embedding.weight"], other["embedding.weight"])


@pytest.mark.parametrize(("depth", "ratio", "width"), [(2, 64, 128), (4, 64, 256), (3, 50, 192)])
def test_depth_rescales_the_model(depth: int, ratio: int, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    train = loaded(monkeypatch, DEPTH=depth, ASPECT_RATIO=ratio, HEAD_DIM=64)
    model = train.build_model()
    assert len(model.blocks) == depth and model.embedding.weight.shape == (2048, width)
    assert model.blocks[0].mlp.up.weight.shape == (4 * width, width)
    assert set(model.value_embeddings) == {str(layer) for layer in range(depth) if (depth - 1 - layer) % 2 == 0}
    assert model(torch.zeros(2, 16, dtype=torch.long)).shape == (2, 16, 2048)
    matrices = depth * 12 * width**2 + sum(block.attention.gate is not None for block in model.blocks) * (width // 64) * 32
    assert model.flops_per_token() == 6.0 * (matrices + 2048 * width) + depth * 12.0 * width * 256


def test_the_model_looks_back_only(monkeypatch: pytest.MonkeyPatch) -> None:
    train = loaded(monkeypatch, DEPTH=2, WINDOW_PATTERN="SL")
    model = train.build_model()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    ids = torch.randint(2048, (1, 32))
    changed = ids.clone()
    changed[0, 20:] = 7
    with torch.no_grad():
        a, b = model(ids), model(changed)
    torch.testing.assert_close(a[:, :20], b[:, :20])
    assert not torch.allclose(a[:, 20], b[:, 20])
    assert a.abs().max() <= train.SOFTCAP


@pytest.mark.parametrize(
    ("constants", "named"),
    [
        ({"WINDOW_PATTERN": "SXL"}, "WINDOW_PATTERN"),
        ({"WINDOW_PATTERN": ""}, "WINDOW_PATTERN"),
        ({"DEPTH": 0}, "DEPTH"),
        ({"HEAD_DIM": 33}, "HEAD_DIM"),
        ({"SOFTCAP": 0.0}, "SOFTCAP"),
        ({"SHORT_WINDOW_RATIO": 0.001, "WINDOW_PATTERN": "S"}, "SHORT_WINDOW_RATIO"),
        ({"DEVICE_BATCH_SIZE": 0}, "DEVICE_BATCH_SIZE"),
        ({"DEVICE_BATCH_SIZE": 3}, "TOTAL_BATCH_SIZE"),
        ({"MUON_WARMUP_STEPS": -1}, "MUON_WARMUP_STEPS"),
        ({"TOTAL_BATCH_SIZE": 0}, "TOTAL_BATCH_SIZE"),
    ],
)
def test_a_wrong_constant_is_named(
    constants: dict[str, int | float | str], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match=f"^{named} "):
        loaded(monkeypatch, **constants).build_model()


def test_a_weight_without_an_optimizer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    train = loaded(monkeypatch)
    model = train.build_model()
    model.extra = torch.nn.Parameter(torch.zeros(3))
    with pytest.raises(SystemExit, match=r"^extra has no optimizer"):
        train.Optimizer(model)


def test_windows_follow_the_pattern(monkeypatch: pytest.MonkeyPatch) -> None:
    train = loaded(monkeypatch, DEPTH=5, WINDOW_PATTERN="SSL")
    assert [train.attention_window(layer) for layer in range(5)] == [128, 128, 256, 128, 256]


@pytest.mark.parametrize("shape", [(3, 32, 32), (2, 16, 64), (2, 64, 16)])
def test_muon_makes_updates_near_orthogonal(shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    singular = torch.linalg.svdvals(loaded(monkeypatch).orthogonalize(torch.randn(shape)))
    assert singular.min() > 0.7 and singular.max() < 1.3


def test_muon_decays_only_where_the_update_pulls_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    train = loaded(monkeypatch)
    torch.manual_seed(1)
    grads = torch.randn(1, 8, 8)

    def updated(decay: float) -> torch.Tensor:
        weights = torch.ones(1, 8, 8)
        train.muon_update(weights, grads, torch.zeros(1, 8, 8), torch.zeros(1, 8, 1), *map(torch.tensor, (0.1, 0.9, decay)))
        return weights

    plain, decayed = updated(0.0), updated(0.5)
    shrinking = plain < 1
    torch.testing.assert_close(decayed, torch.where(shrinking, plain - 0.1 * 0.5, plain))
    assert 0 < shrinking.sum() < 64


def test_the_learning_rate_goes_up_stays_and_falls(monkeypatch: pytest.MonkeyPatch) -> None:
    train = loaded(monkeypatch, WARMUP_RATIO=0.1, WARMDOWN_RATIO=0.4, FINAL_LR_FRAC=0.2)
    points = [0.0, 0.05, 0.1, 0.5, 0.6, 0.8, 1.0]
    assert [train.lr_multiplier(point) for point in points] == pytest.approx([0.0, 0.5, 1.0, 1.0, 1.0, 0.6, 0.2])


def test_short_groups_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    train = loaded(monkeypatch)
    assert list(train.grouped(iter(range(7)), 3)) == [[0, 1, 2], [3, 4, 5]]


def test_a_pair_is_a_token_and_the_one_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    train = loaded(monkeypatch, BIGRAM_BUCKETS=1000)
    alone, *pairs = train.hashed_bigrams(torch.tensor([[5, 7, 5, 7, 9, 2047]]))[0].tolist()
    assert pairs[0] == pairs[2] and len({alone, *pairs}) == 5
    assert all(0 <= bucket < 1000 for bucket in (alone, *pairs))
    assert train.build_model().bigram_embedding.weight.shape == (1000, 64)


def test_the_table_of_pairs_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded(monkeypatch, BIGRAM_BUCKETS=0).build_model()
    assert model.bigram_embedding is None and not any("bigram" in name for name in model.state_dict())
    assert model(torch.zeros(1, 4, dtype=torch.int64)).shape == (1, 4, 2048)
