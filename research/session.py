"""train.py's side of a run: warm-up, batches under the clock, handing over the model.

It is part of the trainer process, which runs the researchers' code, so nothing that it says is believed: the judge keeps the
clock, the data until the clock starts, and the scoring.
"""

import json
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator

import numpy as np
import numpy.ctypeslib  # which safetensors would import under the clock
import torch
from safetensors.torch import save
from torch import Tensor, nn

from research.contract import Contract
from research.feed import RowFeed, inputs_and_targets, to_device
from research.ipc.channel import Channel, Kind, map_shared, monotonic, shared_memory

CURVE_POINTS = 256
"""Points of the loss curve that a report holds at most."""

LOG_EVERY_SECONDS = 0.25
"""Step lines are written at most this often."""

DIVERGED_LOSS = 100.0
"""Nats a token above which training has diverged, as in the original."""


class Session:
    """One run, as train.py sees it.

    train.py warms up on `warmup()`, starts again from its initialisation, trains on `batches()`, and calls `finish()`.
    """

    def __init__(self, *, channel: Channel, contract: Contract, device: torch.device, seed: int,
                 before_clock: Callable[[], None] | None = None) -> None:  # fmt: skip
        """`before_clock` is called once, when training asks for data."""
        self.contract = contract
        self.device = device
        self.seed = seed
        """Seeds everything: set for torch before train.py is loaded, and again by `reseed()`."""
        self.tokens = 0
        """Tokens handed out under the clock."""
        self._channel = channel
        self._before_clock = before_clock
        self._feed: RowFeed | None = None
        self._start = self._deadline = 0.0
        self._log = _StepLog(channel)
        self._graphs_before = 0

    @property
    def progress(self) -> float:
        """Share of the time budget that is used, 0 to 1; 0 before the clock starts."""
        if self._feed is None:
            return 0.0
        return min((monotonic() - self._start) / (self._deadline - self._start), 1.0)

    @property
    def epoch(self) -> int:
        """How often the training rows have begun, from 1 on."""
        return self._feed.epoch if self._feed is not None else 1

    def reseed(self) -> None:
        """Sets every random generator to the judge's seed: call it before initialising."""
        np.random.seed(self.seed)
        torch.manual_seed(self.seed)

    def warmup(self, batch_size: int, batches: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Random tokens in the shapes, strides and dtypes of the real ones, without a clock."""
        shape = (batch_size, self.contract.MAX_SEQ_LEN + 1)
        for _ in range(batches):
            rows = np.random.randint(self.contract.VOCAB_SIZE, size=shape, dtype=np.uint16)
            yield inputs_and_targets(to_device(rows, self.device))

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Training rows in the judge's order until the budget ends: x and y, each (batch_size, MAX_SEQ_LEN) int64.

        The first call asks the judge for the data, and the clock starts. The rows come in the same order for every batch
        size; `epoch` counts how often they began anew.
        """
        if self._feed is None:
            self._feed = self._ask_for_data()
        while monotonic() < self._deadline:
            yield self._feed.take(batch_size)
            self.tokens += batch_size * self.contract.MAX_SEQ_LEN

    def log(self, *, step: int, loss: Tensor, lrm: float = 1.0, tokens_per_step: int, flops_per_token: float = 0.0) -> None:
        """Writes the step line of the step before (so that nothing waits for the GPU) and tells the judge.

        `loss` is a scalar tensor in nats a token, `lrm` the learning-rate multiplier. A loss that is NaN or above
        DIVERGED_LOSS ends the run.
        """
        late = self._log.push(step, loss)
        if late is None:
            return
        late_step, value = late
        if not value <= DIVERGED_LOSS:
            fail(f"the training loss is {value:g} at step {late_step}")
        if self._feed is None:
            return
        self._log.write(
            late_step,
            value,
            lrm=lrm,
            progress=self.progress,
            tokens_per_step=tokens_per_step,
            peak_flops=peak_flops(self.device),
            flops_per_token=flops_per_token,
            epoch=self.epoch,
            remaining=max(0.0, self._deadline - monotonic()),
            tokens=self.tokens,
        )

    def finish(self, model: nn.Module, **reported: float | int | str) -> None:
        """Hands the model's tensors over and ends the process. `reported` is recorded and decides nothing."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        trained = monotonic() - self._start
        payload = _tensors_as_bytes(model)
        report = {
            "steps": self._log.steps,
            "tokens": self.tokens,
            "mfu_percent": self._log.mean_mfu_percent(trained, peak_flops(self.device), self.tokens),
            "recompiles": compiled_graphs() - self._graphs_before,
            "curve": self._log.curve(),
            "peak_memory_mb": torch.cuda.max_memory_allocated() / 2**20 if self.device.type == "cuda" else None,
            **reported,
        }
        encoded = json.dumps(report).encode()
        tensors, words = _memory_with(payload), _memory_with(encoded)
        self._channel.send(Kind.FINISH, len(payload), len(encoded), descriptors=[tensors, words])
        sys.stdout.flush()
        signal.pause()  # the judge ends this process

    def _ask_for_data(self) -> RowFeed:
        if self._before_clock is not None:
            self._before_clock()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
        self._graphs_before = compiled_graphs()
        self._log.begin()
        self._channel.send(Kind.READY)
        message = self._channel.receive()
        if message is None or message.kind != Kind.DATA:
            raise RuntimeError("the judge sent no data")
        memory = map_shared(message.descriptors[0], message.a * message.b * 2, writable=False)
        self._deadline = message.x
        self._start = message.x - self.contract.TIME_BUDGET
        rows = np.frombuffer(memory, dtype=np.uint16).reshape(message.a, message.b)
        return RowFeed(rows, self.device, self.seed)


def fail(reason: str) -> None:
    """Ends the process as diverged."""
    print(f"FAIL: {reason}", flush=True)
    sys.exit(1)


def peak_flops(device: torch.device) -> float:
    """Dense bf16 FLOP/s of the device by its data sheet; 0 where unknown, and MFU is then not reported."""
    if device.type != "cuda":
        return 0.0
    name = torch.cuda.get_device_name(device)
    known = {"H100 PCIe": 756e12, "H100": 989.5e12, "H200": 989.5e12, "B200": 2250e12, "A100": 312e12, "L40S": 362e12,
             "L4": 121e12, "A10": 125e12, "4090": 165e12, "5090": 209e12, "3090": 71e12}  # fmt: skip
    return next((flops for model, flops in known.items() if model in name), 0.0)


def compiled_graphs() -> int:
    """Graphs that torch.compile has made in this process."""
    if "torch._dynamo" not in sys.modules:
        return 0
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


class _StepLog:
    """Step lines and the loss curve. Losses are read one step late, when the device has long computed them."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._waiting: tuple[int, Tensor, torch.cuda.Event | None] | None = None
        self._points: list[tuple[float, int, float]] = []
        self._smooth = 0.0
        self._began = self._last_written = self._last_step_time = monotonic()
        self._flops_per_token = 0.0
        self.steps = 0

    def begin(self) -> None:
        """Forgets the warm-up."""
        self._waiting, self._smooth, self.steps = None, 0.0, 0
        self._began = self._last_step_time = monotonic()
        self._last_written = 0.0

    def push(self, step: int, loss: Tensor) -> tuple[int, float] | None:
        event, value = None, loss.detach()
        if value.is_cuda:
            value = torch.empty((), dtype=value.dtype, pin_memory=True).copy_(value, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
        waiting, self._waiting = self._waiting, (step, value, event)
        if waiting is None:
            return None
        late_step, late_value, late_event = waiting
        if late_event is not None:
            late_event.synchronize()
        return late_step, float(late_value)

    def write(self, step: int, loss: float, *, lrm: float, progress: float, tokens_per_step: int, peak_flops: float,
              flops_per_token: float, epoch: int, remaining: float, tokens: int) -> None:  # fmt: skip
        now = monotonic()
        seconds, self._last_step_time = now - self._last_step_time, now
        self._flops_per_token = flops_per_token
        self.steps = step + 2  # this loss is of the step before the one that just ran
        self._smooth = 0.9 * self._smooth + 0.1 * loss
        if now - self._last_written < LOG_EVERY_SECONDS:
            return
        self._last_written = now
        smooth = self._smooth / (1 - 0.9 ** (step + 1))
        speed = tokens_per_step / seconds
        mfu = f"{100 * flops_per_token * speed / peak_flops:.1f}" if peak_flops else "n/a "
        print(
            f"step {step:05d} ({100 * progress:.1f}%) | loss: {smooth:.6f} | lrm: {lrm:.2f} | dt: {seconds * 1000:.0f}ms | "
            f"tok/sec: {speed:,.0f} | mfu: {mfu}% | epoch: {epoch} | remaining: {remaining:.0f}s",
            flush=True,
        )
        self._points.append((round(now - self._began, 3), step, round(loss, 5)))
        self._channel.send(Kind.PROGRESS, step, tokens, loss)

    def curve(self) -> list[tuple[float, int, float]]:
        """At most CURVE_POINTS points, evenly thinned."""
        stride = math.ceil(len(self._points) / CURVE_POINTS) or 1
        return self._points[::stride]

    def mean_mfu_percent(self, seconds: float, peak_flops: float, tokens: int) -> float | None:
        if not (peak_flops and self._flops_per_token and seconds > 0):
            return None
        return 100 * self._flops_per_token * tokens / seconds / peak_flops


def _tensors_as_bytes(model: nn.Module) -> bytes:
    """The model's persistent tensors as safetensors; tied ones are written out under each name."""
    tensors = {name.replace("_orig_mod.", ""): tensor for name, tensor in model.state_dict().items()}
    return save({name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()})


def _memory_with(payload: bytes) -> int:
    descriptor = shared_memory(0)
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(payload)
    return descriptor
