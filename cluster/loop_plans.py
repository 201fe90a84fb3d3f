"""Plans of loops: the branch that a device's loop works on, its contract and its data."""

import json
import shlex
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent.repo.branch_names import branch_name
from cluster.farm_options import FarmOptions
from cluster.hardware import Device, platform_identity
from research.contract import Contract
from research.data.prepare import find_prepared, prepare
from research.data.prepared import PreparedData
from research.data.sources import check_source
from research.errors import UserError
from research.profiles import choose_profile, contract_for
from results.experiment import Branch
from results.store import Store


@dataclass(frozen=True, kw_only=True)
class LoopPlan:
    """A loop to start."""

    branch_name: str
    number: int
    """The loop's number in this farm, from 0."""
    device: Device
    contract: Contract
    data: PreparedData


class Planner:
    """Plans which loops start when devices join."""

    def __init__(self, options: FarmOptions, store: Store, *, say: Callable[[str], None]) -> None:
        self.plans: list[LoopPlan] = []
        """The plans of all loops that have started, oldest first."""
        self._options, self._store, self._say = options, store, say
        self._data: dict[str, PreparedData] = {}
        self._fingerprints = {branch.contract_json: branch.score_fingerprint for branch in store.branches(options.tag)}
        self._lock = threading.Lock()

    def terms(self, device: Device) -> tuple[Contract, PreparedData]:
        """The contract of a device, and its data, prepared if necessary. Callable from any thread. Raises UserError."""
        contract = contract_asked_for(self._options, device)
        with self._lock:
            key = contract.to_json()
            if key not in self._data:
                fingerprint = self._fingerprints.get(key)
                self._data[key] = prepared_data(contract, self._options, score_fingerprint=fingerprint, say=self._say)
            return contract, self._data[key]

    def local(self) -> list[LoopPlan]:
        """The loops on this machine's own devices, assigned round-robin."""
        return [self._add(name, device) for name, device in local_loops(self._options)]

    def joining(self, joined: Sequence[Device], serving: Collection[Device]) -> list[LoopPlan]:
        """The loops that start when devices have joined a cluster: one for each device whose platform has fewer loops than
        devices.

        `serving` are all devices that take work. Loops that have ended count too, so a node that comes back starts none. If the
        user asked for a number of loops, the first devices get them all.
        """
        limit = self._options.loops
        room = len(serving) if limit is None else limit - len(self.plans)
        devices = Counter(platform_identity(device) for device in serving)
        loops = Counter(platform_identity(plan.device) for plan in self.plans)
        plans: list[LoopPlan] = []
        for device in joined:
            platform = platform_identity(device)
            if len(plans) < room and loops[platform] < devices[platform]:
                loops[platform] += 1
                plans.append(self._add(self._free_branch(device), device))
        while limit is not None and plans and len(plans) < room:
            device = joined[len(plans) % len(joined)]
            plans.append(self._add(self._free_branch(device), device))
        return plans

    def _free_branch(self, device: Device) -> str:
        """A branch of this tag and platform that no loop of this farm has, else a new one."""
        tag, platform = self._options.tag, platform_identity(device)
        taken = {plan.branch_name for plan in self.plans}
        known = self._store.branches(tag)
        for branch in known:
            if branch.platform == platform and branch.name not in taken:
                return branch.name
        if self._options.loops == 1:
            return branch_name(tag)
        taken |= {branch.name for branch in known}
        kind = "gpu" if device.kind == "cuda" else device.kind
        numbered = (branch_name(tag, loop=f"{kind}{number}") for number in range(len(taken) + 1))
        return next(name for name in numbered if name not in taken)

    def _add(self, name: str, device: Device) -> LoopPlan:
        branch = self._store.branch(name)
        if branch is not None:  # before data is prepared that can't be used
            check_same_terms(branch, device, contract_asked_for(self._options, device))
        contract, data = self.terms(device)
        plan = LoopPlan(branch_name=name, number=len(self.plans), device=device, contract=contract, data=data)
        self.plans.append(plan)
        return plan


def prepared_data(
    contract: Contract, options: FarmOptions, *, score_fingerprint: str | None, say: Callable[[str], None]
) -> PreparedData:
    """The prepared data of a contract, which is prepared now if there is none. Raises UserError.

    `score_fingerprint` is that of the branches to resume, whose data may not be the newest; None if there are none.
    """
    found = data_if_prepared(contract, options, score_fingerprint=score_fingerprint, say=say)
    if found is not None:
        return found
    return prepare(contract, cache=options.cache, num_shards=options.num_shards, say=say)


