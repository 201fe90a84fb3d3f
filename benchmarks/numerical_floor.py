"""Measures how far an honest model's losses on the same prefix differ, on which the tolerances of the consistency check stand.

    uv run python benchmarks/numerical_floor.py [--device cpu] [--profile cpu] [--repeats 3]

Trains small models of several kinds briefly on random text, then scores them as the judge does: all rows in random order, and
spliced rows in another order, in the judge's batches. These models neither look ahead nor learn while they are scored, so all
differences are rounding errors. On a CPU, a second line compares with the same weights in float64: that is the total rounding
error, and a machine whose kernels depend on the batch shape differs from itself by at most about twice as much. Prints a table,
then the same as JSON.

All differences are in nats per token.
"""

import argparse
import copy
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from research.child.scorer import Forward, ready_to_answer
from research.child.setup import load_train_py
from research.child_settings import ChildSettings
from research.contract import Contract
from research.hyperparameters import write_constants
from research.ipc.buffer import rows_per_batch
from research.judge.consistency import Consistency, compare_prefixes, splice_rows, tolerance_for
from research.judge.cross_entropy import cross_entropy
from research.profiles import PROFILES
from research.recipes import Constant
from research.starting_hyperparameters import starting_hyperparameters

ROOT = Path(__file__).parent.parent
TRAIN_STEPS = 60
MAX_ROWS = 512
"""Maximum number of rows to evaluate: as many as an ordinary run has under the standard profile."""


