"""The trusted side of a run: starts the children, keeps the clock, computes the score. Only research/run.py starts a judge."""
