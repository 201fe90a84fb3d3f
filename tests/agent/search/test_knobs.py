import pytest

from agent.search.knobs import Constants, Knob, knobs_of, settle

CPU: Constants = {
    "DEPTH": 2,
    "ASPECT_RATIO": 64,
    "HEAD_DIM": 64,
    "WINDOW_PATTERN": "L",
    "SHORT_WINDOW_RATIO": 0.5,
    "TOTAL_BATCH_SIZE": 2**11,
    "DEVICE_BATCH_SIZE": 8,
    "ADAM_BETAS": (0.8, 0.95),
    "WEIGHT_DECAY": 0.0,
    "MATRIX_LR": 0.04,
}


def knob(label: str) -> Knob:
    return next(knob for knob in knobs_of(CPU) if knob.label == label)


@pytest.mark.parametrize(
    ("label", "step", "new"),
    [
        ("MATRIX_LR", 1.5, 0.11),
        ("MATRIX_LR", -0.5, 0.028),
        ("ADAM_BETAS[1]", 1.0, (0.8, 0.975)),
        ("ADAM_BETAS[0]", -1.0, (0.6, 0.95)),
        ("WEIGHT_DECAY", 1.0, 0.05),
        ("WEIGHT_DECAY", -9.0, None),
        ("TOTAL_BATCH_SIZE", -1.0, 2**10),
        ("WINDOW_PATTERN", 1.0, "SL"),
        ("WINDOW_PATTERN", -1.0, None),
        ("DEPTH", -2.0, None),
    ],
)
def test_a_step_gives_a_value_in_range(label: str, step: float, new: object) -> None:
    chosen = knob(label)
    position = chosen.read(CPU[chosen.name])
    assert position is not None
    assert chosen.write(CPU[chosen.name], position + step) == new


@pytest.mark.parametrize(
    ("changes", "settled"),
    [
        ({"TOTAL_BATCH_SIZE": 2**10}, {"TOTAL_BATCH_SIZE": 2**10, "DEVICE_BATCH_SIZE": 4}),
        ({"TOTAL_BATCH_SIZE": 2**13}, {"TOTAL_BATCH_SIZE": 2**13}),
        ({"TOTAL_BATCH_SIZE": 100}, None),
        ({"DEPTH": 4}, {"DEPTH": 4, "ASPECT_RATIO": 32}),
        ({"DEPTH": 3}, {"DEPTH": 3, "ASPECT_RATIO": 42}),
        ({"ASPECT_RATIO": 60}, None),
        ({"ASPECT_RATIO": 90}, {"ASPECT_RATIO": 90}),
        ({"WINDOW_PATTERN": "SSSL"}, None),
        ({"SHORT_WINDOW_RATIO": 0.25}, None),
        ({"MATRIX_LR": 0.04}, None),
    ],
)
def test_changes_stay_possible_together(changes: Constants, settled: Constants | None) -> None:
    assert settle(CPU, changes, max_seq_len=256) == settled
