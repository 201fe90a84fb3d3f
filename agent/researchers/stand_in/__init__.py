"""A stand-in for the Messages API on this machine, for rehearsals and tests: it costs nothing, and fails on demand."""
