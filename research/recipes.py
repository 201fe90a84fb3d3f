"""Recipes: the hyperparameters that train.py starts from, by profile. Standard library only."""

from collections.abc import Mapping
from typing import Final, Literal, get_args

Constant = int | float | str | bool | tuple[float, ...]
"""The value of a hyperparameter of train.py."""

Recipe = Literal["best", "original"]
"""`best`: the profile's own hyperparameters; `original`: those of karpathy/autoresearch, except for the profile's sizes."""

RECIPES: tuple[Recipe, ...] = get_args(Recipe)

ORIGINAL: Final[Mapping[str, Constant]] = {
    "DEPTH": 8,
    "ASPECT_RATIO": 64,
    "HEAD_DIM": 128,
    "WINDOW_PATTERN": "SSSL",
    "SHORT_WINDOW_RATIO": 0.5,
    "ROPE_BASE": 10_000,
    "INIT_SCALE": 1.0,
    "X0_LAMBDA": 0.1,
    "BIGRAM_BUCKETS": 0,
    "TOTAL_BATCH_SIZE": 2**19,
    "DEVICE_BATCH_SIZE": 128,
    "MATRIX_LR": 0.04,
    "EMBEDDING_LR": 0.6,
    "UNEMBEDDING_LR": 0.004,
    "SCALAR_LR": 0.5,
    "X0_LR": 0.5,
    "MUON_WARMUP_STEPS": 300,
    "WEIGHT_DECAY": 0.2,
    "EMBEDDING_DECAY": 0.0,
    "VALUE_EMBEDDING_DECAY": 0.0,
    "UNEMBEDDING_DECAY": 0.0,
    "WARMDOWN_RATIO": 0.5,
    "FINAL_LR_FRAC": 0.0,
}
"""Hyperparameters of karpathy/autoresearch as published, for one H100."""

STANDARD: Final[Mapping[str, Constant]] = {
    **ORIGINAL,
    "DEPTH": 9,
    "WINDOW_PATTERN": "SSSSL",
    "SHORT_WINDOW_RATIO": 0.125,
    "ROPE_BASE": 200_000,
    "INIT_SCALE": 0.68,
    "X0_LAMBDA": 0.05,
    "TOTAL_BATCH_SIZE": 2**18,
    "EMBEDDING_LR": 0.9,
    "UNEMBEDDING_LR": 0.005,
    "X0_LR": 0.05,
    "MUON_WARMUP_STEPS": 200,
    "EMBEDDING_DECAY": 0.001,
    "VALUE_EMBEDDING_DECAY": 0.003,
    "UNEMBEDDING_DECAY": 0.01,
    "WARMDOWN_RATIO": 0.75,
    "FINAL_LR_FRAC": 0.05,
}
"""What one night of karpathy/autoresearch found on an H100 (its session report of March 8: 0.9979 to 0.9697 bpb), with a
smaller X0_LR, which makes seeds alike (docs/performance.md)."""

SMALL: Final[Mapping[str, Constant]] = {
    **ORIGINAL,
    "DEPTH": 4,
    "WINDOW_PATTERN": "L",
    "TOTAL_BATCH_SIZE": 2**15,
    "DEVICE_BATCH_SIZE": 32,
}
"""Hyperparameters for a GPU with little memory."""

CPU: Final[Mapping[str, Constant]] = {
    **ORIGINAL,
    "DEPTH": 2,
    "ASPECT_RATIO": 32,
    "HEAD_DIM": 32,
    "WINDOW_PATTERN": "L",
    "INIT_SCALE": 0.68,
    "BIGRAM_BUCKETS": 2**15,
    "TOTAL_BATCH_SIZE": 2**11,
    "DEVICE_BATCH_SIZE": 8,
}
"""Hyperparameters for two CPU cores, as measured in docs/performance.md."""
