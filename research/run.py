"""`python -m research.run`: runs any train.py through the judge, by hand (see --help) or for a worker (--serve)."""

import argparse
import json
import os
import queue
import secrets
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch

from research.contract import (
    UserError,
    cache_folder,
    choose_profile,
    contract_for,
    starting_hyperparameters,
)
from research.hyperparameters import read_constants, write_constants
from research.judge import Judge
from research.prepare import find_prepared
from research.processes import become_subreaper
from research.result import RunResult, RunSpec

SHIPPED_TRAIN_PY = Path(__file__).with_name("train.py")


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0 for a run with a score, 1 for one without, 2 for a mistake of the caller."""
    options = parse_arguments(arguments)
    become_subreaper()
    cancelled = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: cancelled.set())
    if options.serve:
        return serve(cancelled)
    try:
        result = run_by_hand(options, cancelled)
    except UserError as error:
        print(f"research.run: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(result.to_json(), flush=True)
    return 0 if result.status == "ok" else 1


def run_train_py(path: str) -> int:
    """What `uv run research/train.py` does: hands that file to the judge."""
    return main(["--train", path, *sys.argv[1:]])


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m research.run", description="Run one train.py under the judge; its log and the summary go to stdout."
    )
    parser.add_argument("--train", type=Path, default=SHIPPED_TRAIN_PY, metavar="FILE", help="default: research/train.py")
    parser.add_argument("--profile", metavar="P", help="standard, small or cpu; default: what the hardware suggests")
    parser.add_argument("--budget", type=float, metavar="S", help="seconds of training, instead of the profile's")
    parser.add_argument("--source", help="data source, instead of the profile's")
    parser.add_argument("--seed", type=int, default=42, metavar="N")
    parser.add_argument("--device", help="cuda:0, mps or cpu; default: the best that is there")
    parser.add_argument("--cache", metavar="FOLDER", help="where prepared data lies")
    parser.add_argument("--folder", metavar="FOLDER", help="keep train.py, run.log and result.json here")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object on the last line")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def run_by_hand(options: argparse.Namespace, cancelled: threading.Event) -> RunResult:
    """Runs `options.train` with the starting hyperparameters of the profile where it was made for another one."""
    if not options.train.is_file():
        raise UserError(f"There is no file {options.train}: name a train.py with --train.")
    device = options.device or best_device()
    total, free = device_memory(device)
    profile = options.profile or choose_profile(device, total)
    contract = contract_for(profile, budget=options.budget, source=options.source)
    data = find_prepared(contract, cache=cache_folder(options.cache))
    train_py = fit_to_profile(options.train.read_text(), profile, free)
    with tempfile.TemporaryDirectory(prefix="autoresearch-") as scratch:
        spec = RunSpec(
            run_id=f"hand-{secrets.token_hex(4)}",
            contract=contract,
            seed=options.seed,
            device=device,
            data_folder=str(data.folder),
            run_folder=str(options.folder or scratch),
        )
        return Judge(spec, train_py, emit=lambda _: None, cancelled=cancelled, echo=print_now).execute()


def fit_to_profile(train_py: str, profile: str, free_bytes: int | None) -> str:
    """`train_py` as it is where its PROFILE is `profile`; else with that profile's starting hyperparameters, and says so."""
    try:
        present = read_constants(train_py)
    except SyntaxError:
        return train_py
    if present.get("PROFILE", profile) == profile:
        return train_py
    values = {k: v for k, v in starting_hyperparameters(profile, free_bytes=free_bytes).items() if present.get(k) != v}
    changes = ", ".join(f"{name} {present.get(name)} -> {value}" for name, value in values.items() if name != "PROFILE")
    print(f"profile {profile}: {changes} (`farm profile {profile} --write` makes this permanent)", flush=True)
    return write_constants(train_py, values)


def best_device() -> str:
    """`cuda:0`, else `mps`, else `cpu`."""
    if torch.cuda.is_available():
        return "cuda:0"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def device_memory(device: str) -> tuple[int, int | None]:
    """Total and free bytes of the device's memory; free is None where it can't be told."""
    if device.startswith("cuda"):
        free, total = torch.cuda.mem_get_info(device)
        return total, free
    memory = psutil.virtual_memory()
    return memory.total, None


def print_now(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def serve(cancelled: threading.Event) -> int:
    """One run for a worker: waits with torch imported, reads {spec, train_py} as a JSON line, prints events as JSON lines.

    The end of standard input means that the worker is gone: the run is ended at once.
    """
    requests: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_watch_stdin, args=(requests, cancelled), daemon=True).start()
    emit = _event_printer()
    emit({"event": "ready"})
    line = _wait_for(requests, cancelled)
    if line is None:
        return 0
    request = json.loads(line)
    spec = RunSpec.from_json(json.dumps(request["spec"]))
    result = Judge(spec, request["train_py"], emit=emit, cancelled=cancelled).execute()
    emit({"event": "result", "result": json.loads(result.to_json())})
    return 0


def _watch_stdin(requests: "queue.Queue[str]", cancelled: threading.Event) -> None:
    for line in sys.stdin:
        requests.put(line)
    cancelled.set()


def _wait_for(requests: "queue.Queue[str]", cancelled: threading.Event) -> str | None:
    while True:
        try:
            return requests.get(timeout=0.2)
        except queue.Empty:
            if cancelled.is_set():
                return None


def _event_printer() -> Callable[[dict[str, Any]], None]:
    """Prints events as JSON lines on a private copy of stdout, so that a stray print cannot end up among them."""
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    sys.stdout = sys.stderr

    def emit(event: dict[str, Any]) -> None:
        out.write(json.dumps(event) + "\n")
        out.flush()

    return emit


if __name__ == "__main__":
    sys.exit(main())
