"""`python -m research.run`: runs any train.py through the judge, by hand (see --help) or for a worker (--serve)."""

import argparse
import gc
import json
import os
import secrets
import select
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NoReturn

# Read when torch is imported: on a busy CPU, threads that spin while they wait make every step many times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

gc.disable()  # what is imported stays: looking for garbage in it is a fifth of what importing torch takes

import numpy.ma  # noqa: F401 # np.unique imports it: each judge would, that is forked with it imported
import psutil
import torch
import torch._dynamo  # every optimizer imports it, which takes seconds: children are forked with it imported

gc.freeze()
gc.enable()

from research.command_hints import to_type
from research.contract import cache_folder
from research.cpu_cores import usable_cores
from research.data.prepare import find_prepared
from research.errors import UserError
from research.files import remove_tree, research_folder, write_atomically
from research.gpu_driver import first_gpu
from research.ipc.channel import monotonic
from research.judge.conversation import Emit
from research.judge.judge import Judge, Requested, scratch_prefix
from research.judge.processes import Children
from research.judge.traces import Traces
from research.kernels.preload import preload_for_gpu
from research.measured_cpu_share import TrainingShare
from research.number_options import budget_seconds, gigabytes, number_from
from research.profiles import PROFILES, choose_profile, contract_for, memory_limit
from research.result import SANDBOX_MODES, Placement, RunResult, RunSpec
from research.sandbox.descendants import kill_descendants
from research.sandbox.linux import become_subreaper, die_with_parent, keep_freed_memory
from research.starting_hyperparameters import fit_to_profile
from research.streams import drop_output, prepare_streams, refusal

DEVICES = ("cuda:0", "mps", "cpu")

LARGEST_SEED = 2**32 - 1
"""The largest seed that every random number generator takes; NumPy's is the narrowest."""

SHIPPED_TRAIN_PY = research_folder() / "train.py"


def main(arguments: list[str] | None = None) -> int:
    """Runs the command. Exit status: 0 for a run with a score, 1 for one without, 2 for a mistake of the user."""
    prepare_streams()
    options = parse_arguments(arguments)
    become_subreaper()
    keep_freed_memory()
    signals: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: signals.append(number))
    if options.serve:
        return serve(signals)
    try:
        result, traces = run_by_hand(options, lambda: bool(signals))
    except UserError as error:
        print(f"research.run: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        refused = refusal(error)
        if refused is None:
            raise
        print(f"research.run: {refused}", file=sys.stderr)
        return 2
    if options.json:
        print(result.to_json(), flush=True)
    if not signals:
        traces.erase()
    return 0 if result.status == "ok" else 1


def run_train_py(path: str) -> int:
    """Hands the train.py at `path` to the judge: what `uv run research/train.py` does."""
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != research_folder()]  # else `data` would be a module
    return main(["--train", path, *sys.argv[1:]])


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The options of the command line; `arguments` None: those of this process."""
    parser = _OneLineParser(
        prog="python -m research.run", description="Run one train.py under the judge; its log and the summary go to stdout."
    )
    parser.add_argument("--train", type=Path, default=SHIPPED_TRAIN_PY, metavar="FILE", help="default: research/train.py")
    parser.add_argument("--profile", choices=list(PROFILES), help="default: what the hardware suggests")
    parser.add_argument("--budget", type=budget_seconds, metavar="S", help="seconds of training, instead of the profile's")
    parser.add_argument("--source", help="data source, instead of the profile's")
    parser.add_argument(
        "--seed", type=number_from(0, LARGEST_SEED, int), default=42, metavar="N", help="a whole number from 0 on; default: 42"
    )
    parser.add_argument("--device", choices=DEVICES, help="default: the best available")
    parser.add_argument(
        "--gpu-memory", type=gigabytes, metavar="GB", help="GPU memory that the run may use; default: what is free"
    )
    parser.add_argument("--sandbox", choices=SANDBOX_MODES, default="auto", help="auto: what the host has; strict; off")
    parser.add_argument("--cache", metavar="FOLDER", help="where prepared data lies")
    parser.add_argument("--folder", metavar="FOLDER", help="keep train.py, run.log and result.json here")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object on the last line")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


class _OneLineParser(argparse.ArgumentParser):
    """A parser that reports a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"research.run: {message.removeprefix('argument ')} (see {self.prog} --help)\n")


