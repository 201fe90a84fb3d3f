"""GPU kernels and what compiles and caches them. An interface of train.py; knows no data, sandbox or judge."""