def data_if_prepared(
    contract: Contract,
    options: FarmOptions,
    *,
    score_fingerprint: str | None = None,
    say: Callable[[str], None] | None = None,
) -> PreparedData | None:
    """The prepared data of a contract, as `find_prepared` chooses it; None if there is none yet."""
    try:
        return find_prepared(
            contract, cache=options.cache, num_shards=options.num_shards, score_fingerprint=score_fingerprint, say=say
        )
    except UserError:
        return None


def contract_asked_for(options: FarmOptions, device: Device) -> Contract:
    """The contract of a device: from the user's options, else the one that suits its hardware.

    Raises UserError for a source that there isn't, and for shards of one without them.
    """
    profile = options.profile or choose_profile(device.torch_device, device.memory_bytes)
    contract = contract_for(profile, budget=options.budget, source=options.source)
    check_source(contract.source, options.num_shards, reads_files=False)
    return contract


def local_loops(options: FarmOptions) -> list[tuple[str, Device]]:
    """The branch and the device of each loop on this machine's own devices."""
    devices = options.devices
    count = options.loops or len(devices)
    return [(branch_for(options.tag, number, count, devices), devices[number % len(devices)]) for number in range(count)]


def check_loops(options: FarmOptions, devices: int, known: Iterable[Branch]) -> None:
    """Raises UserError for more loops than can do anything on so many devices, unless the tag has as many already."""
    loops = options.loops or 0
    begun = sum(branch.tag == options.tag for branch in known)
    most = MOST_LOOPS * devices
    if loops > max(most, begun):
        on = "one device" if devices == 1 else f"{devices} devices"
        raise UserError(
            f"--loops {loops} on {on}: a device trains one run at a time, so they would take turns, and before any idea there "
            f"are {loops} baselines to run: give at most --loops {most}."
        )


def branch_for(tag: str, number: int, count: int, devices: tuple[Device, ...]) -> str:
    """`autoresearch/<tag>`; with several loops `-gpu0`, `-gpu1`, ... by device, and `-gpu0-2` for a second loop on one."""
    if count == 1:
        return branch_name(tag)
    device = devices[number % len(devices)]
    kind = "gpu" if device.kind == "cuda" else device.kind
    turn = number // len(devices) + 1
    return branch_name(tag, loop=f"{kind}{device.index}" + (f"-{turn}" if turn > 1 else ""))


MOST_LOOPS = 16
"""The most loops for each device: two to eight keep it busy while researchers think, and each more is a branch that waits."""

FRESH = "start afresh with another --tag"
"""The cure that always works for a branch that can't be resumed."""

TERM_OPTIONS = {"profile": "--profile", "TIME_BUDGET": "--budget", "source": "--source"}
"""The options that choose a contract, by the field that they set."""


def check_same_terms(branch: Branch, device: Device, contract: Contract) -> None:
    """Raises UserError if the branch's contract or platform differs, so that scores would not be comparable. Needs no data."""
    began, asked = json.loads(branch.contract_json), json.loads(contract.to_json())
    changed = [name for name in began | asked if began.get(name) != asked.get(name)]
    if any(name in TERM_OPTIONS for name in changed):
        old, new = (term_options(terms, changed) for terms in (began, asked))
        raise UserError(f"{branch.name} began with {old}, not {new}: give {old} again, or {FRESH}.")
    if changed:
        name = changed[0]
        now = f"this version of the farm has {name} {asked.get(name)}"
        raise UserError(
            f"{branch.name} began with {name} {began.get(name)}, {now}: use the version that it began with, or {FRESH}."
        )
    if branch.platform != platform_identity(device):
        here = platform_identity(device)
        raise UserError(f"{branch.name} was measured on {branch.platform}, this is {here}: resume it there, or {FRESH}.")


def term_options(contract: Mapping[str, Any], names: Collection[str]) -> str:
    """The options that give these fields of a contract, such as `--profile cpu --budget 5`."""
    chosen = [(option, contract[name]) for name, option in TERM_OPTIONS.items() if name in names]
    return " ".join(f"{option} {shlex.quote(value) if isinstance(value, str) else f'{value:.12g}'}" for option, value in chosen)


def check_same_scoring(branch: Branch, plan: LoopPlan) -> None:
    """Raises UserError if the branch was scored with other evaluation rows or another version of the judge's code."""
    if branch.score_fingerprint != plan.data.score_fingerprint(plan.contract):
        why = "this version of the farm scores differently (the judge's code or the evaluation rows have changed)"
        raise UserError(f"{branch.name} can't be resumed: {why}. Use the version of the farm that it began with, or {FRESH}.")
