"""GPU kernels, and how they are compiled and cached. train.py calls them; they know nothing of data, sandbox or judge."""
