"""A judge on a machine that lends no namespaces."""


def without_namespaces() -> None:
    """Called by a judge's process before it starts: from then on it can't make namespaces."""
    raise NotImplementedError("a filter of system calls that denies unshare comes here")
