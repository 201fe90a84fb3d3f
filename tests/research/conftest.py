"""What the tests of the judge share: a little prepared data, and a runner of train.py files."""

from dataclasses import replace

import pytest

from research.contract import Contract
from research.data.prepare import prepare
from research.data.prepared import PreparedData
from tests.research.judged import Runner, write_documents


@pytest.fixture(scope="session")
def judged_contract(tmp_path_factory: pytest.TempPathFactory) -> Contract:
    """A contract of 256 evaluation rows of 64 tokens and 0.45 s of training."""
    texts = tmp_path_factory.mktemp("judged-texts")
    write_documents(texts, documents=1000, seed=1)
    return Contract(
        profile="cpu", MAX_SEQ_LEN=64, TIME_BUDGET=0.45, EVAL_TOKENS=64 * 256, VOCAB_SIZE=512, source=f"files:{texts}"
    )


@pytest.fixture(scope="session")
def judged_data(judged_contract: Contract, tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return prepare(judged_contract, cache=tmp_path_factory.mktemp("judged-cache"), say=lambda line: None)


@pytest.fixture(scope="session")
def quick(run: Runner) -> Runner:
    """`run` with 0.1 s of training, which keeps a core busy to its end: for what does not depend on how much was learned."""
    return replace(run, contract=replace(run.contract, TIME_BUDGET=0.1))


@pytest.fixture(scope="session")
def run(judged_contract: Contract, judged_data: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """Runs train.py files through the real judge."""
    return Runner(contract=judged_contract, data_folder=judged_data.folder, runs_folder=tmp_path_factory.mktemp("judged-runs"))
