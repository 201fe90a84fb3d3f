"""A sample of the honest controls: the judge lets each of them through, with the score that its model has by itself."""

import pytest

from tests.attacks.harness import Harness
from tests.attacks.honest import CONTROLS, Control, judge_honest


@pytest.mark.parametrize("control", [control for control in CONTROLS if control.sample], ids=lambda control: control.name)
def test_an_honest_run_gets_its_score(control: Control, harness: Harness) -> None:
    run, expected = judge_honest(harness, control)
    assert run.result.status == "ok", run.result.reason
    assert run.result.val_bpb == pytest.approx(expected, abs=1e-4)
