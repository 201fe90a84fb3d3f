"""The estimate that is printed before a farm starts: time, power, money and disk. Measured if there is a history."""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from agent.researchers.hybrid import MODEL_IDEAS, OF_IDEAS
from agent.researchers.mix import HYBRID, kinds_in, parts_of, shares_of
from agent.researchers.prices import PRICES, Price
from cluster.hardware import Device, platform_identity
from research.contract import Contract
from research.formatting import counted, size
from results.experiment import ExperimentRecord, Usage
from results.history import BranchHistory
from results.researcher_costs import total

NIGHT_HOURS = 8.0

RECENT = 50
"""Number of the newest experiments to average over."""

OVERHEAD_SECONDS = {"cuda": 24.0, "mps": 24.0, "cpu": 5.0}
"""Overhead of a run in seconds, beyond its time budget, by kind of device: start-up, hand-over and scoring, which don't depend
on the budget. The guess until runs are measured; docs/performance.md has 12 to 24 s for GPUs, and 2.5 to 4.2 s for a CPU."""

FIRST_RUN_SECONDS = {"cuda": 50.0, "mps": 50.0, "cpu": 10.0}
"""What the first run takes beyond that, since nothing is compiled yet and no process stands by."""

KEPT_SHARE = 0.2
"""Share of the runs whose model is saved under `--samples`: the guess until there are experiments."""

LEAST_RUNS = 10
"""Runs from which the share of keeps is taken; fewer are mostly the baseline's."""

RUN_BYTES = 200_000.0
"""Disk space of a run: train.py, run.log, result.json, the commit and the journal's lines."""

MODEL_BYTES = {"standard": 250e6, "small": 70e6, "cpu": 8e6}
"""Size of a saved model, by profile."""

DATA_BYTES = {"climbmix": 250e6, "tinystories": 330e6, "packages": 30e6, "stdlib": 30e6}
"""Size of prepared data with its text, by source: per training shard, or in total for a source without shards."""

IDEA_TOKENS = {"input": 4_000, "output": 8_000, "cache_read": 80_000, "cache_write_1h": 20_000}
"""Tokens that a Claude model uses for one idea, over all turns."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The costs of a farm that is about to start."""

    budget_seconds: float
    overhead_seconds: float
    """Seconds per run beyond its budget."""
    is_measured: bool
    """Whether the overhead is that of earlier runs."""
    devices: int
    watts: float | None
    """Sum of the devices' power limits; None if one is unknown."""
    idea_usd: float | None
    """US dollars per idea; None if unknown."""
    researcher: str
    max_cost: float | None
    """US dollars at which the researchers are stopped; None: no limit."""
    run_bytes: float
    kept_bytes: float
    """Size of a saved model; 0 if none are saved."""
    kept_share: float
    """Share of the runs whose model is saved."""
    free_bytes: int

    @property
    def runs_per_night(self) -> float:
        return self.devices * NIGHT_HOURS * 3600 / (self.budget_seconds + self.overhead_seconds)

    def lines(self) -> list[str]:
        """The estimate as text."""
        night = f"{NIGHT_HOURS:g} hours"
        lines = [
            f"each run: {self.budget_seconds:g} s of training plus about {self.overhead_seconds:.0f} s of overhead "
            f"({'measured here' if self.is_measured else 'a guess, nothing is measured yet'}); "
            f"about {counted(round(self.runs_per_night), 'run')} in {night} on {counted(self.devices, 'device')}"
        ]
        if self.watts is not None:
            lines.append(f"power: at most {self.watts / 1000 * NIGHT_HOURS:.1f} kWh in {night}")
        lines.append(f"researcher: {self.researcher}{self._money(night)}")
        night_bytes = (self.run_bytes + self.kept_share * self.kept_bytes) * self.runs_per_night
        each = f"{size(self.run_bytes)} per run" + (f" and {size(self.kept_bytes)} per keep" if self.kept_bytes else "")
        lines.append(f"disk: about {each}, {size(night_bytes)} in {night}; {size(self.free_bytes)} free")
        if night_bytes > self.free_bytes:
            lines.append(f"warning: the disk will be full in less than {night}: free some space, or choose another --home")
        return lines

    def _money(self, night: str) -> str:
        if self.idea_usd == 0:
            return ", free of charge"
        limit = "" if self.max_cost is None else f"; --max-cost holds it at ${self.max_cost:,.2f}"
        if self.idea_usd is None:
            return f", at an unknown price{limit}"
        of_night = self.idea_usd * self.runs_per_night
        if self.max_cost is not None and self.max_cost < of_night:
            return f", about ${self.idea_usd:.2f} per idea{limit}, before the ${of_night:,.0f} of {night}"
        return f", about ${self.idea_usd:.2f} per idea, ${of_night:,.0f} in {night}{limit}"


