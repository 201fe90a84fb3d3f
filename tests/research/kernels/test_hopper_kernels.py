"""The Hopper kernel compiles without a GPU; what it computes is tested on one, in test_fused.py."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from research.kernels import fused

COMPILED = """
import json
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.experimental.gluon import language as gl
from triton.experimental.gluon._runtime import GluonASTSource
from research.kernels.hopper_kernels import BLOCK_K, STAGES, TILE, linear_kernel

def block(columns):
    return f"tensordesc<bf16[{TILE}, {columns}], {gl.NVMMASharedLayout.get_default_for([TILE, columns], gl.bfloat16)!r}>"

found = {}
for name in sys.argv[1:]:
    constants = dict(K=512, N=2048, STAGES=STAGES, EPILOGUE=name, TOKENS=2048, EPSILON=1e-6)
    arguments = dict(x=block(BLOCK_K), weight=block(BLOCK_K), aux=block(TILE), out=block(TILE), rstd="*fp32", rows="i32")
    source = GluonASTSource(linear_kernel, arguments | dict.fromkeys(constants, "constexpr"), constants)
    kernel = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=dict(num_warps=4))
    found[name] = dict(shared=kernel.metadata.shared, ptx=kernel.asm["ptx"])
print(json.dumps(found))
"""


EPILOGUES = ("relu2", "relu2_backward", "rope_norm")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Shared memory in bytes and PTX of each variant, all compiled by one process."""
    caches = {"TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton"))}
    environment = dict(os.environ) | {"PYTHONPATH": str(Path(__file__).parents[3])} | caches
    done = subprocess.run([sys.executable, "-c", COMPILED, *EPILOGUES], env=environment, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return found


@pytest.mark.skipif(not fused.HAS_TRITON, reason="Triton is not installed")
@pytest.mark.parametrize("epilogue", EPILOGUES)
def test_it_compiles_for_a_gpu_that_is_not_here(epilogue: str, compiled: dict[str, dict[str, Any]]) -> None:
    shared, ptx = compiled[epilogue]["shared"], compiled[epilogue]["ptx"]
    assert shared + 1024 <= 227 * 1024, "what a block can have on a Hopper GPU"
    assert re.search(r"reqntid\s+384\b|maxntid\s+384\b", ptx), "three groups of four warps"
    assert "wgmma.mma_async" in ptx and "cp.async.bulk.tensor" in ptx
