"""Scores one of our models with the reference's evaluator. benchmarks/training.py runs this script in a subprocess.

The reference's prepare.py reads its data from below $HOME. Prints the bits per byte as a line of JSON.
"""

import argparse
import importlib
import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from research.child.setup import load_train_py


class PerTokenLoss(nn.Module):
    """Wraps one of our models in the interface that the reference's evaluator expects."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
        """Cross-entropy in nats of ids and targets (B, T). The result has shape (B * T,) with the reduction `none`."""
        return F.cross_entropy(self.model(ids).flatten(0, 1).float(), targets.flatten(), reduction=reduction)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--reference", type=Path, required=True, metavar="FOLDER", help="folder of the reference's prepare.py")
    parser.add_argument("--train", type=Path, required=True, metavar="FILE", help="the run's train.py")
    parser.add_argument("--model", type=Path, required=True, metavar="FILE", help="the run's model.safetensors")
    parser.add_argument("--rows", type=int, default=32, help="rows per batch (default: 32)")
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    sys.path.insert(0, str(options.reference))  # before this script's folder, which also has a prepare.py
    prepare = importlib.import_module("prepare")
    model = load_train_py(options.train).build_model()
    model.load_state_dict(load_file(options.model))
    wrapped = PerTokenLoss(model).to(torch.device(options.device)).eval()
    bpb = prepare.evaluate_bpb(wrapped, prepare.Tokenizer.from_directory(), options.rows)
    print(json.dumps({"bpb": bpb}))


if __name__ == "__main__":
    main()
