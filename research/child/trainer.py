"""`python -m research.child.trainer`: the process that trains a model with train.py and hands it over (submits it)."""

from pathlib import Path

import torch

from research.child.rehearsal import Rehearsal, RehearsalSession
from research.child.setup import begin, load_train_py, require_device
from research.ipc.messages import Begun
from research.session import Session


def main() -> None:
    """Loads train.py and lets it train; a rehearsal does the same in a second process until the clock starts."""
    settings, channel = begin()
    contract, device, seed = settings.contract, torch.device(settings.device), settings.seed

    def rehearse() -> None:
        channel.close()
        require_device(device, memory_limit=settings.gpu_memory_bytes)
        train(RehearsalSession(channel=channel, contract=contract, device=device, seed=seed))

    rehearsal = Rehearsal(rehearse) if settings.rehearse else None
    before_clock = rehearsal.end if rehearsal else None
    require_device(device, memory_limit=settings.gpu_memory_bytes)
    channel.send(Begun())
    train(Session(channel=channel, contract=contract, device=device, seed=seed, before_clock=before_clock))


def train(session: Session) -> None:
    """Has train.py train with `session`, which ends the process."""
    session.reseed()
    train_py = load_train_py(Path("train.py").resolve())
    for name in ("build_model", "train"):
        if not callable(getattr(train_py, name, None)):
            raise SystemExit(f"train.py must define {name}(): see program.md")
    train_py.train(session)
    raise SystemExit("train(session) returned without session.finish(model)")


if __name__ == "__main__":
    main()
