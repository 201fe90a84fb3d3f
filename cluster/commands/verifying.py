"""`farm verify`: an experiment run again from its record."""

import argparse
import sys
from typing import Any

from cluster.client import connect
from cluster.commands.recorded import read_history, record_named
from cluster.commands.use import recorded_train_py
from cluster.hardware import choose_devices
from cluster.home import find_cache, find_home, home_option
from cluster.replay import Verification, check_same_as_recorded, device_like, repeat, run_to_repeat, sigma_of
from research.contract import Contract
from research.errors import UserError
from research.result import RunResult


def verify(options: argparse.Namespace) -> int:
    """Runs the experiment's first run again and compares. Exit status 1 where the score is another."""
    from research.data.prepare import find_prepared

    home = find_home(options.home)
    histories = read_history(home)
    record = record_named(home, histories, options.id)
    branch = next(history.branch for history in histories if history.branch.name == record.experiment.branch)
    old = run_to_repeat(record)
    train_py = recorded_train_py(home, record.experiment.commit)
    device = device_like(branch, choose_devices(options.devices), gpu_memory_bytes=old.gpu_memory_bytes)
    contract = Contract.from_json(branch.contract_json)
    data = find_prepared(contract, cache=find_cache(options.cache), num_shards=options.num_shards)
    check_same_as_recorded(old, train_py, data, contract)
    if connect(home) is not None:
        raise UserError(
            f"A farm is running on {home.folder}, and either would disturb the other: farm stop{home_option(home)} first."
        )
    print(f"{record.experiment.id} {record.experiment.title}: running {old.run_id} again, seed {old.seed}, on {device.key}",
          flush=True)  # fmt: skip
    new = repeat(old, train_py, device=device, data=data, contract=contract, on_progress=_Phases())
    found = Verification(old=old, new=new, sigma=sigma_of(record, branch))
    print("\n".join(verification_lines(found)))
    return 0 if found.reproduced else 1


def verification_lines(found: Verification) -> list[str]:
    """Both runs side by side, and the verdict."""
    old, new = found.old, found.new
    lines = [f"{'':<18}{'then':>12}{'now':>12}"]
    for name, form in (("val_bpb", ".6f"), ("training_seconds", ".1f"), ("reported_steps", "d"), ("peak_memory_mb", ".0f"),
                       ("num_params", "d")):  # fmt: skip
        lines.append(f"{name:<18}{_figure(old, name, form):>12}{_figure(new, name, form):>12}")
    lines.append(f"software: {found.software or 'the same'}")
    if found.sigmas is None:
        return [*lines, f"not reproduced: the run ended as {new.status}: {new.reason}"]
    verdict = "reproduced" if found.reproduced else "not reproduced"
    return [*lines, f"{verdict}: {found.sigmas:+.2f} sigma (sigma {found.sigma:.4f} a run)"]


def _figure(run: RunResult, name: str, form: str) -> str:
    value = getattr(run, name)
    return "-" if value is None else format(value, form)


class _Phases:
    """Says on standard error which phase has begun."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, progress: dict[str, Any]) -> None:
        phase = str(progress.get("phase", self._last))
        if phase != self._last:
            self._last = phase
            print(f"  {phase}", file=sys.stderr, flush=True)
