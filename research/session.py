"""The session: what train.py trains with. Warm-up, batches under the clock, and handing over (submitting) the model.

It is part of the trainer process, which runs the researchers' code, so nothing that it says is trusted: the judge keeps the
clock, the data until the clock starts, and the scoring.
"""

import json
import math
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from research.contract import Contract
from research.feed import RowFeed, inputs_and_targets, to_device
from research.ipc.channel import Channel, monotonic
from research.ipc.memory import map_shared, memory_with
from research.ipc.messages import Data, DataRequested, Finish, Progress
from research.ipc.tensors import memory_with_tensors

CURVE_POINTS = 256
"""Points of a report's loss curve, at most."""

LOG_EVERY_SECONDS = 0.25
"""Least time between two step lines."""

DIVERGED_LOSS = 100.0
"""Training loss, in nats per token, above which training has diverged, as in the original."""

DIVERGED = 96
"""Exit status of a trainer whose loss has diverged."""


class Session:
    """One run, as train.py sees it.

    train.py warms up on `warmup()`, starts again from its initialisation, trains on `batches()`, and calls `finish()`.
    """

    def __init__(self, *, channel: Channel, contract: Contract, device: torch.device, seed: int,
                 before_clock: Callable[[], None] | None = None) -> None:  # fmt: skip
        """`before_clock` is called once, just before the trainer requests its data."""
        self.contract = contract
        self.device = device
        self.seed = seed
        """Seeds everything: set for torch before train.py is loaded, and again by `reseed()`."""
        self.tokens = 0
        """Training tokens yielded under the clock."""
        self._channel = channel
        self._before_clock = before_clock
        self._feed: RowFeed | None = None
        self._start = self._deadline = 0.0
        self._log = _StepLog(channel)
        self._graphs_before = 0

    @property
    def progress(self) -> float:
        """Fraction of the time budget that is used, 0 to 1; 0 before the clock starts."""
        if self._feed is None:
            return 0.0
        return min((monotonic() - self._start) / (self._deadline - self._start), 1.0)

    @property
    def epoch(self) -> int:
        """The current pass over the training rows, from 1."""
        return self._feed.epoch if self._feed is not None else 1

    def reseed(self) -> None:
        """Seeds every random generator with the judge's seed: call it before initialising the model."""
        np.random.seed(self.seed)
        torch.manual_seed(self.seed)

    def warmup(self, batch_size: int, batches: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of random tokens with the shapes, strides and dtypes of the real ones, before the clock starts."""
        shape = (batch_size, self.contract.MAX_SEQ_LEN + 1)
        for _ in range(batches):
            rows = np.random.randint(self.contract.VOCAB_SIZE, size=shape, dtype=np.uint16)
            yield inputs_and_targets(to_device(rows, self.device))

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Training batches until the time budget ends: x and y, each (batch_size, MAX_SEQ_LEN) int64.

        The first call requests the data, and the clock starts. The order of rows is the judge's, and the same for every batch
        size; `epoch` counts the passes over them.
        """
        if self._feed is None:
            self._feed = self._request_data()
        while monotonic() < self._deadline:
            yield self._feed.take(batch_size)
            self.tokens += batch_size * self.contract.MAX_SEQ_LEN

    def log(self, *, step: int, loss: Tensor, lrm: float = 1.0, tokens_per_step: int, flops_per_token: float = 0.0) -> None:
        """Writes the step line of the previous step, so that nothing waits for the GPU, and tells the judge.

        `loss` is a scalar tensor in nats per token, `lrm` the learning-rate multiplier. A loss that is NaN or above
        DIVERGED_LOSS ends the run.
        """
        previous = self._log.push(step, loss)
        if previous is None:
            return
        previous_step, previous_loss = previous
        if not previous_loss <= DIVERGED_LOSS:
            fail(f"the training loss is {previous_loss:g} at step {previous_step}")
        if self._feed is None:
            return
        self._log.write(
            _Step(
                step=previous_step,
                loss=previous_loss,
                lrm=lrm,
                tokens_per_step=tokens_per_step,
                flops_per_token=flops_per_token,
                peak_flops=peak_flops(self.device),
                progress=self.progress,
                remaining=max(0.0, self._deadline - monotonic()),
                epoch=self.epoch,
                tokens=self.tokens,
            )
        )

    def finish(self, model: nn.Module, **reported: float | int | str) -> None:
        """Hands over (submits) the model and ends the process. `reported` is recorded and decides nothing."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        trained = monotonic() - self._start
        tensors, size = memory_with_tensors(_named_tensors(model))
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
        descriptors = (tensors, memory_with(encoded))
        self._channel.send(Finish(model_bytes=size, report_bytes=len(encoded), descriptors=descriptors))
        sys.stdout.flush()
        signal.pause()  # the judge ends this process

    def _request_data(self) -> RowFeed:
        if self._before_clock is not None:
            self._before_clock()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
        self._graphs_before = compiled_graphs()
        self._log.begin()
        self._channel.send(DataRequested())
        data = self._channel.receive()
        if not isinstance(data, Data):
            raise RuntimeError("the judge sent no data")
        memory = map_shared(data.descriptors[0], data.rows * data.width * 2, writable=False)
        self._deadline = data.deadline
        self._start = data.deadline - self.contract.TIME_BUDGET
        rows = np.frombuffer(memory, dtype=np.uint16).reshape(data.rows, data.width)
        return RowFeed(rows, self.device, self.seed)


def fail(reason: str) -> None:
    """Ends the process because training has diverged."""
    print(f"FAIL: {reason}", flush=True)
    sys.exit(DIVERGED)


def peak_flops(device: torch.device) -> float:
    """Dense bf16 FLOP/s of the device by its data sheet; 0 if unknown, and then MFU is not reported."""
    if device.type != "cuda":
        return 0.0
    name = torch.cuda.get_device_name(device)
    known = {"H100 PCIe": 756e12, "H100": 989.5e12, "H200": 989.5e12, "B200": 2250e12, "A100": 312e12, "L40S": 362e12,
             "L4": 121e12, "A10": 125e12, "4090": 165e12, "5090": 209e12, "3090": 71e12}  # fmt: skip
    return next((flops for model, flops in known.items() if model in name), 0.0)


def compiled_graphs() -> int:
    """Graphs that torch.compile has compiled in this process."""
    if "torch._dynamo" not in sys.modules:
        return 0
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


@dataclass(frozen=True, kw_only=True)
class _Step:
    """The figures of one step line."""

    step: int
    loss: float
    """Nats per token."""
    lrm: float
    tokens_per_step: int
    flops_per_token: float
    peak_flops: float
    """FLOP/s of the device; 0 if unknown."""
    progress: float
    remaining: float
    """Seconds until the deadline."""
    epoch: int
    tokens: int
    """Training tokens so far."""


class _StepLog:
    """Step lines and the loss curve. A loss is read one step late, when the device has computed it."""

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
        """Takes this step's loss, and returns the previous step with its loss; None on the first step."""
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

    def write(self, of: _Step) -> None:
        """Prints the step line, adds a point to the curve and tells the judge, unless the last line is too recent."""
        now = monotonic()
        seconds, self._last_step_time = now - self._last_step_time, now
        self._flops_per_token = of.flops_per_token
        self.steps = of.step + 2  # steps 0 to of.step + 1 have run
        self._smooth = 0.9 * self._smooth + 0.1 * of.loss
        if now - self._last_written < LOG_EVERY_SECONDS:
            return
        self._last_written = now
        smooth = self._smooth / (1 - 0.9 ** (of.step + 1))
        speed = of.tokens_per_step / seconds
        mfu = f"{100 * of.flops_per_token * speed / of.peak_flops:.1f}" if of.peak_flops else "n/a "
        print(
            f"step {of.step:05d} ({100 * of.progress:.1f}%) | loss: {smooth:.6f} | lrm: {of.lrm:.2f} | "
            f"dt: {seconds * 1000:.0f}ms | tok/sec: {speed:,.0f} | mfu: {mfu}% | epoch: {of.epoch} | "
            f"remaining: {of.remaining:.0f}s",
            flush=True,
        )
        self._points.append((round(now - self._began, 3), of.step, round(of.loss, 5)))
        self._channel.send(Progress(step=of.step, tokens=of.tokens, loss=of.loss))

    def curve(self) -> list[tuple[float, int, float]]:
        """The loss curve as (seconds under the clock, step, loss), evenly thinned to CURVE_POINTS at most."""
        stride = math.ceil(len(self._points) / CURVE_POINTS) or 1
        return self._points[::stride]

    def mean_mfu_percent(self, seconds: float, peak_flops: float, tokens: int) -> float | None:
        """Model FLOPs utilisation over the whole training, in percent; None if it is not known."""
        if not (peak_flops and self._flops_per_token and seconds > 0):
            return None
        return 100 * self._flops_per_token * tokens / seconds / peak_flops


def _named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The model's state dict; a compiled module's tensors have the names of the module itself."""
    return {name.replace("_orig_mod.", ""): tensor for name, tensor in model.state_dict().items()}
