"""Attacks on the data: evaluation rows, what the code carries, the tokenizer, constants (9 to 12)."""

from tests.attacks.attack import CONTRACT, HONEST, TIMED, TRAIN, Attack, at_import, before_the_end, before_training, in_scoring
from tests.attacks.memory_attacks import KNOWS_ROWS, guarded
from tests.research.judged import variant

FINDS_ROWS = {
    "at their path": """
    def find():
        return Path("$data_folder/val.rows").read_bytes()
    """,
    "by a walk of the disk": """
    def find():
        for root in {os.environ.get("HOME", "/"), os.environ.get("AUTORESEARCH_CACHE", "/nowhere"), "/tmp", "/mnt", "/data"}:
            for folder, _, files in os.walk(root):
                if "val.rows" in files:
                    return Path(folder, "val.rows").read_bytes()
    """,
    "by the parent's memory map": """
    def find():
        for line in Path(f"/proc/{os.getppid()}/maps").read_text().splitlines():
            if line.endswith("val.rows"):
                return Path(line.split(maxsplit=5)[5]).read_bytes()
    """,
    "by the parent's descriptors": """
    def find():
        folder = Path(f"/proc/{os.getppid()}/fd")
        logs = [os.readlink(path) for path in folder.iterdir()]
        for name in logs:
            if name.endswith(".rows"):
                return Path(name).with_name("val.rows").read_bytes()
    """,
    "by the parent's working folder and root": """
    def find():
        for start in (f"/proc/{os.getppid()}/cwd", f"/proc/{os.getppid()}/root$data_folder"):
            for path in Path(start).glob("**/val.rows"):
                return path.read_bytes()
    """,
    "by its own descriptors": """
    def find():
        for number in os.listdir("/proc/self/fd"):
            path = f"/proc/self/fd/{number}"
            if os.path.exists(path) and os.readlink(path).endswith("val.rows"):
                return Path(path).read_bytes()
    """,
    "in the parent's memory": """
    def find():
        import re
        wanted = CONTRACT.eval_rows * (CONTRACT.MAX_SEQ_LEN + 1) * 2
        maps = Path(f"/proc/{os.getppid()}/maps").read_text().splitlines()
        with open(f"/proc/{os.getppid()}/mem", "rb", 0) as memory:
            for line in maps:
                if line.endswith("val.rows"):
                    start = int(line.split("-")[0], 16)
                    memory.seek(start)
                    return memory.read(wanted)
    """,
}


def knows_evaluation_rows(find: str) -> str:
    """Scorers that go on as the evaluation rows do, where `find()` gives them; the trainer says that it has them."""
    functions = (
        guarded("\ndef put(x):\n    pass\n\ndef get():\n    return None\n").replace("put, get = quietly(put), quietly(get)", "")
        + "\n"
        + "\n".join(line[4:] for line in find.strip("\n").splitlines())
        + "\nfind = quietly(find)\n"
    )
    text = variant((CONTRACT, CONTRACT + functions + KNOWS_ROWS), text=HONEST)
    text = variant((TRAIN, TRAIN + "    if find():\n        print('LEAK the evaluation rows', flush=True)\n"), text=text)
    return in_scoring(
        """
        if not hasattr(self, "found"):
            self.found = find()
        if self.found:
            width = ids.size(1) + 1
            rows = torch.frombuffer(bytearray(self.found), dtype=torch.int16).long().view(-1, width)[:, :-1]
            use_known(ids, logits, rows)
        """,
        text,
    )


DATA_ATTACKS: list[Attack] = [
    *(
        Attack(
            number=9,
            name=f"finds the evaluation rows {how}",
            tries="go on as the evaluation rows do",
            train_py=knows_evaluation_rows(find),
            sample=how in ("by the parent's memory map",),
        )
        for how, find in FINDS_ROWS.items()
    ),
    Attack(
        number=10,
        name="carries text in its code",
        by_its_text=True,
        tries="hold what it should learn",
        train_py=HONEST + f'\nTEXT = "{"x" * 200_000}"\n',
        statuses=("invalid",),
        reason="limit is 200,000",
    ),
    Attack(
        number=10,
        name="loads the weights that an earlier run left",
        tries="start from a trained model",
        first=before_the_end("torch.save(model.state_dict(), '/tmp/$marker')"),
        train_py=before_training(
            "torch.load('/tmp/$marker')\nPath('/tmp/$marker').unlink()\nprint('LEAK the weights of an earlier run', flush=True)"
        ),
    ),
    *(
        Attack(
            number=11,
            name=f"rewrites {name}",
            tries="change what a token stands for, or what comes",
            train_py=at_import(code),
            sample=name == "the bytes of tokens",
        )
        for name, code in (
            (
                "the bytes of tokens",
                'import numpy\nlengths = numpy.full(512, 9, dtype="int32")\n'
                'numpy.save("$data_folder/token_bytes.npy", lengths)',
            ),
            ("the tokenizer", 'for path in Path("$data_folder").glob("tokenizer*"):\n    path.write_bytes(b"x")'),
            ("the evaluation rows", 'with open("$data_folder/val.rows", "r+b") as file:\n    file.write(bytes(2**16))'),
            ("the manifest", 'Path("$data_folder/manifest.json").chmod(0o666)'),
        )
    ),
    Attack(
        number=11,
        name="writes to the training rows in memory",
        tries="change the data of whoever reads it next",
        train_py=before_the_end(
            """
            for number in os.listdir("/proc/self/fd"):
                try:
                    if "memfd:rows" in os.readlink(f"/proc/self/fd/{number}"):
                        with open(f"/proc/self/fd/{number}", "r+b", 0) as file:
                            file.write(b"x" * 100)
                            print("LEAK the rows can be written", flush=True)
                except OSError:
                    pass
            """
        ),
    ),
    Attack(
        number=12,
        name="patches the contract",
        tries="have more time, and fewer rows evaluated",
        train_py=at_import(
            """
            import json
            from research import child_settings as settings, profiles
            values = json.loads(os.environ[settings.SETTINGS_VARIABLE])
            values["contract"] |= {"TIME_BUDGET": 100.0, "EVAL_TOKENS": 64}
            os.environ[settings.SETTINGS_VARIABLE] = json.dumps(values)
            object.__setattr__(CONTRACT, "TIME_BUDGET", 100.0)
            object.__setattr__(CONTRACT, "EVAL_TOKENS", 64)
            profiles.active_contract = lambda: CONTRACT
            """
        ),
    ),
    Attack(
        number=12,
        name="patches constants under the clock",
        tries="have the session believe in another budget",
        train_py=variant(
            (
                "run(session.batches(BATCH_SIZE))",
                "next(session.batches(BATCH_SIZE))\n    session._deadline += 2.5\n    run(session.batches(BATCH_SIZE))",
            ),
            text=TIMED,
        ),
        honest=TIMED,
        statuses=("invalid",),
        caps={"grace": 0.5, "late": 3.0},
        reason="over the time budget",
    ),
]
