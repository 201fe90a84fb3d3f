"""What of the records counts as an experiment."""

from typing import get_args

import pytest

from results.experiment import Decision, ExperimentKind, ExperimentRecord, Verdict
from tests.results.result_samples import make_experiment


@pytest.mark.parametrize("kind", get_args(ExperimentKind))
@pytest.mark.parametrize("decision", [*get_args(Decision), None])
def test_ideas_with_a_verdict_that_were_not_lost_are_done(kind: ExperimentKind, decision: Decision | None) -> None:
    verdict = None if decision is None else Verdict(decision=decision, reason="so it is")
    record = ExperimentRecord(experiment=make_experiment(1, kind=kind), verdict=verdict)
    assert record.is_done == (kind in ("explore", "manual") and decision not in ("lost", None))
