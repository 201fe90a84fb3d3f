"""Measurements, each a script: `uv run python benchmarks/NAME.py`. They import each other as this package."""
