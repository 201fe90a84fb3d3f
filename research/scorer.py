"""`python -m research.scorer`: a fresh process that answers rows with the model that a run handed over.

It executes train.py's `build_model()`, so the judge takes nothing from it but the logits in the judge's buffer.
"""

import os
import socket
import sys
from pathlib import Path

import torch
from safetensors.torch import load
from torch import Tensor, nn

from research.buffer import LogitsBuffer, SharedIds, open_logits_buffer
from research.channel import Channel, ChannelClosed, Kind, Message, map_shared
from research.contract import Contract, active_contract
from research.linux import die_with_parent
from research.session import child_setting, load_train_py, require_device, set_threads

OUT_OF_MEMORY = 98
"""Exit status: the one thing that a scorer can say once it has seen rows."""


def main() -> None:
    """Builds the model, reports READY, waits for the tensors, then answers until the judge hangs up."""
    die_with_parent()
    set_threads()
    channel = Channel(socket.socket(fileno=int(child_setting("CHANNEL"))))
    contract, device = active_contract(), torch.device(child_setting("DEVICE"))
    require_device(device)
    torch.manual_seed(int(child_setting("SEED")))
    model = load_train_py(Path("train.py").resolve()).build_model().to(device)
    channel.send(Kind.READY)
    try:
        message = channel.receive()
        assert message is not None
        load_tensors(model, message.descriptors[0], message.a)
        answer_rows(channel, model, message, contract, device)
    except ChannelClosed:
        sys.exit(0)
    except (torch.OutOfMemoryError, MemoryError):
        sys.exit(OUT_OF_MEMORY)


def load_tensors(model: nn.Module, descriptor: int, size: int) -> None:
    """Gives `model` the tensors that training ended with; names and shapes must be those that it was built with."""
    payload = bytes(map_shared(descriptor, size, writable=False))
    model.load_state_dict(load(payload), strict=True)
    os.close(descriptor)


@torch.inference_mode()
def answer_rows(channel: Channel, model: nn.Module, message: Message, contract: Contract, device: torch.device) -> None:
    """Writes logits for every batch of rows that the judge asks for."""
    tokens, vocabulary = contract.MAX_SEQ_LEN, contract.VOCAB_SIZE
    ids = SharedIds(message.b, tokens, message.descriptors[1])
    buffer = open_logits_buffer(message.descriptors[2], message.b, tokens, vocabulary, device)
    model.eval()
    channel.send(Kind.READY)
    while True:
        request = channel.receive()
        if request is None or request.kind != Kind.SCORE:
            raise RuntimeError("the judge asked for something else")
        logits = model(ids.tensor[: request.a].to(device).long())
        if tuple(logits.shape) != (request.a, tokens, vocabulary):
            sizes = [*logits.shape, 0, 0, 0][:3]
            channel.send(Kind.UNFIT, sizes[0], sizes[1], float(sizes[2]))
            return
        write_logits(buffer, logits)
        channel.send(Kind.ANSWERED, request.a)


def write_logits(buffer: LogitsBuffer, logits: Tensor) -> None:
    """Copies (n, T, V) logits of any float type into the buffer as float32, and waits until they are there."""
    buffer.tensor[: logits.size(0)].copy_(logits)
    if logits.is_cuda:
        torch.cuda.synchronize(logits.device)


if __name__ == "__main__":
    main()
