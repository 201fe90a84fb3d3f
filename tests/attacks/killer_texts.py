"""Texts of train.py that end their judge, or themselves, so that the machine may seem to be at fault."""

from tests.attacks.attack import HONEST, Attack, at_import, before_the_end, before_training, in_scoring
from tests.attacks.attacks import ATTACKS
from tests.research.judged import variant

OTHER_KILLERS = (
    *("another process: signals all processes", "kills the judge", "stops the judge while it trains", "never hands over"),
    *("a scorer's daemon lives on", "hands over a pickle"),
)
"""Attacks of other kinds that end a judge where they succeed, by name."""

CUTS_THE_BUFFER = """
frame = sys._getframe()
while frame is not None and "request" not in frame.f_locals:
    frame = frame.f_back
if frame is not None:
    os.ftruncate(frame.f_locals["model"].descriptors[2], 0)
"""

SIGNALS = """
for number in range(1, 65):
    for target in (os.getppid(), 1, 0, -1):
        if number not in (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU) and (target or number == 18):
            try:
                os.kill(target, number)
            except (OSError, ValueError):
                pass
"""

HUGE_RESULT = """
for n in range(400):
    session.log(step=n, loss=torch.tensor(float("inf") if n % 2 else -1e308), lrm=10.0**300, tokens_per_step=2**62)
session.finish(model, depth=2**62, kernel="k" * 2**24)
"""

LIES_ABOUT_SIZES = """
from research.ipc.memory import memory_with
from research.ipc.messages import Finish
memories = (memory_with(b"x" * 64), memory_with(b"[" * 2**20))
session._channel.send(Finish(model_bytes=2**62, report_bytes=2**20, descriptors=memories))
signal.pause()
"""

DEEP_REPORT = """
from research.ipc.memory import memory_with
from research.ipc.messages import Finish
from safetensors.torch import save
payload, report = save({name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}), b"[" * 2**20
session._channel.send(Finish(model_bytes=len(payload), report_bytes=len(report),
                             descriptors=(memory_with(payload), memory_with(report))))
signal.pause()
"""

FLOODS_THE_CHANNEL = """
from research.ipc.messages import Progress
while True:
    session._channel.send(Progress(step=-1, tokens=2**62, loss=float("nan")))
"""

ENDS: dict[str, str] = {
    "exits as a broken sandbox does": before_training("os._exit(97)"),
    "exits as a machine without memory does": in_scoring("os._exit(98)"),
    "is killed by itself": before_training("os.kill(os.getpid(), signal.SIGKILL)"),
    "aborts": in_scoring("os.abort()"),
    "has a segmentation fault": in_scoring("import ctypes\nctypes.string_at(0)"),
    "has a bus error": before_training("os.kill(os.getpid(), signal.SIGBUS)"),
    "hangs in its exit": before_training(
        "import atexit\nfor n in range(1, 32):\n    try:\n        signal.signal(n, signal.SIG_IGN)\n    except OSError:\n"
        "        pass\natexit.register(time.sleep, 1000)\nraise SystemExit(0)"
    ),
    "stops itself": before_training("os.kill(os.getpid(), signal.SIGSTOP)"),
    "a scorer stops itself": in_scoring("os.kill(os.getpid(), signal.SIGSTOP)"),
    "closes all its descriptors": before_training("os.closerange(0, 4096)\ntime.sleep(1000)"),
    "signals all that it can reach": before_training(SIGNALS),
    "a scorer signals all that it can reach": in_scoring(SIGNALS),
    "cuts off the judge's buffer": in_scoring(CUTS_THE_BUFFER),
    "reports numbers without end": before_the_end(HUGE_RESULT),
    "lies about the size of its model": before_the_end(LIES_ABOUT_SIZES),
    "reports what is nested too deeply": before_the_end(DEEP_REPORT),
    "floods the channel": before_training(FLOODS_THE_CHANNEL),
    "floods its output while it loads": at_import("for n in range(2000):\n    os.write(1 + n % 2, os.urandom(2**16))"),
    "one endless line": before_training("for n in range(400):\n    os.write(1, b'x' * 2**20)"),
}
"""Ways to end that no other attack has, by name."""


def killer_texts() -> dict[str, str]:
    """All of them, by name: those of the judge, those that take all there is, and those that end something."""
    chosen = [a for a in ATTACKS if a.number in (1, 2, 3, 25, 26) or a.name in OTHER_KILLERS]
    return {attack.name: attack.train_py for attack in chosen if _needs_nothing(attack)} | ENDS


def with_rate(train_py: str, rate: float = 0.02) -> str:
    """`train_py` with its learning rate as a constant, if it has one."""
    if "lr=0.02" not in train_py:
        return train_py
    line = "BATCH_SIZE = 8\n"
    return variant((line, f"{line}LEARNING_RATE = {rate!r}\n"), ("lr=0.02", "lr=LEARNING_RATE"), text=train_py)


def head() -> str:
    """The train.py that a farm of such proposals begins with."""
    return with_rate(HONEST)


def _needs_nothing(attack: Attack) -> bool:
    """Whether an attack is one text, which needs no victims around it and no GPU."""
    return "$" not in attack.train_py and attack.first is None and attack.needs_gpus == 0
