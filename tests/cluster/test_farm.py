"""The farm as a whole, by its commands: real git, real judge, real DuckDB, on a train.py that learns in a second."""

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import duckdb
import psutil

from cluster.commands.look import NOT_COMPARABLE
from results.journal import read_journal
from tests.cluster.farm_samples import write_text
from tests.cluster.forked_farm import Cheaper
from tests.cluster.ray_samples import living
from tests.cluster.tiny_checkout import BAD_LR, GOOD_LR, Checkout
from tests.in_time import in_time

TERMS = ("--devices", "cpu", "--budget", "1")


def wait_for(what: str, condition, seconds: float = 120.0) -> None:
    """Polls until `condition()` is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within {seconds:.0f} s"
        time.sleep(0.1)


def processes_with(marker: str) -> list[int]:
    """Processes that have `marker` in their command line or environment."""
    found = []
    for process in psutil.process_iter():
        try:
            words = [*process.cmdline(), *process.environ().values()]
        except psutil.Error:
            continue
        if any(marker in word for word in words) and process.pid != os.getpid():
            found.append(process.pid)
    return found


def test_killed_and_gone_on_with(checkout: Checkout) -> None:
    """kill -9 in the middle of a run; the same command loses nothing and doubles nothing; then everything is on record."""
    import pandas

    researcher = checkout.script(
        {"title": "learn", "constants": {"LR": GOOD_LR, "SLEEP": 0.0001}},  # two constants: no bracket follows
        {"title": "learn less", "constants": {"LR": BAD_LR}},
        {"title": "raise", "replace": ["def build_model():", "raise ValueError('as planned')\n\n\ndef build_model():"]},
    )
    told = checkout.folder.parent / "told.jsonl"
    command = ("run", "--tag", "night", *TERMS, "--researcher", researcher, "--notify", f"tee -a {told}")
    checkout = replace(checkout, cheaper=Cheaper(baseline_runs=2, draws=True))
    farm = checkout.start(*command)
    runs = checkout.home / "runs"
    wait_for("first experiment's training", lambda: "step" in text_of(runs / "night-0001-1" / "run.log"))

    query = ("sql", "--json", "SELECT id, decision FROM history ORDER BY number")
    asked = [checkout.start(*each) for each in (("status",), query, command)]  # at once: on a busy machine it would have ended
    looking, live, another = asked
    status = looking.communicate(timeout=60)[0]
    assert "autoresearch/night" in status
    assert "devices: cpu" in status
    assert json.loads(live.communicate(timeout=60)[0])["rows"][0] == ["night-0000", "keep"]
    assert str(farm.pid) in another.communicate(timeout=60)[0] and another.returncode == 2, "one farm a home"
    if (checkout.home / "history.parquet").exists():
        assert len(pandas.read_parquet(checkout.home / "history.parquet")) >= 1

    started = [process.pid for process in psutil.Process(farm.pid).children(recursive=True)]
    assert started
    os.kill(farm.pid, signal.SIGKILL)
    farm.communicate()
    wait_for("end of what it started", lambda: not living(started))

    output = checkout.farm(*command)
    assert "3 experiments, 1 kept" in output
    check_told(told)
    check_terms(checkout, researcher)
    check_records(checkout)
    check_files(checkout)
    check_git(checkout)
    check_audit_and_verify(checkout)


def check_told(path: Path) -> None:
    """Its user's own command was told of the new best, by whichever of the two farms made it, and of the second one's end."""
    told = [json.loads(line) for line in path.read_text().replace("}{", "}\n{").splitlines()]
    assert [one["event"] for one in told][-1] == "farm_ended" and {one["tag"] for one in told} == {"night"}
    (best,) = [one for one in told if one["event"] == "new_best"]
    assert best["gain"] > 0 and "learn" in best["change"]


def text_of(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def check_terms(checkout: Checkout, researcher: str) -> None:
    """A branch goes on only under the terms that it began with."""
    command = ("run", "--tag", "night", "--devices", "cpu", "--researcher", researcher, "--experiments", "3")
    refused = checkout.farm(*command, "--budget", "2", status=2)
    assert "began with --budget 1, not --budget 2: give --budget 1 again, or start afresh with another --tag" in refused
    assert len(refused.splitlines()) == 1  # nothing is said of what the run would cost
    assert "3 experiments are done" in checkout.farm(*command, "--budget", "1")


def check_records(checkout: Checkout) -> None:
    rows = checkout.rows("SELECT number, decision, title, runs FROM history ORDER BY number")
    assert rows == [
        [0, "keep", "baseline", 2],
        [1, "keep", "learn", 1],
        [2, "discard", "learn less", 1],
        [3, "crash", "raise", 1],
    ]
    crash = checkout.rows("SELECT reason FROM history WHERE number = 3")[0][0]
    assert "as planned" in crash
    kinds = [record.kind for record in read_journal(checkout.home / "journal.jsonl")]
    assert [kinds.count(kind) for kind in ("branch", "experiment", "run", "verdict")] == [1, 4, 5, 4]


def check_files(checkout: Checkout) -> None:
    """results.tsv as the original's analysis reads it, and the history for notebooks."""
    import pandas

    folder = checkout.home / "worktrees" / "night"
    table = pandas.read_csv(folder / "results.tsv", sep="\t")
    assert list(table.columns) == ["commit", "val_bpb", "memory_gb", "status", "description"]
    assert table["status"].value_counts().to_dict() == {"keep": 2, "discard": 1, "crash": 1}
    kept = table[table["status"] == "keep"]
    assert (kept["val_bpb"].diff().dropna() < 0).all()
    assert kept["val_bpb"].cummin().iloc[-1] == kept["val_bpb"].min()
    assert table["val_bpb"].iloc[3] == 0.0
    assert table["memory_gb"].iloc[3] == 0.0
    assert (folder / "progress.png").read_bytes().startswith(b"\x89PNG")
    history = checkout.home / "history.parquet"
    assert len(pandas.read_parquet(history)) == len(duckdb.sql(f"SELECT * FROM '{history}'").fetchall()) == 4