def run_by_hand(options: argparse.Namespace, cancelled: Callable[[], bool]) -> tuple[RunResult, Traces]:
    """Runs `options.train`, fitted to the profile's starting hyperparameters if it was made for another profile.

    Returns its result, and what it left behind. Raises UserError.
    """
    if not options.train.is_file():
        raise UserError(f"There is no file {options.train}: name a train.py with --train.")
    children = Children()  # before its text is read, which they could find in their memory, with its comments
    device, total, free = best_device()
    check_device(options.device, best=device)
    device = options.device or device
    limit = memory_limit(options.gpu_memory, device)
    if limit is not None and limit < total:
        total, free = limit, min(free or limit, limit)
    else:
        limit = None
    profile = options.profile or choose_profile(device, total)
    contract = contract_for(profile, budget=options.budget, source=options.source)
    data = find_prepared(contract, cache=cache_folder(options.cache), say=lambda line: print(line, flush=True))
    train_py, changes = fit_to_profile(options.train.read_text(), profile, free)
    if changes:
        listed = ", ".join(f"{name} = {value}" for name, value in changes.items() if name != "PROFILE")
        print(
            f"profile {profile}: {listed} (`{to_type(f'farm profile --profile {profile} --write')}` makes this permanent)",
            flush=True,
        )
    with tempfile.TemporaryDirectory(prefix="autoresearch-") as scratch:
        spec = RunSpec(
            run_id=f"hand-{secrets.token_hex(4)}",
            contract=contract,
            seed=options.seed,
            sandbox=options.sandbox,
        )
        placement = Placement(
            device=device,
            data_folder=str(data.folder),
            run_folder=str(options.folder or scratch),
            threads=usable_cores(),
            gpu_memory_bytes=limit,
        )
        traces = Traces(placement)
        result = judged(spec, placement, train_py, emit=lambda _: None, cancelled=cancelled, traces=traces, children=children,
                        echo=print_now)  # fmt: skip
        return result, traces


def judged(spec: RunSpec, placement: Placement, train_py: str, *, emit: Emit, cancelled: Callable[[], bool],
           traces: Traces, children: Children | None = None, requested: Requested | None = None,
           echo: Callable[[str], None] | None = None) -> RunResult:  # fmt: skip
    """The judge's result of one run, with the share of the CPU that it had, also in its result.json."""
    share = TrainingShare(emit)
    judge = Judge(spec, placement, train_py, emit=share.emit, cancelled=cancelled, forget=traces.erase, children=children,
                  requested=requested, echo=echo)  # fmt: skip
    result = replace(judge.execute(), cpu_share=share.value)
    write_atomically(Path(placement.run_folder) / "result.json", result.to_json())
    return result


def check_device(wanted: str | None, *, best: str) -> None:
    """Raises UserError if this machine doesn't have the device that was asked for."""
    if wanted not in (None, "cpu", best):
        raise UserError(
            f"--device {wanted}: this machine has no such device; it has {best if best == 'cpu' else f'{best}, cpu'}."
        )


def best_device() -> tuple[str, int, int | None]:
    """The first NVIDIA GPU, else a Mac's, else the CPU; with the total and free bytes of its memory (free None: unknown).

    It asks NVML: torch would initialise CUDA in this process, and forked children could not use CUDA after that.
    """
    try:
        with first_gpu() as gpu:
            return "cuda:0", *gpu.memory()
    except Exception:  # no driver, no GPU, none visible: NVML has a different error for each
        total = psutil.virtual_memory().total
        return ("mps" if torch.backends.mps.is_available() else "cpu"), total, None


