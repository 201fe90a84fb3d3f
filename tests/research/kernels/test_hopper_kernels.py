"""The kernel for Hopper is compiled here, without one; what it computes is tested on a GPU, in test_kernels.py."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from research.kernels import fused as kernels

COMPILED = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.experimental.gluon import language as gl
from triton.experimental.gluon._runtime import GluonASTSource
from research.kernels.hopper_kernels import DEPTH, STAGES, TILE, product_kernel

finish, scaled = sys.argv[1], sys.argv[2] == "scaled"

def block(columns):
    return f"tensordesc<bf16[{TILE}, {columns}], {gl.NVMMASharedLayout.get_default_for([TILE, columns], gl.bfloat16)!r}>"

constants = dict(WIDTH=512, HIDDEN=2048, STAGES=STAGES, FINISH=finish, SCALED=scaled, TOKENS=2048, EPSILON=1e-6)
arguments = dict(left=block(DEPTH), right=block(DEPTH), known=block(TILE), out=block(TILE), numbers="*fp32", rows="i32")
source = GluonASTSource(product_kernel, arguments | dict.fromkeys(constants, "constexpr"), constants)
kernel = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=dict(num_warps=4))
print("shared", kernel.metadata.shared)
print(kernel.asm["ptx"])
"""


@pytest.mark.skipif(not kernels.HAS_TRITON, reason="Triton is not installed")
@pytest.mark.parametrize("finish", ["activations", "activations scaled", "gradient scaled", "sum", "heads"])
def test_it_compiles_for_a_gpu_that_is_not_here(finish: str, tmp_path: Path) -> None:
    environment = dict(os.environ) | {"PYTHONPATH": str(Path(__file__).parents[3]), "TRITON_CACHE_DIR": str(tmp_path)}
    words = [*finish.split(), "plain"][:2]
    done = subprocess.run([sys.executable, "-c", COMPILED, *words], env=environment, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    shared = int(done.stdout.split()[1])
    assert shared + 1024 <= 227 * 1024, "what a block can have on a Hopper GPU"
    assert re.search(r"reqntid\s+384\b|maxntid\s+384\b", done.stdout), "three groups of four warps"
    assert "wgmma.mma_async" in done.stdout and "cp.async.bulk.tensor" in done.stdout
