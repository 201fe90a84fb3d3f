"""Honest train.py files of many kinds: the judge must let each of them through, with the score that it has by itself."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import ModuleType

import numpy as np
import torch
from safetensors.torch import load_file

from research.child_settings import ChildSettings
from research.data.prepared import PreparedData
from research.hyperparameters import write_constants
from research.run import SHIPPED_TRAIN_PY
from tests.attacks.attack import FINISH, FORWARD, HONEST, LAYERS, TIMED, lines
from tests.attacks.harness import Harness
from tests.research.judged import Run, variant

LOSS = "loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())"
STEP = "optimizer.step()\n"


@dataclass(frozen=True, kw_only=True)
class Control:
    """An honest train.py."""

    name: str
    train_py: str
    budget: float = 1.0
    slow: bool = False
    sample: bool = False
    gpu: bool = False
    """Whether it wants a GPU."""


def model(layers: str, forward: str, text: str = HONEST) -> str:
    """`text` with `layers` added to its model, and another forward."""
    if layers:
        text = variant((LAYERS, lines(layers, 8) + LAYERS), text=text)
    return variant((FORWARD, lines(forward, 8).strip()), text=text)


BASELINE = write_constants(
    SHIPPED_TRAIN_PY.read_text(),
    {"PROFILE": "cpu", "DEPTH": 2, "ASPECT_RATIO": 16, "HEAD_DIM": 32, "WINDOW_PATTERN": "L", "TOTAL_BATCH_SIZE": 512,
     "DEVICE_BATCH_SIZE": 4},
)  # fmt: skip

EXPERTS = model(
    "self.gate = nn.Linear(16, 4)\nself.experts = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))",
    """
    x = self.embedding(ids)
    weights, chosen = self.gate(x).softmax(-1).topk(2, dim=-1)
    y = torch.zeros_like(x)
    for n, expert in enumerate(self.experts):
        y = y + expert(x) * (weights * (chosen == n)).sum(-1, keepdim=True)
    return self.out(x + y)
    """,
)

ROUTED_EXPERTS = model(
    "self.gate = nn.Linear(16, 4)\nself.experts = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))",
    """
    x = self.embedding(ids)
    flat = x.flatten(0, 1)
    weight, chosen = self.gate(flat).softmax(-1).max(-1)
    y = torch.zeros_like(flat)
    for n, expert in enumerate(self.experts):
        (here,) = (chosen == n).nonzero(as_tuple=True)
        y = y.index_add(0, here, weight[here, None] * expert(flat[here]))
    return self.out(x + y.view_as(x))
    """,
)

ATTENTION_IN_CHUNKS = model(
    "self.query, self.key, self.value = (nn.Linear(16, 16) for _ in range(3))",
    """
    x = self.embedding(ids)
    q, k, v = self.query(x), self.key(x), self.value(x)
    at = torch.arange(ids.size(1), device=ids.device)
    parts = []
    for start in range(0, ids.size(1), 24):
        scores = q[:, start : start + 24] @ k.mT / 4.0
        future = at[None, :] > at[start : start + 24, None]
        parts.append(scores.masked_fill(future, -float("inf")).softmax(-1) @ v)
    return self.out(x + torch.cat(parts, dim=1))
    """,
)

HASHED_NGRAMS = model(
    "self.pairs, self.triples = nn.Embedding(997, 16), nn.Embedding(1009, 16)",
    """
    before = F.pad(ids, (1, 0))[:, :-1]
    earlier = F.pad(ids, (2, 0))[:, :-2]
    pairs = (ids * 31 + before * 17) % 997
    triples = (ids * 31 + before * 17 + earlier * 7) % 1009
    return self.out(self.embedding(ids) + self.pairs(pairs) + self.triples(triples))
    """,
)

NGRAMS_OF_FOUR = model(
    "self.fours = nn.Embedding(2003, 16)",
    """
    bucket = ids
    for distance in (1, 2, 3):
        bucket = (bucket * 257 + F.pad(ids, (distance, 0))[:, :-distance]) % 2003
    return self.out(self.embedding(ids) + self.fours(bucket))
    """,
)

THREE_GIB = model(
    "self.pairs = nn.Embedding.from_pretrained(torch.zeros(3 * 2**24, 16), freeze=False)",
    """
    before = F.pad(ids, (1, 0))[:, :-1]
    return self.out(self.embedding(ids) + self.pairs((ids * 40503 + before * 2654435761) % (3 * 2**24)))
    """,
    text=TIMED,
)

COUNTS_WITHIN_ITS_ROW = model(
    "",
    """
    logits = self.out(self.embedding(ids))
    if self.training:
        return logits
    same = (ids[:, :, None] == ids[:, None, :]).tril(-1)[:, :, :-1]  # where this token was before, and what came next
    counts = same.float() @ F.one_hot(ids[:, 1:], CONTRACT.VOCAB_SIZE).float()
    return logits + 0.5 * (1 + counts).log()
    """,
)

RECURRENT = model("self.cell = nn.GRU(16, 16, batch_first=True)", "return self.out(self.cell(self.embedding(ids))[0])")

GATED_LINEAR_RECURRENCE = model(
    "self.gate, self.value = nn.Linear(16, 16), nn.Linear(16, 16)",
    """
    x = self.embedding(ids)
    gates = torch.sigmoid(self.gate(x) + 2.0)
    state = (1 - gates) * self.value(x)
    distance = 1
    while distance < ids.size(1):  # state = gates * state of the token before + (1 - gates) * value, for all tokens at once
        state = state + gates * F.pad(state, (0, 0, distance, 0))[:, :-distance]
        gates = gates * F.pad(gates, (0, 0, distance, 0))[:, :-distance]
        distance *= 2
    return self.out(x + state)
    """,
)

CUMULATIVE_STATISTICS = model(
    "",
    """
    x = self.embedding(ids)
    count = torch.arange(1, ids.size(1) + 1, device=ids.device)[:, None]
    mean = x.cumsum(1) / count
    variance = (x.square().cumsum(1) / count - mean.square()).clamp_min(0)
    return self.out(x + (x - mean) / (variance + 1e-2).sqrt())
    """,
)

LONG_CONVOLUTION = model(
    "self.kernel = nn.Parameter(torch.randn(16, CONTRACT.MAX_SEQ_LEN) / 8)",
    """
    x, length = self.embedding(ids), 2 * ids.size(1)  # zeros after the row: its end doesn't come round
    spectrum = torch.fft.rfft(x.mT, n=length) * torch.fft.rfft(self.kernel, n=length)
    return self.out(x + torch.fft.irfft(spectrum, n=length)[..., : ids.size(1)].mT)
    """,
)

CAUSAL_CONVOLUTION = model(
    "self.mix = nn.Conv1d(16, 16, 4)",
    "x = self.embedding(ids)\nreturn self.out(x + self.mix(F.pad(x.mT, (3, 0))).mT)",
)

TIED = variant(
    ("self.out = nn.Linear(16, CONTRACT.VOCAB_SIZE)", "self.bias = nn.Parameter(torch.zeros(CONTRACT.VOCAB_SIZE))\n"
     "        self.mix = nn.Linear(16, 16)"),
    (FORWARD, "return self.mix(self.embedding(ids)) @ self.embedding.weight.T + self.bias"),
    text=HONEST,
)  # fmt: skip

AVERAGED = variant(
    ("    step = 0\n", "    step = 0\n    average = torch.optim.swa_utils.AveragedModel(model, "
     "multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.95))\n"),
    (STEP, STEP + "            average.update_parameters(model)\n"),
    (FINISH, "    model = average.module\n" + FINISH),
    text=HONEST,
)  # fmt: skip

SLOW_AT_FIRST = model(
    "",
    """
    if not self.training and ids.any() and not hasattr(self, "warm"):  # before its answers, a scorer tries rows of zeros
        self.warm = time.sleep(2.0) or True
    return self.out(self.embedding(ids))
    """,
)

COMPILED = variant(("return Model()", "model = Model()\n    model.compile()\n    return model"), text=HONEST)

CONTROLS: tuple[Control, ...] = (
    Control(name="the baseline", train_py=BASELINE, sample=True),
    Control(name="the baseline with sliding windows", train_py=write_constants(BASELINE, {"WINDOW_PATTERN": "SL"})),
    Control(name="the baseline with one row a batch", train_py=write_constants(BASELINE, {"DEVICE_BATCH_SIZE": 1})),
    Control(name="the smallest one", train_py=HONEST),
    Control(name="experts by the token's choice", train_py=EXPERTS),
    Control(name="experts that get the tokens routed to them", train_py=ROUTED_EXPERTS, sample=True),
    Control(name="tied weights", train_py=TIED),
    Control(
        name="label smoothing",
        train_py=variant((LOSS, LOSS.replace("y.flatten())", "y.flatten(), label_smoothing=0.1)")), text=HONEST),
    ),
    Control(name="z-loss", train_py=variant((LOSS, LOSS + " + 1e-3 * model(x).logsumexp(-1).square().mean()"), text=HONEST)),
    Control(name="hashed n-grams of the past", train_py=HASHED_NGRAMS),
    Control(name="hashed n-grams of four tokens", train_py=NGRAMS_OF_FOUR),
    Control(name="counts within its own row", train_py=COUNTS_WITHIN_ITS_ROW),
    Control(name="a recurrent network", train_py=RECURRENT),
    Control(name="a gated linear recurrence", train_py=GATED_LINEAR_RECURRENCE),
    Control(name="cumulative statistics along the row", train_py=CUMULATIVE_STATISTICS),
    Control(name="a long convolution by FFT", train_py=LONG_CONVOLUTION, sample=True),
    Control(name="a causal convolution", train_py=CAUSAL_CONVOLUTION),
    Control(name="attention of its own, in chunks", train_py=ATTENTION_IN_CHUNKS, sample=True),
    Control(name="batches of 7", train_py=variant(("BATCH_SIZE = 8", "BATCH_SIZE = 7"), text=HONEST)),
    Control(name="batches of 1", train_py=variant(("BATCH_SIZE = 8", "BATCH_SIZE = 1"), text=HONEST)),
    Control(name="weights averaged at the end", train_py=AVERAGED),
    Control(name="slow at its first rows", train_py=SLOW_AT_FIRST),
    Control(
        name="weights in bfloat16",
        train_py=variant(
            (FINISH, "    model.bfloat16()\n" + FINISH), (FORWARD, "return self.out(self.embedding(ids)).float()"), text=HONEST
        ),
    ),
    Control(
        name="logits in half precision",
        train_py=variant(
            (FORWARD, "logits = self.out(self.embedding(ids))\n        return logits if self.training else logits.half()"),
            text=HONEST,
        ),
    ),
    Control(
        name="dropout",
        train_py=variant((FORWARD, "return self.out(F.dropout(self.embedding(ids), 0.1, self.training))"), text=HONEST),
    ),
    Control(name="compiled", train_py=COMPILED, slow=True),
    Control(name="3 GiB of hashed pairs", train_py=THREE_GIB, budget=4.0, gpu=True),
)


@contextmanager
def variables(**values: str) -> Iterator[None]:
    kept = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(kept)


def score_by_itself(harness: Harness, control: Control, run: Run) -> float:
    """Bits per byte of the model that the run left, computed here on its device: in order, 7 rows at a time, in one process."""
    device = torch.device(harness.runner.device)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # as in a scorer: a tie between two experts goes to another one else
    contract = replace(harness.runner.contract, TIME_BUDGET=control.budget)
    data = PreparedData.load(harness.runner.data_folder)
    with variables(**ChildSettings(contract=contract).environment()):
        module = ModuleType("train")
        sys.modules["train"] = module
        exec(compile(control.train_py.replace("    model.compile()\n", ""), "train.py", "exec"), module.__dict__)
        network = module.build_model()
    network.load_state_dict(load_file(run.folder / "model.safetensors"))
    network.to(device).eval()
    lengths = torch.from_numpy(data.token_bytes().astype(np.int64))
    rows = torch.from_numpy(np.asarray(data.load_rows("val")[: contract.eval_rows]).astype(np.int64))
    nats, total = 0.0, 0
    with torch.inference_mode():
        for part in torch.split(rows, 7):
            x, y = part[:, :-1], part[:, 1:]
            logs = network(x.to(device)).cpu().double().log_softmax(-1)
            loss = -logs.gather(2, y[..., None])[..., 0]
            nats += float(loss[lengths[y] > 0].sum())
            total += int(lengths[y].sum())
    return nats / total / float(np.log(2))


def judge_honest(harness: Harness, control: Control, *, seed: int = 1) -> tuple[Run, float | None]:
    """Runs an honest train.py with all rows checked: the run, and the score that its model has by itself."""
    contract = replace(harness.runner.contract, TIME_BUDGET=control.budget)
    caps = {"answers": 120.0, "startup": 240.0}  # a compiler on a busy machine
    run = harness.run(control.train_py, contract=contract, seed=seed, save_model=True, caps=caps, patience=600.0)
    harness.surroundings.restore()
    return run, score_by_itself(harness, control, run) if run.result.status == "ok" else None


def control_row(harness: Harness, control: Control, repeats: int) -> tuple[str, bool]:
    """A line of the table of controls, and whether all is well: the last run, how many of all were fine, and the largest
    difference from what the model scores by itself."""
    allowed = 1e-4 if harness.runner.device == "cpu" else 5e-4  # scorers on a GPU compile, which rounds bfloat16 less often
    fine, worst, bad = 0, 0.0, ""
    for seed in range(1, repeats + 1):
        run, expected = judge_honest(harness, control, seed=seed)
        found = run.result.val_bpb
        if found is None or expected is None or abs(found - expected) > allowed:
            difference = "" if found is None or expected is None else f", {found - expected:+.1e} from what it scores by itself"
            bad = f"{run.result.status}: {run.result.reason}{difference}"
            continue
        fine, worst = fine + 1, max(worst, abs(found - expected))
    cells = [control.name, f"{fine} of {repeats}", f"{worst:.1e}", bad]
    return "| " + " | ".join(cells) + " |\n", fine == repeats
