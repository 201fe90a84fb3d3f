"""Records of a journal that are read when they are looked at, by where its outlines say that they stand."""

import threading
from collections.abc import Mapping, Sequence

from results.experiment import ExperimentRecord, branch_from, experiment_from, run_from, verdict_from
from results.group_entries import Entry, Joined, Ran, ruled_from
from results.group_history import Decided
from results.journal import JournalReader, JournalRecord
from results.outlines import Outline

MOST_KEPT = 2_000
"""The most records that are kept in memory: about 40 MB."""


class JournalRecords:
    """Reads experiments, decisions and entries of groups from a journal. Any thread may ask."""

    def __init__(self, reader: JournalReader, outlines: Mapping[str, Outline]) -> None:
        """`outlines` are those of all experiments, by their ids."""
        self._reader, self._outlines = reader, outlines
        self._kept: dict[Outline, ExperimentRecord] = {}
        self._lock = threading.Lock()

    def experiments(self, outlines: Sequence[Outline]) -> list[ExperimentRecord]:
        """The experiments with these outlines, as far as these have their runs and decisions."""
        with self._lock:
            found = {outline: self._kept[outline] for outline in outlines if outline in self._kept}
            missing = [outline for outline in outlines if outline not in found]
            places = sorted({at for outline in missing for at in _places(outline)})
            read = dict(zip(places, self._reader.at(places), strict=True)) if places else {}
            found |= {outline: _assembled(outline, read) for outline in missing}
            if len(self._kept) + len(missing) > MOST_KEPT:
                self._kept.clear()
            self._kept |= {outline: found[outline] for outline in missing[:MOST_KEPT]}
            return [found[outline] for outline in outlines]

    def decisions(self, outline: Outline) -> Sequence[Decided]:
        """All decisions on an experiment, oldest first."""
        read = self._reader.at([decision.at for decision in outline.decisions])
        return [Decided(time=record.time, verdict=verdict_from(record.body)) for record in read]

    def entries(self, places: Sequence[int]) -> list[Entry]:
        """What stands at these places of the journal, which must be entries of groups."""
        read = self._reader.at(places)
        ran = dict.fromkeys(record.body["experiment_id"] for record in read if record.kind == "run")
        tried = self._reader.at([self._outlines[id].experiment.at for id in ran])
        experiments = {id: experiment_from(record.body) for id, record in zip(ran, tried, strict=True)}
        found: list[Entry] = []
        for record in read:
            if record.kind == "branch":
                found.append(Joined(branch=branch_from(record.body)))
            elif record.kind == "run":
                found.append(Ran(experiment=experiments[record.body["experiment_id"]], run=run_from(record.body)))
            else:
                found.append(ruled_from(record.body["details"]))
        return found


def _places(outline: Outline) -> list[int]:
    """Where the records stand of which an experiment is put together: its own, its runs' and that of its latest decision."""
    return [outline.experiment.at, *(run.at for run in outline.runs), *(one.at for one in outline.decisions[-1:])]


def _assembled(outline: Outline, read: Mapping[int, JournalRecord]) -> ExperimentRecord:
    return ExperimentRecord(
        experiment=experiment_from(read[outline.experiment.at].body),
        runs=tuple(run_from(read[run.at].body) for run in outline.runs),
        verdict=verdict_from(read[outline.decisions[-1].at].body) if outline.decisions else None,
    )
