"""What a judge's process can be made to do before it starts."""


def without_namespaces() -> None:
    """As on a machine that lends no namespaces: from now on this process can't make any."""
    from tests.research.denied import deny

    deny(["unshare"])


def without_system_call_filter() -> None:
    """As on a machine without seccomp: what only the filter stops succeeds there, which shows that an attack is a real one."""
    from research.sandbox import seccomp

    def refuse(program: bytes) -> None:
        del program
        raise OSError("seccomp was taken away")

    seccomp.install = refuse


def with_tolerances_of_a_gpu() -> None:
    """Two processes' answers may differ by as much as they may on a GPU."""
    import torch

    from research.judge import scoring

    tolerance = scoring.tolerance_for(torch.device("cuda"))
    scoring.tolerance_for = lambda device: tolerance
