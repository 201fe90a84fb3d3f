"""Settings of every process that tests run in and start, made before any of them imports torch."""

import os
import sys

# as many test processes as cores: each computes by one thread, and none spins while it waits for another
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# without bytecode each process that imports torch compiles it anew: ten seconds of a core, dozens of times
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