def check_audit_and_verify(checkout: Checkout) -> None:
    """Gains hold on the audit rows, by rows that the runs left; and a record is enough to get the same score again."""
    audit = checkout.farm("audit")
    assert "night-0000 -> night-0001" in audit and "+-" in audit and "ALARM" not in audit
    before = (checkout.home / "journal.jsonl").read_bytes()
    repeating = checkout.start("verify", "night-0002", "--devices", "cpu")
    verified, _ = repeating.communicate(timeout=240)
    is_equal = repeating.returncode != NOT_COMPARABLE  # other tests may take a part of the machine
    assert repeating.returncode in (0, NOT_COMPARABLE) and "software: the same" in verified
    assert ("\nreproduced: " if is_equal else " machine: ") in verified
    assert (checkout.home / "journal.jsonl").read_bytes() == before
    assert "has no score to reproduce: it ended as crash" in checkout.farm("verify", "3", status=2)


def check_git(checkout: Checkout) -> None:
    """The branch holds the keeps, nothing but train.py is ever committed, and discarded commits can be reached."""
    assert checkout.git("log", "--format=%s", "main..autoresearch/night").splitlines() == ["learn"]
    assert checkout.git("diff", "--name-only", "main", "autoresearch/night").split() == ["research/train.py"]
    references = checkout.git("for-each-ref", "--format=%(refname)", "refs/experiments").split()
    assert references == [f"refs/experiments/night-000{number}" for number in (1, 2, 3)]
    assert checkout.git("status", "--porcelain") == ""
    assert checkout.git("branch", "--show-current").strip() == "main"


def test_control_c_ends_cleanly(checkout: Checkout, tmp_path: Path) -> None:
    """As a user starts it, with all evaluation rows: of little text, which is prepared sooner than Python's library."""
    researcher = checkout.script({"title": "x", "constants": {"LR": 1}})
    source = f"files:{write_text(tmp_path / 'text', documents=3000)}"
    words = ["run", "--dashboard", "--tag", "short", *TERMS, "--source", source, "--researcher", researcher]
    farm = checkout.plain().start(*words)
    wait_for("training", lambda: "step" in text_of(checkout.home / "runs" / "short-0000-1" / "run.log"))
    os.killpg(farm.pid, signal.SIGINT)  # as a terminal does: to the whole group
    pressed = time.monotonic()
    output, _ = farm.communicate(timeout=120)
    assert in_time(pressed, 8)  # 5 s on a machine that does nothing else
    assert farm.returncode == 0, output
    assert "stopped" in output and "dashboard: http://127.0.0.1:" in output
    wait_for("end of what it started", lambda: not processes_with(str(checkout.home)))
    assert checkout.rows("SELECT count(*) FROM runs") == [[0]]


def test_two_loops_on_two_branches(quick_checkout: Checkout) -> None:
    """Loops share device, store and data; each has its own branch, baseline and folder. What concerns both is said once."""
    import pandas

    quick_checkout.edit("SLEEP = 0.0", "SLEEP = 0.001")
    less = {"title": "learn less", "constants": {"LR": BAD_LR}}
    researcher = quick_checkout.script({"title": "learn", "constants": {"LR": GOOD_LR}}, less)
    told = quick_checkout.farm("run", "--tag", "pair", *TERMS, "--researcher", researcher, "--loops", "2", "--experiments", "1")
    assert "ended: the limit of 1 experiment per branch is reached" in told
    assert told.count("uncommitted edits") == told.count("--dirty") == 1
    rows = quick_checkout.rows("SELECT branch, number, decision FROM history ORDER BY branch, number")
    branches = ["autoresearch/pair-cpu0", "autoresearch/pair-cpu0-2"]
    assert rows == [[branch, number, "keep"] for branch in branches for number in (0, 1)]
    assert "autoresearch/pair-cpu0-2" in quick_checkout.farm("report")
    for branch in branches:  # whichever loop ended first: later runs may have changed its decisions
        table = pandas.read_csv(
            quick_checkout.home / "worktrees" / branch.removeprefix("autoresearch/") / "results.tsv", sep="\t"
        )
        assert list(table["status"]) == [decision for name, _, decision in rows if name == branch]
    check_steering(quick_checkout, ("run", "--tag", "pair", *TERMS, "--researcher", researcher, "--loops", "2"), branches[1])


