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
from research.ipc.messages import Answered, Begun, Model, ModelBuilt, ModelLoaded, Score, Unfit

Forward = Callable[[Tensor], Tensor]
"""ids (n, T) int64 -> logits (n, T, V)"""

Shape = tuple[int, ...]

MOST_COMPARED = 2**29
"""The most parameters of a model that is built a second time, to compare seeds."""

FIRST_ROWS = 2
"""Rows of the first batch on a CPU, by which a wrong shape of the logits shows before the model has seen anything."""

OUT_OF_MEMORY = 98
"""Exit status of a scorer that ran out of memory: the only thing that it can report once it has seen rows."""


def main() -> None:
    """Builds the model, waits for its tensors, then answers batches until the judge hangs up."""
    settings, channel = begin()
    contract, device = settings.contract, torch.device(settings.device)
    require_device(device, memory_limit=settings.gpu_memory_bytes)
    channel.send(Begun())
    torch.manual_seed(settings.seed)
    build_model = load_train_py(Path("train.py").resolve()).build_model
    model = build_model().to(device)
    seedless = settings.compare_seeds and is_seedless(model, build_model, seed=settings.seed + 1)
    rows = settings.batch_rows if device.type == "cuda" else FIRST_ROWS
    forward, shape = ready_to_answer(model, contract, device, rows=rows)
    if unfit := unfit_shape(shape, rows, contract):
        channel.send(unfit)
        return
    if device.type != "cuda":
        answer_zeros(forward, contract, device, rows=settings.batch_rows)  # what depends on the batch's shape is ready then
    channel.send(ModelBuilt(seedless=int(seedless)))
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


def is_seedless(model: nn.Module, build_model: Callable[[], nn.Module], *, seed: int) -> bool:
    """Whether a model is initialised the same under another seed, although not all of its parameters are constant.

    Models of more than MOST_COMPARED parameters are not built twice.
    """
    if sum(parameter.numel() for parameter in model.parameters()) > MOST_COMPARED:
        return False
    torch.manual_seed(seed)
    others = dict(build_model().named_parameters())
    mine = dict(model.named_parameters())
    if others.keys() != mine.keys() or all(bool((p == p.flatten()[:1]).all()) for p in mine.values() if p.numel()):
        return False
    return all(torch.equal(parameter.cpu(), others[name].cpu()) for name, parameter in mine.items())


@torch.inference_mode()
def ready_to_answer(model: nn.Module, contract: Contract, device: torch.device, *, rows: int) -> tuple[Forward, Shape]:
    """The model's forward pass in evaluation mode, and the shape of its logits of a first batch of `rows` rows of zeros.

    On a GPU it is compiled for such batches, while nothing is timed yet. A model that compiles parts of itself is left as it
    is; one that can't be compiled runs uncompiled.
    """
    model.eval()
    if device.type != "cuda":
        return model, answer_zeros(model, contract, device, rows=rows)
    torch.set_float32_matmul_precision("high")
    torch._dynamo.config.suppress_errors = True
    compiles_itself = any(module._compiled_call_impl is not None for module in model.modules())
    forward = model if compiles_itself else torch.compile(model, dynamic=False)
    shape = answer_zeros(forward, contract, device, rows=rows)
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()  # the trainer needs the memory now
    return forward, shape


@torch.inference_mode()
def answer_zeros(forward: Forward, contract: Contract, device: torch.device, *, rows: int) -> Shape:
    """The shape of the logits of `rows` rows of zeros."""
    return tuple(forward(torch.zeros((rows, contract.MAX_SEQ_LEN), dtype=torch.long, device=device)).shape)


def unfit_shape(shape: Shape, rows: int, contract: Contract) -> Unfit | None:
    """The message that logits of this shape are not (rows, T, V); None if they are."""
    if shape == (rows, contract.MAX_SEQ_LEN, contract.VOCAB_SIZE):
        return None
    first, second, third = [*shape, 0, 0, 0][:3]
    return Unfit(rows=first, tokens=second, vocabulary=third)


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
        if unfit := unfit_shape(tuple(logits.shape), count, contract):
            channel.send(unfit)
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
