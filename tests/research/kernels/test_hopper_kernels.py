"""The Hopper kernel compiles without a GPU; what it computes is tested on one, in test_fused.py."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from research.kernels import fused

COMPILED = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.experimental.gluon import language as gl
from triton.experimental.gluon._runtime import GluonASTSource
from research.kernels.hopper_kernels import BLOCK_K, STAGES, TILE, linear_kernel

def block(columns):
    return f"tensordesc<bf16[{TILE}, {columns}], {gl.NVMMASharedLayout.get_default_for([TILE, columns], gl.bfloat16)!r}>"

constants = dict(K=512, N=2048, STAGES=STAGES, EPILOGUE=sys.argv[1], TOKENS=2048, EPSILON=1e-6)
arguments = dict(x=block(BLOCK_K), weight=block(BLOCK_K), aux=block(TILE), out=block(TILE), rstd="*fp32", rows="i32")
source = GluonASTSource(linear_kernel, arguments | dict.fromkeys(constants, "constexpr"), constants)
kernel = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=dict(num_warps=4))
print("shared", kernel.metadata.shared)
print(kernel.asm["ptx"])
"""


@pytest.mark.skipif(not fused.HAS_TRITON, reason="Triton is not installed")
@pytest.mark.parametrize("epilogue", ["relu2", "relu2_backward", "rope_norm"])
def test_it_compiles_for_a_gpu_that_is_not_here(epilogue: str, tmp_path: Path) -> None:
    environment = dict(os.environ) | {"PYTHONPATH": str(Path(__file__).parents[3]), "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", COMPILED, epilogue], env=environment, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    shared = int(done.stdout.split()[1])
    assert shared + 1024 <= 227 * 1024, "what a block can have on a Hopper GPU"
    assert re.search(r"reqntid\s+384\b|maxntid\s+384\b", done.stdout), "three groups of four warps"
    assert "wgmma.mma_async" in done.stdout and "cp.async.bulk.tensor" in done.stdout
