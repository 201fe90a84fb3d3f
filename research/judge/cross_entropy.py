"""The judge's arithmetic: cross-entropy from full logits, and the nats and bytes of rows."""

from importlib.util import find_spec

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from research.judge.row_scores import RowScores


def cross_entropy(logits: Tensor, targets: Tensor, *, chunk_tokens: int = 8192) -> Tensor:
    """Nats per token, (n, T) float32 on the CPU, of logits (n, T, V) float32 and targets (n, T) int64.

    Any logits are allowed: they are normalised here, in chunks of `chunk_tokens` to bound memory.
    """
    flat, wanted = logits.flatten(0, 1), targets.flatten().to(logits.device)
    parts = [
        F.cross_entropy(flat[start : start + chunk_tokens].float(), wanted[start : start + chunk_tokens], reduction="none")
        for start in range(0, len(flat), chunk_tokens)
    ]
    return torch.cat(parts).view(targets.shape).cpu()


def copied(logits: Tensor) -> Tensor:
    """A copy of logits, complete when this returns: the scorer may overwrite the original at any time."""
    copy = logits.clone()
    if copy.is_cuda:
        torch.cuda.synchronize(copy.device)
    return copy


def cross_entropy_read_once(logits: Tensor, targets: Tensor) -> Tensor:
    """`cross_entropy` of contiguous logits that may change during the call: the judge's kernel reads each of them once.

    Requires `can_read_once`.
    """
    from research.judge.cross_entropy_kernel import cross_entropy_rows

    return cross_entropy_rows(logits.view(-1, logits.size(-1)), targets.flatten().to(logits.device)).view(targets.shape).cpu()


def can_read_once(device: torch.device, vocabulary: int) -> bool:
    """Whether the judge's own kernel runs on `device`, an NVIDIA GPU where Triton works. It finds out by trying."""
    if device.type != "cuda" or torch.version.hip is not None or find_spec("triton") is None:
        return False
    try:
        from research.judge.cross_entropy_kernel import MAX_VOCABULARY, cross_entropy_rows

        if vocabulary > MAX_VOCABULARY:
            return False
        cross_entropy_rows(torch.zeros(1, vocabulary, device=device), torch.zeros(1, dtype=torch.int64, device=device)).cpu()
    except Exception:  # no compiler, or a GPU that Triton doesn't support: torch computes the loss from a copy
        return False
    return True


def row_scores(nats: np.ndarray, targets: np.ndarray, token_bytes: np.ndarray) -> RowScores:
    """Nats and bytes of each row's targets. Special tokens, which have no bytes, count in neither sum.

    nats: (n, T) float; targets: (n, T) integer ids; token_bytes: (V,) bytes per token.
    """
    lengths = token_bytes[targets].astype(np.int64)
    return RowScores(nats=np.sum(nats.astype(np.float64) * (lengths > 0), axis=1), bytes=lengths.sum(axis=1))