def check_steering(checkout: Checkout, command: tuple[str, ...], paused: str) -> None:
    """A loop that is paused before a start runs nothing, while the other one goes on; stopped, it lets the farm end."""
    before = checkout.rows(f"SELECT count(*) FROM runs WHERE experiment_id LIKE '{paused.partition('/')[2]}-0%'")
    assert paused in checkout.farm("pause", paused)
    farm = checkout.start(*command, "--after-experiment", "tee -a hooked.jsonl")

    def phases() -> set[str]:
        running = json.loads(checkout.farm("status", "--json"))["running"] or {"loops": {}}
        return {state["phase"] for state in running["loops"].values()}

    wait_for("end of the other loop", lambda: phases() == {"paused", "ended"})
    assert "no loop reads it: scripted" in checkout.farm("suggest", "try X", "--tag", "pair")
    assert "no loop that runs" in checkout.farm("stop", paused.removesuffix("-2"), status=2)
    assert paused in checkout.farm("stop", paused)
    output, _ = farm.communicate(timeout=60)
    assert farm.returncode == 0 and f"{paused} was stopped" in output
    after = checkout.rows(f"SELECT count(*) FROM runs WHERE experiment_id LIKE '{paused.partition('/')[2]}-0%'")
    assert after == before
    hooked = [json.loads(text) for text in (checkout.folder / "hooked.jsonl").read_text().replace("}{", "}\n{").splitlines()]
    assert all(told["hook"] == "after-experiment" and told["branch"] != paused for told in hooked) and hooked
    told = checkout.farm("status")
    assert f"paused: {paused}" in told and "try X" in told


def test_a_first_commit_that_fails_can_be_mended(quick_checkout: Checkout) -> None:
    """The same command then goes on from what is committed in the checkout; nothing that was committed is gone."""
    command = (
        "run",
        "--tag",
        "mended",
        *TERMS,
        "--researcher",
        quick_checkout.script({"title": "x", "constants": {"LR": GOOD_LR}}),
    )
    quick_checkout.edit("def build_model():", "def build_model(:")
    quick_checkout.git("commit", "--quiet", "--all", "--message", "broken")
    failed = quick_checkout.farm(*command, status=2).splitlines()[-1]
    assert "autoresearch/mended" in failed and "line 19" in failed and "commit it" in failed
    assert "commit it" in quick_checkout.farm(*command, status=2)

    quick_checkout.edit("def build_model(:", "def build_model():")
    quick_checkout.git("commit", "--quiet", "--all", "--message", "mended")
    assert "1 experiment, 1 kept" in quick_checkout.farm(*command)
    rows = quick_checkout.rows("SELECT number, decision FROM history ORDER BY number")
    assert rows == [[0, "crash"], [1, "crash"], [2, "keep"], [3, "keep"]]
    assert "broken" in quick_checkout.git("log", "--format=%s", "autoresearch/mended").splitlines()


def test_try_by_hand(checkout: Checkout) -> None:
    """A keep, a discard, a crash and a timeout by hand make the same records as a loop."""
    import pandas

    checkout.git("switch", "--quiet", "--create", "autoresearch/hand")
    (checkout.folder / "other.txt").write_text("an edit of my own\n")
    first = checkout.train_py.read_text()

    def attempt(old: str, new: str, status: int) -> str:
        checkout.edit(old, new)
        return checkout.farm("try", "-m", new.strip(), *TERMS, status=status)

    assert "keep" in attempt("LR = 0.000001", f"LR = {GOOD_LR}", 0)
    kept = checkout.train_py.read_text()
    assert kept != first
    assert "discard" in attempt(f"LR = {GOOD_LR}", f"LR = {BAD_LR}", 0)
    assert checkout.train_py.read_text() == kept
    assert "crash" in attempt("def build_model():", "def build_modell():", 1)
    assert "build_model" in text_of(checkout.folder / "run.log")
    assert "crash" in attempt("SLEEP = 0.0", "SLEEP = 100.0", 1)
    assert checkout.train_py.read_text() == kept
    assert "edit it" in checkout.farm("try", *TERMS, status=2)

    rows = checkout.rows("SELECT number, kind, decision, status, researcher FROM history ORDER BY number")
    assert rows == [
        [0, "baseline", "keep", "ok", "farm"],
        [1, "manual", "keep", "ok", "you"],
        [2, "manual", "discard", "ok", "you"],
        [3, "manual", "crash", "crash", "you"],
        [4, "manual", "crash", "timeout", "you"],
    ]
    table = pandas.read_csv(checkout.folder / "results.tsv", sep="\t")
    assert list(table["status"]) == ["keep", "keep", "discard", "crash", "crash"]
    assert checkout.git("log", "--format=%s", "main..HEAD").splitlines() == [f"LR = {GOOD_LR}"]
    assert checkout.git("status", "--porcelain").strip() == "M other.txt"
