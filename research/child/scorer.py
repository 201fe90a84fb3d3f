"""`python -m research.child.scorer`: a fresh process that computes the logits of rows with a submitted model.

It executes train.py's `build_model()`, so the judge takes nothing from it but the logits in the judge's buffer.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load
from torch import Tensor, nn

from research.child.setup import begin, load_train_py, require_device
from research.contract import Contract
from research.gpu_memory import says_memory_ran_out
from research.ipc.buffer import SLOTS, SharedIds, open_logits_buffer
from research.ipc.channel import Channel, ChannelClosed
from research.ipc.memory import map_shared
from research.ipc.messages import Answered, Model, ModelBuilt, ModelLoaded, Score, Unfit

Forward = Callable[[Tensor], Tensor]
"""ids (n, T) int64 -> logits (n, T, V)"""

OUT_OF_MEMORY = 98
"""Exit status of a scorer that ran out of memory: the only thing that it can report once it has seen rows."""


def main() -> None:
    """Builds the model, waits for its tensors, then answers batches until the judge hangs up."""
    settings, channel = begin()
    contract, device = settings.contract, torch.device(settings.device)
    require_device(device, memory_limit=settings.gpu_memory_bytes)
    torch.manual_seed(settings.seed)
    model = load_train_py(Path("train.py").resolve()).build_model().to(device)
    forward = ready_to_answer(model, contract, device, rows=settings.batch_rows)
    channel.send(ModelBuilt())
    try:
        handed_over = channel.receive()
        assert isinstance(handed_over, Model)
        load_tensors(model, handed_over.descriptors[0], handed_over.model_bytes)
        answer_batches(channel, forward, handed_over, contract, device)
    except ChannelClosed:
        sys.exit(0)
    except (RuntimeError, MemoryError) as error:
        # CUDA's libraries raise plain RuntimeErrors when memory runs out: only their text says so
        if isinstance(error, MemoryError) or says_memory_ran_out(f"{type(error).__name__}: {error}"):
            sys.exit(OUT_OF_MEMORY)
        raise


def load_tensors(model: nn.Module, descriptor: int, size: int) -> None:
    """Loads the trained tensors into `model`. Raises RuntimeError unless names and shapes are those that it was built with."""
    payload = bytes(map_shared(descriptor, size, writable=False))
    model.load_state_dict(load(payload), strict=True)
    os.close(descriptor)


@torch.inference_mode()
def ready_to_answer(model: nn.Module, contract: Contract, device: torch.device, *, rows: int) -> Forward:
    """The model's forward pass in evaluation mode; on a GPU compiled for batches of `rows`, while nothing is timed yet.

    A model that compiles parts of itself is left as it is; one that can't be compiled runs uncompiled.
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
    torch.cuda.empty_cache()  # the trainer needs the memory now
    return forward


@torch.inference_mode()
def answer_batches(channel: Channel, forward: Forward, model: Model, contract: Contract, device: torch.device) -> None:
    """Writes the logits of each batch that the judge requests into the batch's slot of the buffer."""
    tokens, vocabulary, rows = contract.MAX_SEQ_LEN, contract.VOCAB_SIZE, model.batch_rows
    ids = SharedIds(SLOTS * rows, tokens, model.descriptors[1]).tensor.view(SLOTS, rows, tokens)
    buffer = open_logits_buffer(model.descriptors[2], SLOTS * rows, tokens, vocabulary, device)
    slots = buffer.tensor.view(SLOTS, rows, tokens, vocabulary)
    channel.send(ModelLoaded())
    while True:
        request = channel.receive()
        if not isinstance(request, Score):
            raise RuntimeError("the judge sent something other than a batch")
        slot = request.batch % SLOTS
        count = rows if device.type == "cuda" else request.rows  # a compiled graph takes whole batches
        logits = forward(ids[slot][:count].to(device).long())
        if tuple(logits.shape) != (count, tokens, vocabulary):
            sizes = [*logits.shape, 0, 0, 0][:3]
            channel.send(Unfit(rows=sizes[0], tokens=sizes[1], vocabulary=sizes[2]))
            return
        write_logits(slots[slot], logits[: request.rows])
        channel.send(Answered(rows=request.rows, batch=request.batch))


def write_logits(slot: Tensor, logits: Tensor) -> None:
    """Copies (n, T, V) logits of any float type into a slot of the buffer as float32, and waits for the copy."""
    slot[: logits.size(0)].copy_(logits)
    if logits.is_cuda:
        torch.cuda.synchronize(logits.device)


if __name__ == "__main__":
    main()
