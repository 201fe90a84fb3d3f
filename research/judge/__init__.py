"""The trusted side of a run: it starts the children, keeps the clock and computes the score. Only run.py starts a judge."""