def print_now(text: str) -> None:
    """Prints a part of the run's log. If standard output breaks (`| head`), the run goes on, and that is said once."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        drop_output()
        with suppress(OSError):
            told = f"research.run: standard output can't be written any more ({error.strerror}); the run goes on"
            print(told, file=sys.stderr, flush=True)


GO = b'{"go": true}\n'
"""The line by which a worker requests a run that it started speculatively."""


NO_REQUEST = 3
"""Exit status of a judge that found the end of standard input, where it was to find a request."""


def serve(signals: list[int]) -> int:
    """Executes runs for a worker, one after another: reads {spec, placement} and prints events, as JSON lines.

    A run with {ahead: true} is speculative: when its clock would start, it waits until the worker sends GO.

    Each run is judged in a process that is forked from this one, which has imported what runs need and does nothing else. This
    process reads neither a request nor a train.py: all that it has read could be found in the memory of later runs. So a run
    starts at once, and finds no traces of another. The end of standard input means that the worker is gone: the run is then
    ended at once. A judge that dies without a result ends this process too, with exit status 1.
    """
    preload_for_gpu()
    gc.freeze()  # the garbage collectors of what is forked skip what is imported, and share its memory
    emit = _event_printer()
    emit({"event": "ready"})
    traces: dict[Placement, Traces] = {}
    while wait_for_line(stopped=lambda: bool(signals)):
        told, tells = os.pipe()
        go, goes = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(goes)
            _judge_and_exit(traces, emit, signals, told=tells, go=go)
        os.close(tells)
        os.close(go)
        status, began = _watch_judge(pid, signals, told=told, goes=goes)
        os.close(told)
        os.close(goes)
        if os.waitstatus_to_exitcode(status) == NO_REQUEST:
            return 0
        if status:
            kill_descendants()
            for folder in Path(tempfile.gettempdir()).glob(f"{scratch_prefix(pid)}*"):
                remove_tree(folder)
            return 1
        if began is not None and not (signals or worker_is_gone()):
            traces.setdefault(began, Traces(began)).erase()
    return 0


def _watch_judge(pid: int, signals: list[int], *, told: int, goes: int) -> tuple[int, Placement | None]:
    """Waits for a judge to end, and tells it when its worker is gone or requests its run. Returns its wait status, and where
    its run was placed; None if it began none.
    """
    place: Placement | None = None
    may_go = False
    while True:
        ended = os.waitpid(pid, os.WNOHANG)
        if place is None and (words := _words_of(told)):
            place, may_go = Placement.from_json(json.dumps(words["place"])), words["ahead"]
        if ended[0]:
            return ended[1], place
        if signals or worker_is_gone():
            os.kill(pid, signal.SIGTERM)
        elif may_go and _has_input():
            may_go = False
            if os.read(0, len(GO)) == GO:
                os.write(goes, b"%f" % monotonic())
        time.sleep(0.02)


def _words_of(told: int) -> dict[str, Any] | None:
    """What a judge tells once it has read its request; None before that."""
    ready = select.select([told], [], [], 0)[0]
    line = os.read(told, 2**16) if ready else b""
    return json.loads(line) if line else None


def _judge_and_exit(traces: Mapping[Placement, Traces], emit: Emit, signals: list[int], *, told: int, go: int) -> NoReturn:
    """Judges the run that standard input requests, in a forked process, which tells by `told` when it has read the request.

    `go` brings the time at which a speculative run is requested.
    """

    def requested() -> float | None:
        return float(os.read(go, 64)) if select.select([go], [], [], 0)[0] else None

    code = 1
    try:
        die_with_parent(signal.SIGTERM)
        become_subreaper()
        children = Children()  # before anything is known of the run, which its processes could read in their memory
        line = read_line(stopped=lambda: bool(signals))
        request = json.loads(line) if line and line != GO else None  # GO comes late where a run has ended by itself
        if request is None:
            children.end_all()
            code = NO_REQUEST if not line else 0
        else:
            spec = RunSpec.from_json(json.dumps(request["spec"]))
            placement = Placement.from_json(json.dumps(request["placement"]))
            ahead, place = bool(request.get("ahead")), placement.without_run()
            os.write(told, json.dumps({"ahead": ahead, "place": asdict(place)}).encode())
            result = judged(spec, placement, placement.read_train_py(), emit=emit, cancelled=lambda: bool(signals),
                            traces=traces.get(place) or Traces(place), children=children,
                            requested=requested if ahead else None)  # fmt: skip
            emit({"event": "result", "result": json.loads(result.to_json())})
            code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def wait_for_line(*, stopped: Callable[[], bool]) -> bool:
    """Waits for input from the worker, without reading it. Returns whether there is some: not if the worker hangs up, or this
    process is told to stop.
    """
    while not stopped():
        if _has_input(wait=0.1):
            return True
        if worker_is_gone():
            return False
    return False


def read_line(*, stopped: Callable[[], bool]) -> bytes:
    """The next line of standard input, and no byte more; empty if the worker hangs up, or this process is told to stop."""
    line = b""
    while not line.endswith(b"\n"):
        if stopped():
            return b""
        if select.select([0], [], [], 0.1)[0]:
            byte = os.read(0, 1)
            if not byte:
                return b""
            line += byte
    return line


def worker_is_gone() -> bool:
    """Whether the worker has closed its end of standard input, and all that it sent has been read."""
    return bool(_events_of_input() & select.POLLHUP) and not _has_input()


def _has_input(*, wait: float = 0.0) -> bool:
    return bool(_events_of_input(wait=wait) & select.POLLIN)


def _events_of_input(*, wait: float = 0.0) -> int:
    poll = select.poll()
    poll.register(0, select.POLLIN)
    return next((events for _, events in poll.poll(1000 * wait)), 0)


def _event_printer() -> Emit:
    """A function that prints events as JSON lines on a private copy of stdout, where no stray print can get between them."""
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    sys.stdout = sys.stderr

    def emit(event: dict[str, Any]) -> None:
        out.write(json.dumps(event) + "\n")
        out.flush()

    return emit


if __name__ == "__main__":
    sys.exit(main())
