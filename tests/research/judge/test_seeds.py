"""Seeds that a train.py sets by itself are found in its text."""

from pathlib import Path

import pytest

from research.judge.seeds import seed_set_by
from tests.research.judged import Runner, variant

ROOT = Path(__file__).parents[3]

OWN = {
    "torch": "import torch\ntorch.manual_seed(1337)",
    "torch.cuda": "import torch\ntorch.cuda.manual_seed(1)",
    "all of torch.cuda": "import torch\ntorch.cuda.manual_seed_all(1)",
    "numpy": "import numpy as np\nnp.random.seed(0)",
    "a generator of numpy": "import numpy\nrng = numpy.random.default_rng(seed=[1, 2])",
    "random": "import random\nrandom.seed('abc')",
    "a generator of torch": "import torch\ng = torch.Generator(device='cpu').manual_seed(2**10 + 1)",
    "a generator by name": "def f(g):\n    g.manual_seed(-1)",
    "a constant": "import torch\nSEED = 42\ntorch.manual_seed(SEED)",
    "a constant of another": "import torch\nBASE = 42\nSEED: int = BASE + 1\ntorch.manual_seed(seed=SEED)",
    "another name": "from torch import manual_seed as start\nstart(7)",
    "a class": "import random\nchance = random.Random(5)",
}

OTHERS = [
    "import torch\ndef train(session):\n    torch.manual_seed(session.seed)",
    "import torch\ndef train(session):\n    torch.manual_seed(session.seed + 1)",
    "import torch\ndef again(seed):\n    torch.manual_seed(seed)\nSEEDS = 3",
    "import torch\nseed = 1\nseed = int(input())\ntorch.manual_seed(seed)",
    "import numpy as np\nrng = np.random.default_rng()\nother = np.random.default_rng(None)",
    "def seed(n):\n    pass\nseed(3)",
    "# torch.manual_seed(1337)",
    "import torch\ntorch.manual_seed(" + "1 + " * 800 + "1)",
    "SEED = SEED2\nSEED2 = SEED\nimport torch\ntorch.manual_seed(SEED)",
]


@pytest.mark.parametrize("name", OWN)
def test_a_seed_of_its_own_is_found(name: str) -> None:
    assert "sets its own seed" in seed_set_by(OWN[name])


def test_the_reason_is_one_line_with_the_place() -> None:
    assert seed_set_by("import torch\n\ntorch.manual_seed(\n    1337\n)") == (
        "train.py line 3 sets its own seed (torch.manual_seed( 1337 )): seeds come from the judge, use session.reseed()"
    )


@pytest.mark.parametrize("text", OTHERS)
def test_other_code_is_left_alone(text: str) -> None:
    assert seed_set_by(text) == ""


def test_the_shipped_train_py_sets_none() -> None:
    assert seed_set_by((ROOT / "research" / "train.py").read_text()) == ""


def test_the_judge_refuses_it_before_anything_runs(run: Runner) -> None:
    result = run(variant(("def build_model():", "torch.manual_seed(1)\n\n\ndef build_model():"))).result
    assert result.status == "invalid" and "line " in result.reason and "(torch.manual_seed(1))" in result.reason
    assert result.startup_seconds is None
