"""`python -m research.child.scorer`: a fresh process that answers rows with the model that a run handed over.

It executes train.py's `build_model()`, so the judge takes nothing from it but the logits in the judge's buffer.
"""

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load
from torch import Tensor, nn

from research.child.setup import child_setting, load_train_py, require_device, set_threads
from research.contract import Contract
from research.gpu_memory import says_memory_ran_out
from research.ipc.buffer import SLOTS, SharedIds, open_logits_buffer
from research.ipc.channel import Channel, ChannelClosed, Kind, Message, map_shared
from research.profiles import active_contract
from research.sandbox.linux import die_with_parent

Forward = Callable[[Tensor], Tensor]
"""ids (n, T) int64 -> logits (n, T, V)"""

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
    forward = ready_to_answer(model, contract, device, rows=int(child_setting("ROWS")))
    channel.send(Kind.READY)
    try:
        message = channel.receive()
        assert message is not None
        load_tensors(model, message.descriptors[0], message.a)
        answer_rows(channel, forward, message, contract, device)
    except ChannelClosed:
        sys.exit(0)
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or says_memory_ran_out(f"{type(error).__name__}: {error}"):
            sys.exit(OUT_OF_MEMORY)
        raise


def load_tensors(model: nn.Module, descriptor: int, size: int) -> None:
    """Gives `model` the tensors that training ended with; names and shapes must be those that it was built with."""
    payload = bytes(map_shared(descriptor, size, writable=False))
    model.load_state_dict(load(payload), strict=True)
    os.close(descriptor)


@torch.inference_mode()
def ready_to_answer(model: nn.Module, contract: Contract, device: torch.device, *, rows: int) -> Forward:
    """The model's forward pass in evaluation mode; on a GPU compiled here for so many rows, while nothing is timed yet.

    A model that compiles parts of itself is left to it; one that can't be compiled answers as it is.
    """
    model.eval()
    if device.type != "cuda":
        return model
    torch.set_float32_matmul_precision("high")
    torch._dynamo.config.suppress_errors = True
    compiles_itself = any(module._compiled_call_impl is not None for module in model.modules())
    forward = model if compiles_itself else torch.compile(model, dynamic=False)
    forward(torch.zeros((rows, contract.MAX_SEQ_LEN), dtype=torch.long, device=device))
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()  # the memory is the trainer's now
    return forward


@torch.inference_mode()
def answer_rows(channel: Channel, forward: Forward, message: Message, contract: Contract, device: torch.device) -> None:
    """Writes logits for every batch of rows that the judge asks for, into the batch's slot of the buffer."""
    tokens, vocabulary, rows = contract.MAX_SEQ_LEN, contract.VOCAB_SIZE, message.b
    ids = SharedIds(SLOTS * rows, tokens, message.descriptors[1]).tensor.view(SLOTS, rows, tokens)
    buffer = open_logits_buffer(message.descriptors[2], SLOTS * rows, tokens, vocabulary, device)
    slots = buffer.tensor.view(SLOTS, rows, tokens, vocabulary)
    channel.send(Kind.READY)
    while True:
        request = channel.receive()
        if request is None or request.kind != Kind.SCORE:
            raise RuntimeError("the judge asked for something else")
        slot = request.b % SLOTS
        count = rows if device.type == "cuda" else request.a  # a compiled graph takes whole batches
        logits = forward(ids[slot][:count].to(device).long())
        if tuple(logits.shape) != (count, tokens, vocabulary):
            sizes = [*logits.shape, 0, 0, 0][:3]
            channel.send(Kind.UNFIT, sizes[0], sizes[1], float(sizes[2]))
            return
        write_logits(slots[slot], logits[: request.a])
        channel.send(Kind.ANSWERED, request.a, request.b)


def write_logits(slot: Tensor, logits: Tensor) -> None:
    """Copies (n, T, V) logits of any float type into a slot of the buffer as float32, and waits until they are there."""
    slot[: logits.size(0)].copy_(logits)
    if logits.is_cuda:
        torch.cuda.synchronize(logits.device)


if __name__ == "__main__":
    main()
