"""A farm of one CPU device whose researcher proposes what ends judges, and an honest edit every fifth time.

uv run python -m tests.attacks.judge_killers --runs 100 [--budget 1] [--keep FOLDER]

Its rule is the greedy one, under which the farm adds no ideas of its own to the researcher's. None of the runs may be lost, the
device may not be quarantined, and the honest edits must all have a score. The last line is JSON; the exit status is 0 if all is
well. It needs Linux, and neither a GPU nor Ray.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from itertools import cycle
from pathlib import Path
from typing import Any

from tests.attacks.attack import HONEST
from tests.attacks.killer_texts import head, killer_texts, with_rate
from tests.cluster.tiny_checkout import make_checkout
from tests.research.judged import write_documents

HONEST_EVERY = 5

HONEST_TITLE = "honest: another learning rate"

PROPOSE = """
import sys
from pathlib import Path

here = Path(__file__).parent
number = int((here / "next").read_text())
(here / "next").write_text(str(number + 1))
Path("research/train.py").write_bytes((here / f"{number}.py").read_bytes())
Path("IDEA.md").write_text((here / f"{number}.title").read_text())
"""
"""The researcher's command: it hands over the next of the proposals beside it."""

COLUMNS = "e.id, e.title, e.kind, r.status, json_extract_string(r.record, '$.reason')"
"""What is asked of every run."""


def write_proposals(folder: Path, count: int) -> None:
    """Proposals as files, each another program: a number is set in it that nothing reads."""
    killers = list(killer_texts().items())
    random.Random(1).shuffle(killers)
    texts = cycle(killers)
    folder.mkdir()
    for number in range(count):
        if number % HONEST_EVERY == HONEST_EVERY - 1:
            title, text = HONEST_TITLE, with_rate(HONEST, rate=round(0.02 + number / 10_000, 4))
        else:
            title, text = next(texts)
            text = f"{with_rate(text)}\nPROPOSAL_{number} = 'nothing reads it'\n"
        (folder / f"{number}.py").write_text(text)
        (folder / f"{number}.title").write_text(f"{title} (proposal {number})\n")
    (folder / "next").write_text("0")
    (folder / "propose.py").write_text(PROPOSE)


def farm(checkout: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """A command of the farm, as a user types it. What it says goes to stderr."""
    command = [sys.executable, "-m", "cluster.cli", *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("FARM_", "GIT_", "AUTORESEARCH_"))}
    output = subprocess.PIPE if arguments[0] == "sql" else sys.stderr
    return subprocess.run(command, cwd=checkout, env=environment, stdout=output, text=True, check=False)


def run(folder: Path, *, runs: int, budget: float) -> dict[str, Any]:
    """The farm's whole life in `folder`, and what became of its runs."""
    (folder / "texts").mkdir()
    write_documents(folder / "texts", documents=4000, words=2000, seed=1)
    checkout = make_checkout(folder / "checkout", folder / "cache")
    checkout.train_py.write_text(head())
    checkout.git("commit", "--quiet", "-am", "the head that proposals edit")
    write_proposals(folder / "proposals", 2 * runs)
    home, cache = ("--home", str(folder / "home")), ("--cache", str(folder / "cache"))
    terms = ("--profile", "cpu", "--budget", str(budget), "--source", f"files:{folder / 'texts'}", *cache)
    command = f"command:{sys.executable} {folder / 'proposals' / 'propose.py'}"
    ended = farm(
        checkout.folder, "run", *terms, *home, "--devices", "cpu", "--engine", "local", "--loops", "1", "--tag", "kill",
        "--rule", "greedy",
        "--researcher", command, "--agent-writes", str(folder / "proposals"), "--experiments", str(runs),
    )  # fmt: skip
    rows = json.loads(farm(checkout.folder, "sql", *home, "--json", f"SELECT {COLUMNS} FROM runs r JOIN experiments e"
                           " ON e.id = r.experiment_id ORDER BY r.seq").stdout)["rows"]  # fmt: skip
    states = json.loads(
        farm(checkout.folder, "sql", *home, "--json", "SELECT record ->> '$.state' FROM events WHERE kind = 'worker'").stdout
    )["rows"]
    return summary([tuple(row) for row in rows], [state for (state,) in states]) | {"farm": ended.returncode}


def summary(rows: list[tuple[str, str, str, str, str]], states: list[str]) -> dict[str, Any]:
    """What became of the runs: one row each, with the experiment's id, title and kind, and the run's status and reason."""
    honest = {identity for identity, title, *_ in rows if title.startswith(HONEST_TITLE)}
    judged = {identity for identity, _, _, status, _ in rows if identity in honest and status == "ok"}
    lost = [f"{title}: {reason}" for _, title, _, status, reason in rows if status == "lost"]
    return {
        "runs": len(rows),
        "proposals_run": len({identity for identity, *_ in rows}),
        "statuses": dict(Counter(status for *_, status, _ in rows)),
        "lost": len(lost),
        "lost_runs": lost[:10],
        "controls": sum(kind == "control" for _, _, kind, *_ in rows),
        "quarantined": states.count("quarantined"),
        "honest": len(honest),
        "honest_judged": len(judged),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100, help="experiments, the baseline among them")
    parser.add_argument("--budget", type=float, default=1.0, help="seconds of training per run")
    parser.add_argument("--keep", type=Path, help="an empty folder for all that the farm leaves, instead of a temporary one")
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="judge-killers-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        found = run(folder.resolve(), runs=options.runs, budget=options.budget)
    finally:
        if options.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(found))
    good = found["lost"] == found["quarantined"] == found["farm"] == 0 and found["honest"] == found["honest_judged"] > 0
    return int(not good)


if __name__ == "__main__":
    raise SystemExit(main())
