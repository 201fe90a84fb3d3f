"""Benchmarks import each other by their names alone, as scripts of one folder do."""

import sys
from pathlib import Path

# behind all else: a benchmark and a helper of other tests share a name
sys.path.append(str(Path(__file__).parent.parent.parent / "benchmarks"))
