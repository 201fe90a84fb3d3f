"""The speed of a run's GPU, timed by the judge: a GPU that is hot, throttled or shared makes a run train fewer steps."""

import statistics

import torch

SIZE = 4096
"""Rows and columns of the matrices."""

PRODUCTS, GROUPS = 16, 9
"""Products per measurement, and measurements, the first of which warms up."""


def matrix_tflops(device: torch.device) -> float | None:
    """Median TFLOP/s of products of SIZE x SIZE matrices in bfloat16 (float16 on older GPUs); None on other devices.

    Call it when no process of the run is left on the GPU.
    """
    if device.type != "cuda":
        return None
    dtype = torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    left, right = (torch.randn(SIZE, SIZE, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(left)
    seconds = []
    for _ in range(GROUPS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        for _ in range(PRODUCTS):
            torch.matmul(left, right, out=out)
        end.record()
        end.synchronize()
        seconds.append(begin.elapsed_time(end) / 1000)
    return float(2 * SIZE**3 * PRODUCTS / statistics.median(seconds[1:]) / 1e12)
