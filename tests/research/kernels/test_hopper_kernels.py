"""The Hopper kernel compiles without a GPU; what it computes is tested on one, in test_fused.py."""

import os
import re
from functools import partial
from typing import Any

import pytest

from research.kernels import fused
from tests.research.judged import in_a_fork

EPILOGUES = ("relu2", "relu2_backward", "rope_norm")


def compile_all(cache: str) -> dict[str, dict[str, Any]]:
    """Shared memory in bytes and PTX of each variant."""
    os.environ["TRITON_CACHE_DIR"] = cache
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.experimental.gluon import language as gl
    from triton.experimental.gluon._runtime import GluonASTSource

    from research.kernels.hopper_kernels import BLOCK_K, STAGES, TILE, linear_kernel

    def block(columns: int) -> str:
        return f"tensordesc<bf16[{TILE}, {columns}], {gl.NVMMASharedLayout.get_default_for([TILE, columns], gl.bfloat16)!r}>"

    found = {}
    for name in EPILOGUES:
        constants = dict(K=512, N=2048, STAGES=STAGES, EPILOGUE=name, TOKENS=2048, EPSILON=1e-6)
        arguments = dict(x=block(BLOCK_K), weight=block(BLOCK_K), aux=block(TILE), out=block(TILE), rstd="*fp32", rows="i32")
        source = GluonASTSource(linear_kernel, arguments | dict.fromkeys(constants, "constexpr"), constants)
        kernel = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=dict(num_warps=4))
        found[name] = dict(shared=kernel.metadata.shared, ptx=kernel.asm["ptx"])
    return found


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What `compile_all` finds, in one process for all tests."""
    found: dict[str, dict[str, Any]] = in_a_fork(partial(compile_all, str(tmp_path_factory.mktemp("triton"))))
    return found


@pytest.mark.skipif(not fused.HAS_TRITON, reason="Triton is not installed")
@pytest.mark.parametrize("epilogue", EPILOGUES)
def test_it_compiles_for_a_gpu_that_is_not_here(epilogue: str, compiled: dict[str, dict[str, Any]]) -> None:
    shared, ptx = compiled[epilogue]["shared"], compiled[epilogue]["ptx"]
    assert shared + 1024 <= 227 * 1024, "what a block can have on a Hopper GPU"
    assert re.search(r"reqntid\s+384\b|maxntid\s+384\b", ptx), "three groups of four warps"
    assert "wgmma.mma_async" in ptx and "cp.async.bulk.tensor" in ptx
