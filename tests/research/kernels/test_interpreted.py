"""Kernels in Triton's interpreter, which computes on a CPU what they compute on a GPU.

Run as a module, this file checks them and prints a line for each: Triton must know before its import that it interprets.
"""

import os
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
import torch

from research.kernels import fused
from tests.research.kernels.test_fused import distance, loss_formula, rotary_formula, rotary_inputs


def check_loss() -> None:
    from research.kernels import triton_kernels

    for softcap, vocabulary in ((15.0, 64), (15.0, 50), (60.0, 50)):
        logits = (torch.randn(7, vocabulary) * 2 * softcap).bfloat16()
        targets = torch.randint(vocabulary, (7,))
        leaf = logits.double().requires_grad_()
        losses = torch.stack(
            [
                loss_formula(row, torch.eye(vocabulary).double(), target, softcap)
                for row, target in zip(leaf, targets, strict=True)
            ]
        )
        (grads,) = torch.autograd.grad(3 * losses.sum(), leaf)
        found = triton_kernels.cross_entropy_rows(logits, targets, softcap=softcap, grad_scale=3.0)
        assert distance(found, losses.detach()) < 1e-5, (softcap, vocabulary)
        assert distance(logits, grads) < 1e-2, (softcap, vocabulary)


def check_queries_and_keys() -> None:
    from research.kernels import triton_kernels

    for heads, dim in ((5, 128), (3, 24)):
        qk, cos, sin = rotary_inputs(9, heads, dim)
        leaf = qk.double().requires_grad_()
        out = rotary_formula(leaf, cos.double(), sin.double())
        weights = torch.randn(out.shape).bfloat16()
        (grads,) = torch.autograd.grad((out * weights).sum(), leaf)
        q, k, rstd = triton_kernels.rope_norm(qk.bfloat16(), cos, sin, 0.0)
        assert distance(torch.stack([q, k]), out.detach()) < 1e-2, (heads, dim)
        assert distance(triton_kernels.rope_norm_backward(*weights, q, k, rstd, cos, sin), grads) < 1e-2, (heads, dim)


def check_judges_cross_entropy() -> None:
    from research.judge.cross_entropy_kernel import cross_entropy_rows

    inf = float("inf")
    for vocabulary in (64, 50, 1000):
        logits, targets = 5 * torch.randn(7, vocabulary), torch.randint(vocabulary, (7,))
        targets[0], targets[1] = 0, vocabulary - 1
        expected = torch.nn.functional.cross_entropy(logits.double(), targets, reduction="none")
        torch.testing.assert_close(cross_entropy_rows(logits, targets).double(), expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(cross_entropy_rows(logits + 1000, targets).double(), expected, atol=1e-3, rtol=1e-3)
        odd, first = logits.clone(), torch.zeros(7, dtype=torch.int64)
        odd[:, 3:] = -inf
        expected = torch.nn.functional.cross_entropy(odd[:, :3].double(), first, reduction="none")
        torch.testing.assert_close(cross_entropy_rows(odd, first).double(), expected, atol=1e-5, rtol=1e-5)
        odd[0], odd[1, 2], odd[2, 5], odd[3, 0] = 3e38, inf, float("nan"), -inf
        found = cross_entropy_rows(odd, first)
        assert abs(found[0] - torch.tensor(vocabulary).log()) < 1e-4
        assert found.isfinite().tolist() == [True, False, False, False, True, True, True], found
        assert found[3] == inf


CHECKS = {"loss": check_loss, "queries and keys": check_queries_and_keys, "judge's cross-entropy": check_judges_cross_entropy}


def main() -> None:
    """Prints `right` or a traceback for each check."""
    for check in CHECKS.values():
        try:
            check()
            print("right")
        except Exception:
            print(repr(traceback.format_exc()))


@pytest.fixture(scope="module")
def said() -> dict[str, str]:
    """What `main` printed of each check."""
    root = Path(__file__).parents[3]
    environment = dict(os.environ) | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(root)}
    command = [sys.executable, "-m", "tests.research.kernels.test_interpreted"]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(zip(CHECKS, done.stdout.splitlines(), strict=True))


@pytest.mark.skipif(not fused.HAS_TRITON, reason="Triton is not installed")
@pytest.mark.parametrize("kernel", CHECKS)
def test_a_kernel_is_right_in_tritons_interpreter(kernel: str, said: dict[str, str]) -> None:
    assert said[kernel] == "right"


if __name__ == "__main__":
    main()
