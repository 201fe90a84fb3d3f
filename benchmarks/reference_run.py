"""Runs a reference train.py in a subprocess, unchanged or with edits, and parses its log.

Every edit must match: if the reference has changed so that one does not, a UserError names it.
"""

import os
import re
import site
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.reference_figures import UNTIMED_STEPS, Figures
from research.contract import Contract
from research.errors import UserError
from research.hyperparameters import read_constants, write_constants
from research.kernels.attention import CHOICE_VARIABLE
from research.recipes import STANDARD, Constant

ROOT = Path(__file__).parent.parent

TIMEOUT_MARGIN_SECONDS = 1200.0
"""Seconds that a run may take beyond its budget."""

TAIL_LINES = 30
"""Lines of the log of a failed run to report."""

_STEP = re.compile(r"step (\d+) \([\d.]+%\) \| loss: (\S+) \|.*?\| dt: \d+ms \| tok/sec: ([\d,]+) \| mfu: ([\d.]+)%", re.ASCII)
_SUMMARY = re.compile(r"^(\w+): +(-?[\d.]+)$", re.MULTILINE)


# --- edits ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Edit:
    """A textual replacement: `pattern` is a regular expression that must match, `new` its replacement."""

    pattern: str
    new: str


def _decay(parameters: str, name: str) -> Edit:
    """Sets the weight decay of one of Adam's parameter groups to the constant `name` of STANDARD."""
    return Edit(pattern=rf"(params={parameters},.*weight_decay=)0\.0", new=rf"\g<1>{STANDARD[name]}")


NIGHT_EDITS = (
    Edit(pattern=r"long_window // 2\b", new=f"int(long_window * {STANDARD['SHORT_WINDOW_RATIO']})"),
    Edit(pattern=r"base=10000\b", new=f"base={STANDARD['ROPE_BASE']}"),
    Edit(pattern=r"\bs = 3\*\*0\.5", new=f"s = {STANDARD['INIT_SCALE']} * 3**0.5"),
    Edit(pattern=r"(x0_lambdas\.fill_)\(0\.1\)", new=rf"\1({STANDARD['X0_LAMBDA']})"),
    Edit(pattern=r"step / 300\b", new=f"step / {STANDARD['MUON_WARMUP_STEPS']}"),
    _decay("embedding_params", "EMBEDDING_DECAY"),
    _decay("value_embeds_params", "VALUE_EMBEDDING_DECAY"),
    _decay("lm_head_params", "UNEMBEDDING_DECAY"),
)
"""The changes of the published night other than constants. Their values are those of our STANDARD recipe, which is from that
night."""

CPU_EDITS = (
    Edit(pattern=r"torch\.cuda\.get_device_capability\(\)", new="(9, 0)"),
    Edit(pattern=r"torch\.cuda\.synchronize\(\)", new="None"),
    Edit(pattern=r"torch\.cuda\.max_memory_allocated\(\)", new="0"),
    Edit(pattern=r'(device|device_type=)(\(?)"cuda"', new=r'\1\2"cpu"'),
)
CPU_PREPARE_EDITS = (
    Edit(pattern=r"pin_memory=True", new="pin_memory=False"),
    Edit(pattern=r'device="cuda"', new='device="cpu"'),
)
"""Edits of prepare.py that, with CPU_EDITS, let the reference run without a GPU: only for smoke tests, not for measurements."""


def seed_edit(seed: int) -> Edit:
    """Replaces the reference's fixed seed."""
    return Edit(pattern=r"manual_seed\(42\)", new=f"manual_seed({seed})")


def edited(text: str, edits: Sequence[Edit]) -> str:
    """`text` with all `edits` applied. Raises UserError if one does not match."""
    for edit in edits:
        text, count = re.subn(edit.pattern, edit.new, text)
        if not count:
            raise UserError(
                f"Nothing in the reference matches {edit.pattern!r}: use the version that this benchmark was written for."
            )
    return text


def with_constants(text: str, values: Mapping[str, Constant]) -> str:
    """`text` with its constants set to `values`; unchanged if they have these values already."""
    present = read_constants(text)
    return write_constants(text, {name: value for name, value in values.items() if present.get(name) != value})


