"""`python -m research.child.trainer`: the process that trains a model with train.py and hands it over."""

import os
import socket
from pathlib import Path

import torch

from research.child import rehearsal
from research.child.rehearsal import Rehearsal, RehearsalSession
from research.child.setup import child_setting, load_train_py, require_device, set_threads
from research.ipc.channel import Channel
from research.profiles import active_contract
from research.sandbox.linux import die_with_parent
from research.session import Session


def main() -> None:
    """Loads train.py and lets it train."""
    die_with_parent()
    set_threads()
    channel = Channel(socket.socket(fileno=int(child_setting("CHANNEL"))))
    contract, device, seed = active_contract(), torch.device(child_setting("DEVICE")), int(child_setting("SEED"))

    def rehearse() -> None:
        channel.close()
        train(RehearsalSession(channel=channel, contract=contract, device=device, seed=seed))

    beside = Rehearsal(rehearse) if rehearsal.VARIABLE in os.environ else None
    train(Session(channel=channel, contract=contract, device=device, seed=seed, before_clock=beside.end if beside else None))


def train(session: Session) -> None:
    """What train.py does with `session`, which ends the process."""
    require_device(session.device)
    session.reseed()
    train_py = load_train_py(Path("train.py").resolve())
    for name in ("build_model", "train"):
        if not callable(getattr(train_py, name, None)):
            raise SystemExit(f"train.py must offer {name}(): see program.md")
    train_py.train(session)
    raise SystemExit("train(session) returned without session.finish(model)")


if __name__ == "__main__":
    main()
