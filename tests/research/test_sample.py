"""Text that a saved model generates."""

import os
import sys
from pathlib import Path

import pytest

from research.child_settings import ChildSettings
from research.data.prepared import PreparedData
from tests.research.judged import CONTEXT, HELPERS, Runner, variant

WRITES_OUTSIDE = """def build_model():
    try:
        Path({outside!r}).write_text("escaped")
    except OSError:
        pass
"""


def generate(arguments: list[str], environment: dict[str, str], output: str) -> None:
    """Runs in a process of its own, which need not import torch anew."""
    os.environ.update(environment)
    os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT), 1)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.argv = ["research.sample", *arguments]
    from research.sample import main

    sys.exit(main())


def sampled(arguments: list[str], run: Runner, output: Path) -> tuple[int | None, str]:
    process = CONTEXT.Process(
        target=generate, args=(arguments, ChildSettings(contract=run.contract).environment(), str(output))
    )
    process.start()
    process.join(60)
    return process.exitcode, output.read_text()


@pytest.fixture(scope="module")
def model(quick: Runner) -> Path:
    spec = quick.spec(save_model=True)
    quick(variant(), run_id=spec.run_id, save_model=True)
    return quick.folder(spec) / "model.safetensors"


def test_a_model_generates_text_and_its_train_py_can_do_no_more_than_in_a_run(
    quick: Runner, judged_data: PreparedData, model: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o777)
    text = HELPERS + variant(("def build_model():\n", WRITES_OUTSIDE.format(outside=str(outside / "file"))))
    (tmp_path / "train.py").write_text(text)
    arguments = ["--model", str(model), "--train", str(tmp_path / "train.py"), "--data", str(judged_data.folder)]
    code, printed = sampled([*arguments, "--prompt", "the", "--tokens", "5"], quick, tmp_path / "printed")
    assert (code, printed[:3]) == (0, "the") and len(printed) > 4, printed
    assert not list(outside.iterdir())
    code, _ = sampled([*arguments, "--sandbox", "off", "--tokens", "1"], quick, tmp_path / "again")
    assert code == 0 and (outside / "file").read_text() == "escaped", "the sandbox is what stopped it"


def test_a_model_that_does_not_fit_its_train_py_fails(
    quick: Runner, judged_data: PreparedData, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "train.py").write_text(
        variant(("nn.Embedding(CONTRACT.VOCAB_SIZE, 16)", "nn.Embedding(CONTRACT.VOCAB_SIZE, 8)"))
    )
    arguments = ["--model", str(model), "--train", str(tmp_path / "train.py"), "--data", str(judged_data.folder)]
    code, printed = sampled(arguments, quick, tmp_path / "printed")
    assert code == 1 and "size mismatch" in printed
