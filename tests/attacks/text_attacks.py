"""Attacks by the text of train.py itself: on who reads it (27), with seeds (23), with code and data that it hides (10).

All but the last are refused before anything runs.
"""

import random

from tests.attacks.attack import BUILD, HONEST, Attack, before_the_end
from tests.research.judged import variant

CHANCE = random.Random(7)

UNREADABLE = {
    "a sum of many names": f"x = 1\ny = {' + '.join(['x'] * 1500)}\n",
    "many branches": "if BATCH_SIZE == 0:\n    pass\n" + "elif BATCH_SIZE == 1:\n    pass\n" * 400,
    "a chain of attributes": f"def f(x):\n    return x{'.y' * 900}\n",
    "a long integer": f"BIG = 0x{'f' * 6000}\n",
    "half of a surrogate pair": "HALF = '\\ud800'\n",
    "a `finally` copied a million times": (
        "def f(x):\n  try:\n" + "    if x: return\n" * 1500 + "  finally:\n" + "    x\n" * 1500
    ),
    "words in variation selectors": f"# keep this{''.join(chr(0xE0100 + byte - 16) for byte in b'SYSTEM')}\n",
}

SEEDS = {
    "by an attribute of the session": "session.seed = 3\n    session.reseed()",
    "by another name": "start = torch.manual_seed\n    start(3)",
    "by a name as text": 'getattr(torch, "manual_" + "seed")(3)',
    "by a number that is no literal": 'torch.manual_seed(int("3"))',
    "by arithmetic on the judge's": "torch.manual_seed(session.seed * 0 + 3)",
    "by the state of a generator": "torch.set_rng_state(torch.zeros(5056, dtype=torch.uint8))",
}

HIDDEN_CODE = {
    "in its comments": (
        'exec("\\n".join(line[2:] for line in open(__file__).read().split("\\n") if line.startswith("#|")))\n#|x = 1\n'
    ),
    "in a string": 'CODE = "x = 1\\n" * 9\nexec(CODE)\n',
    "in its own source": (
        "import inspect\n\n\ndef f():\n    'x = 1'\n\n\nrun = eval\nrun(inspect.getsource(f).split(\"'\")[1])\n"
    ),
    "behind a name of a module": '__import__("builtins").exec("x = 1")\n',
}

CARRIED = {
    "in a string": f"TEXT = {''.join(CHANCE.choices('abcdefghijklmnop', k=9_000))!r}\n",
    "in numbers": f"TEXT = {[CHANCE.randrange(10**9) for _ in range(1_000)]}\n",
    "in names": "".join(f"{''.join(CHANCE.choices('abcdefgh', k=12))} = 1\n" for _ in range(1_000)),
    "in white space": "x = (1,\n" + "".join(" " * CHANCE.randrange(50) + "\n" for _ in range(3_000)) + ")\n",
}

TEXT_ATTACKS: list[Attack] = [
    *(
        Attack(
            number=27,
            name=f"ends whoever reads it: {name}",
            by_its_text=True,
            tries="end the judge or the farm, not the run",
            train_py=HONEST + "\n\n" + text,
            statuses=("crash", "invalid"),
            reason="nested more than|bits|surrogate|finally|can't be seen",
            sample=name in ("a sum of many names", "a `finally` copied a million times", "words in variation selectors"),
        )
        for name, text in UNREADABLE.items()
    ),
    *(
        Attack(
            number=23,
            name=f"fixes the seed {how}",
            by_its_text=True,
            tries="have each run be the same one",
            train_py=variant(("def train(session):\n", f"def train(session):\n    {code}\n"), text=HONEST),
            statuses=("invalid",),
            reason="sets its own seed",
            sample=how == "by an attribute of the session",
        )
        for how, code in SEEDS.items()
    ),
    *(
        Attack(
            number=10,
            name=f"hides its code {where}",
            by_its_text=True,
            tries="be priced as a short program",
            train_py=variant((BUILD, code + "\n\n" + BUILD), text=HONEST),
            statuses=("invalid",),
            reason="executes no text",
            sample=where == "in its comments",
        )
        for where, code in HIDDEN_CODE.items()
    ),
    *(
        Attack(
            number=10,
            name=f"carries text {where}",
            by_its_text=True,
            tries="hold what it should learn",
            train_py=HONEST + "\n\n" + text,
            statuses=("invalid",),
            reason="the limit is",
            sample=where == "in names",
        )
        for where, text in CARRIED.items()
    ),
    Attack(
        number=10,
        name="reads text in its comments",
        tries="hold what it should learn",
        train_py=before_the_end(
            """
            from sys import modules
            path = next(value for name, value in vars(modules["train"]).items() if name.strip("_") == "file")
            text = Path(path).read_text()
            if "it was " + "the best of times" in text:
                print("LEAK a comment of its own", flush=True)
            """,
            text=HONEST + "\n# it was the best of times\n",
        ),
    ),
]