class Experts(nn.Module):
    """A top-1 mixture of experts in place of an MLP, as a researcher might write it."""

    def __init__(self, width: int, experts: int = 4) -> None:
        super().__init__()
        self.router = nn.Linear(width, experts, bias=False)
        self.up = nn.Parameter(torch.randn(experts, width, 2 * width) / width**0.5)
        self.down = nn.Parameter(torch.randn(experts, 2 * width, width) / (2 * width) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        weights, chosen = self.router(x).softmax(-1).max(-1)
        out: Tensor = torch.zeros_like(x)
        for expert, (up, down) in enumerate(zip(self.up, self.down, strict=True)):
            routed = chosen == expert
            out[routed] = (F.relu(x[routed] @ up).square() @ down).to(out.dtype)
        out *= weights[..., None]
        return out


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of honest model."""

    name: str
    constants: dict[str, Constant]
    """Constants of train.py that differ from the profile's."""
    change: Callable[[nn.Module], None] = lambda model: None
    """Modifies the model in place before training."""
    bfloat16: bool = False
    """Whether all weights are cast to bfloat16 after training."""


def mix_experts(model: nn.Module) -> None:
    for block in model.blocks:  # type: ignore[union-attr]
        block.mlp = Experts(block.mlp.up.in_features)


DEEP: dict[str, Constant] = {"DEPTH": 4, "ASPECT_RATIO": 64}
KINDS = (
    Kind(name="as shipped", constants={}),
    Kind(name="deep and wide", constants=DEEP),
    Kind(name="sliding windows", constants={**DEEP, "WINDOW_PATTERN": "SSSL", "SHORT_WINDOW_RATIO": 0.25}),
    Kind(name="mixture of experts", constants={"DEPTH": 4}, change=mix_experts),
    Kind(name="as shipped, bfloat16", constants={}, bfloat16=True),
    Kind(name="deep and wide, bfloat16", constants=DEEP, bfloat16=True),
    Kind(name="mixture of experts, bfloat16", constants={"DEPTH": 4}, change=mix_experts, bfloat16=True),
)


def random_text(contract: Contract, rows: int, rng: np.random.Generator) -> np.ndarray:
    """Random rows (rows, MAX_SEQ_LEN + 1), int64. Each token has four possible successors, which a model can learn."""
    followers = rng.integers(contract.VOCAB_SIZE, size=(contract.VOCAB_SIZE, 4))
    text = np.empty((rows, contract.MAX_SEQ_LEN + 1), dtype=np.int64)
    text[:, 0] = rng.integers(contract.VOCAB_SIZE, size=rows)
    for position in range(contract.MAX_SEQ_LEN):
        text[:, position + 1] = followers[text[:, position], rng.integers(4, size=rows)]
    return text


def build(kind: Kind, contract: Contract, device: torch.device) -> nn.Module:
    """An untrained model of this kind, from the shipped train.py."""
    os.environ.update(ChildSettings(contract=contract).environment())
    constants = {**starting_hyperparameters(contract.profile), **kind.constants}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.py"
        path.write_text(write_constants((ROOT / "research" / "train.py").read_text(), constants))
        module: ModuleType = load_train_py(path)
    model: nn.Module = module.build_model()
    kind.change(model)
    return model.to(device)


def train(kind: Kind, contract: Contract, text: np.ndarray, device: torch.device) -> nn.Module:
    """A model of this kind, trained briefly: the logits of an untrained model hardly differ, and so underestimate rounding."""
    model = build(kind, contract, device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    rng = np.random.default_rng(2)
    for _ in range(TRAIN_STEPS):
        ids = torch.from_numpy(text[rng.integers(len(text), size=8)]).to(device)
        optimizer.zero_grad()
        loss: Tensor = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return (model.bfloat16() if kind.bfloat16 else model).eval()


FIGURES = ("mean", "row_rms", "section_rms", "boundary", "boundary_rms", "largest")


@torch.inference_mode()
def losses(forward: Forward, rows: np.ndarray, targets: np.ndarray, contract: Contract, device: torch.device,
           rng: np.random.Generator) -> np.ndarray:  # fmt: skip
    """Loss of each target in nats, (n, T) float32. Rows are scored in random order, in the judge's batches, padded on a GPU."""
    batch = rows_per_batch(contract, device)
    nats = np.empty(targets.shape, dtype=np.float32)
    order = rng.permutation(len(rows))
    for start in range(0, len(rows), batch):
        chosen = order[start : start + batch]
        ids = torch.zeros((batch if device.type == "cuda" else len(chosen), contract.MAX_SEQ_LEN), dtype=torch.long)
        ids[: len(chosen)] = torch.from_numpy(rows[chosen, :-1])
        logits = forward(ids.to(device))[: len(chosen)].float()
        nats[chosen] = cross_entropy(logits, torch.from_numpy(targets[chosen])).numpy()
    return nats


def measure(kind: Kind, contract: Contract, device: torch.device, repeats: int) -> dict[str, list[Consistency]]:
    """Results of the judge's comparison, `repeats` times; on a CPU also once against a second model in float64."""
    torch.manual_seed(1)
    rng = np.random.default_rng(1)
    rows = random_text(contract, min(MAX_ROWS, contract.eval_rows), rng)
    model = train(kind, contract, rows, device)
    first, _ = ready_to_answer(model, contract, device, rows=rows_per_batch(contract, device))
    nats = losses(first, rows, rows[:, 1:], contract, device, rng)

    def compare(second: Forward) -> Consistency:
        # a count that gives the last batch another shape
        splices = splice_rows(rows, len(rows) // 2 + 3, rng, donors=random_text(contract, len(rows), rng))
        other = losses(second, splices.ids, rows[splices.rows][:, 1:], contract, device, rng)
        return compare_prefixes(nats, other, splices, counts=np.ones(nats.shape, dtype=bool))

    found = {"": [compare(first) for _ in range(repeats)]}
    if device.type == "cpu":  # on a GPU, the shipped model computes in bfloat16 with any weights
        found[" (float64)"] = [compare(copy.deepcopy(model).double())]
    return found


def worst(found: Sequence[Consistency]) -> dict[str, float]:
    """The maximum of each figure over the repeats."""
    return {name: max(abs(getattr(one, name)) for one in found) for name in FIGURES}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures how far an honest model's losses on the same prefix differ.")
    parser.add_argument("--device", default="cpu", help="cpu, mps or cuda:0 (default: cpu)")
    parser.add_argument("--profile", default="cpu", choices=list(PROFILES), help="profile that sets the shapes (default: cpu)")
    parser.add_argument("--repeats", type=int, default=3, help="comparisons per model (default: 3)")
    options = parser.parse_args()
    device, contract = torch.device(options.device), PROFILES[options.profile].contract
    figures: dict[str, dict[str, float]] = {}
    names = "".join(f"{name.replace('_', ' '):>13}" for name in FIGURES)
    print(f"{'maximum of ' + str(options.repeats) + ', nats per token':<44}{names}")
    for kind in KINDS:
        for how, found in measure(kind, contract, device, options.repeats).items():
            figures[kind.name + how] = row = worst(found)
            print(f"{kind.name + how:<44}" + "".join(f"{value:>13.1e}" for value in row.values()), flush=True)
    allowed = {name: getattr(tolerance_for(device), name) for name in FIGURES}
    print(f"{'allowed':<44}" + "".join(f"{value:>13.1e}" for value in allowed.values()))
    terms = {"device": options.device, "profile": options.profile, "torch": torch.__version__}
    print(json.dumps({**terms, "floor": figures, "allowed": allowed}))


if __name__ == "__main__":
    main()