# --- running ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A reference, and where and how it runs."""

    folder: Path
    """Folder of the reference's train.py and prepare.py; never written to."""
    work: Path
    """Folder that holds `home` and `stand-ins` (see reference_home), and a folder for each run."""
    contract: Contract
    visible_device: str
    """CUDA_VISIBLE_DEVICES of the reference's processes; empty without a GPU."""
    attention: str | None = None
    """The attention kernel that our runs on this machine use; None: the first that supports the inputs."""

    def train_py(self) -> str:
        return (self.folder / "train.py").read_text()

    def write_run_folder(self, folder: Path, train_py: str) -> None:
        """Writes `train_py`, and the reference's prepare.py with our contract's constants, into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        budget = self.contract.TIME_BUDGET
        constants = {"MAX_SEQ_LEN": self.contract.MAX_SEQ_LEN, "EVAL_TOKENS": self.contract.EVAL_TOKENS}
        prepare_py = with_constants(
            (self.folder / "prepare.py").read_text(),
            {**constants, "TIME_BUDGET": int(budget) if budget.is_integer() else budget},
        )
        if not self.visible_device:
            train_py, prepare_py = edited(train_py, CPU_EDITS), edited(prepare_py, CPU_PREPARE_EDITS)
        (folder / "train.py").write_text(train_py)
        (folder / "prepare.py").write_text(prepare_py)

    def environment(self) -> dict[str, str]:
        """Environment of the reference's processes: home, modules and compile caches are in `work` and shared by its runs."""
        home = self.work / "home"
        paths = [str(self.work / "stand-ins"), str(ROOT), os.environ.get("PYTHONPATH", "")]
        chosen = {
            "HOME": str(home),
            "PYTHONUSERBASE": site.getuserbase(),  # by default derived from HOME
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "CUDA_VISIBLE_DEVICES": self.visible_device,
            "TORCHINDUCTOR_CACHE_DIR": str(self.work / "compiled" / "inductor"),
            "TRITON_CACHE_DIR": str(self.work / "compiled" / "triton"),
        }
        if self.attention is not None:
            chosen[CHOICE_VARIABLE] = self.attention
        if not self.visible_device:
            chosen["TORCHDYNAMO_DISABLE"] = "1"
        return {**os.environ, **chosen}

    def run(self, name: str, *, variant: str, seed: int, train_py: str) -> Figures:
        """Runs `train_py` once in the folder `name`. If the run fails, its reason is the tail of its log."""
        folder = self.work / "runs" / name
        self.write_run_folder(folder, edited(train_py, [seed_edit(seed)]))
        log = folder / "run.log"
        began = time.monotonic()
        code = run_logged(
            [sys.executable, "train.py"],
            folder=folder,
            environment=self.environment(),
            log=log,
            seconds=self.contract.TIME_BUDGET + TIMEOUT_MARGIN_SECONDS,
        )
        wall = time.monotonic() - began
        text = log.read_text(errors="replace")
        summary = parse_summary(text)
        if code or "val_bpb" not in summary:
            return Figures(variant=variant, seed=seed, status="failed", reason=f"exit status {code}\n{tail(text)}")
        batch = read_constants(train_py).get("TOTAL_BATCH_SIZE")
        return figures_of(text, variant=variant, seed=seed, batch=batch if isinstance(batch, int) else 0, wall=wall)


def run_logged(command: Sequence[str], *, folder: Path, environment: Mapping[str, str], log: Path, seconds: float) -> int:
    """Runs `command` with its output in `log`; returns its exit status, or -1 if it was killed after `seconds`."""
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            return process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            output.write(f"\nkilled after {seconds:.0f} s\n")
            return -1
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


# --- its log ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step line of the reference's log."""

    number: int
    loss: float
    """Smoothed training loss in nats per token."""
    tokens_per_second: float
    mfu_percent: float


def parse_steps(log: str) -> list[Step]:
    """All step lines; the reference separates them by carriage returns."""
    return [
        Step(number=int(n), loss=float(loss), tokens_per_second=float(speed.replace(",", "")), mfu_percent=float(mfu))
        for n, loss, speed, mfu in _STEP.findall(log)
    ]


def parse_summary(log: str) -> dict[str, float]:
    """The `name: value` lines after the last `---`; empty if there is none."""
    _, found, summary = log.rpartition("\n---\n")
    return {name: float(value) for name, value in _SUMMARY.findall(summary)} if found else {}


def figures_of(log: str, *, variant: str, seed: int, batch: int, wall: float) -> Figures:
    """Figures from the log of a successful run; `batch` is in tokens per step, `wall` in seconds of the whole process."""
    summary = parse_summary(log)
    speeds = [step.tokens_per_second for step in parse_steps(log) if step.number >= UNTIMED_STEPS and step.tokens_per_second]
    steps = round(summary["num_steps"])
    return Figures(
        variant=variant,
        seed=seed,
        status="ok",
        own_bpb=summary["val_bpb"],
        reference_bpb=summary["val_bpb"],
        tokens_per_second=statistics.harmonic_mean(speeds) if speeds else None,  # all steps have the same number of tokens
        median_tokens_per_second=statistics.median(speeds) if speeds else None,
        mfu_percent=summary.get("mfu_percent"),
        steps=steps,
        tokens=steps * batch,
        num_params=round(summary["num_params_M"] * 1e6) if "num_params_M" in summary else None,
        allocated_mb=summary.get("peak_vram_mb"),
        training_seconds=summary["training_seconds"],
        outside_seconds=wall - summary["training_seconds"],
    )


def tail(log: str) -> str:
    """The last TAIL_LINES lines of a log; of each line only the text after its last carriage return."""
    lines = [line.rstrip("\r").rpartition("\r")[2] for line in log.strip().split("\n")]
    return "\n".join(lines[-TAIL_LINES:])