def estimate(
    *,
    contract: Contract,
    devices: Sequence[Device],
    loops: int,
    researcher: str,
    model: str | None,
    max_cost: float | None,
    prices: Mapping[str, Price] = PRICES,
    samples: bool,
    histories: Iterable[BranchHistory],
    home: Path,
) -> Estimate:
    """The estimate for these options; `histories` are the home's branches.

    Overhead and the share of keeps are those of this profile and platform, money is that of the profile.
    """
    same = [history for history in histories if history.branch.profile == contract.profile]
    every = [record for history in same for record in history.records]
    costs = [usage for history in same for usage in history.costs]
    alike = [history for history in same if history.branch.platform == platform_identity(devices[0])]
    recent = [record for history in alike for record in history.records][-RECENT:]
    measured = _measured_overhead(recent)
    power = [device.power_limit_watts for device in devices]
    return Estimate(
        budget_seconds=contract.TIME_BUDGET,
        overhead_seconds=measured or _guessed_overhead(contract, devices[0]),
        is_measured=measured is not None,
        devices=min(loops, len(devices)),
        watts=sum(watts for watts in power if watts) if all(power) else None,
        idea_usd=_idea_usd(researcher, model, every, costs, prices),
        researcher=researcher if len(kinds_in(researcher)) > 1 else researcher.partition(":")[0],
        max_cost=max_cost,
        run_bytes=RUN_BYTES,
        kept_bytes=MODEL_BYTES[contract.profile] if samples else 0.0,
        kept_share=_kept_share(recent),
        free_bytes=free_disk(home),
    )


def data_line(contract: Contract, num_shards: int | None) -> str:
    """A line about data that is not prepared yet."""
    from research.data.prepare import DEFAULT_SHARDS
    from research.data.sources import has_shards

    source = contract.source.partition(":")[0]
    if source not in DATA_BYTES:
        return "data: your text is prepared first, which takes about as much disk space again"
    shards = 1 if not has_shards(source) else (num_shards or DEFAULT_SHARDS) + 2
    return f"data: {source} is prepared first, which takes about {size(shards * DATA_BYTES[source])} of disk space"


def free_disk(folder: Path) -> int:
    """Free bytes on the disk of a folder, which may not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _measured_overhead(records: Sequence[ExperimentRecord]) -> float | None:
    overheads = [
        run.total_seconds - run.training_seconds
        for record in records
        for run in record.runs
        if run.status == "ok" and run.total_seconds is not None and run.training_seconds is not None
    ]
    return fmean(overheads) if overheads else None


def _guessed_overhead(contract: Contract, device: Device) -> float:
    """The usual overhead, and each run's share of what the first one takes beyond it."""
    usual = OVERHEAD_SECONDS[device.kind]
    runs = NIGHT_HOURS * 3600 / (contract.TIME_BUDGET + usual)
    return usual + FIRST_RUN_SECONDS[device.kind] / max(1.0, runs)


def _kept_share(records: Sequence[ExperimentRecord]) -> float:
    runs = [(record, run) for record in records for run in record.runs if run.status == "ok"]
    if len(runs) < LEAST_RUNS:
        return KEPT_SHARE
    return fmean(record.verdict is not None and record.verdict.decision == "keep" for record, _ in runs)


def _idea_usd(researcher: str, model: str | None, records: Sequence[ExperimentRecord], costs: Iterable[Usage],
              prices: Mapping[str, Price]) -> float | None:  # fmt: skip
    """US dollars per idea: measured, with those that failed spread over those that were tried; else from the price.

    Of a mix it is the mean over its loops, if all are known.
    """
    shares, paid_ideas = shares_of(researcher), list(costs)
    if len(shares) > 1:
        each = [(_idea_usd(member, model, records, paid_ideas, prices), share) for member, share in shares.items()]
        known = [(usd, share) for usd, share in each if usd is not None]
        return sum(usd * share for usd, share in known) / sum(shares.values()) if len(known) == len(each) else None
    if researcher.partition(":")[0] == HYBRID:
        usd = _idea_usd(parts_of(researcher)[-1], model, records, paid_ideas, prices)
        return None if usd is None else usd * MODEL_IDEAS / OF_IDEAS
    if researcher.partition(":")[0] in ("search", "scripted"):
        return 0.0
    if researcher != "claude":
        return None
    from agent.researchers.claude import DEFAULT_MODEL

    name = model or DEFAULT_MODEL
    ideas = sum(record.experiment.usage.model == name for record in records)
    paid = total(usage for usage in paid_ideas if usage.model == name).cost_usd
    if ideas and paid is not None:
        return paid / ideas
    price = prices.get(name)
    return None if price is None else price.cost(**IDEA_TOKENS)
