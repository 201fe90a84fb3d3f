"""`farm audit` and `farm verify` without a run: what they show, and what they refuse."""

import json
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from cluster.cli import main
from cluster.commands.use import recorded_contract
from cluster.hardware import limited, platform_identity
from cluster.home import Home
from cluster.verify import Verification, check_same_as_recorded, device_like, run_to_repeat, verification_lines
from research.contract import judge_sha256
from research.data.prepare import prepare
from research.errors import UserError
from research.gpu_memory import GIB
from research.judge.row_scores import RowScores, save_row_scores
from research.profiles import contract_for
from research.result import RunResult
from results.experiment import Branch, Experiment, ExperimentRecord, Verdict
from results.store import Store
from results.tsv import write_results_tsv
from tests.cluster.farm_samples import CPU, gpu, make_history
from tests.results.result_samples import make_branch, make_experiment, make_run


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_history(tmp_path / "home", audit_bpb=3.25)
    return tmp_path / "home"


def leave_rows(home, run_id, val_gain):
    lengths = np.arange(100, 200)
    gain = val_gain + 0.001 * np.random.default_rng(len(run_id)).standard_normal(100)
    (home / "runs" / run_id).mkdir(parents=True)
    val, audit = RowScores(nats=lengths * (2 - gain), bytes=lengths), RowScores(nats=2.0 * lengths, bytes=lengths)
    save_row_scores(home / "runs" / run_id, {"val": val, "audit": audit})


def test_audit_shows_baseline_head_and_gap(home, capsys):
    assert main(["audit", "--home", str(home)]) == 0
    shown = capsys.readouterr().out
    assert "autoresearch/mar8: mar8-0000 -> mar8-0001" in shown
    assert "  head        2.500000   3.250000" in shown
    assert "gap        -0.500000; standard error unknown" in shown
    assert "a gap below 0 is bad" in shown


def test_audit_raises_the_alarm_while_a_farm_holds_the_home(home, capsys):
    leave_rows(home, "mar8-0000-1", 0.0)
    leave_rows(home, "mar8-0001-1", 0.1)
    with Home(home).lock(), Store.open(home):
        assert main(["audit", "mar8", "--home", str(home)]) == 1
        assert main(["report", "--home", str(home)]) == 0
    shown = capsys.readouterr().out
    assert shown.count("more than audit by") == 2
    assert "on 100 and 100 rows" in shown
    assert shown.count("a gap below 0 is bad") == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["audit", "apr1"], "No branch or tag is called 'apr1': there is mar8"),
        (["confirm", "apr1"], "No branch, tag or experiment is called 'apr1': there is mar8; "),
        (["verify", "zz"], "No experiment is called 'zz'"),
        (["verify", "mar8-0001"], "no commit bbbbbbb"),
    ],
)
def test_what_the_user_can_mend_is_one_line(home, capsys, arguments, says):
    assert main([*arguments, "--home", str(home)]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1


def run_of(**changes):
    return replace(RunResult(run_id="r-1", status="ok", reason="", seed=1, device="cpu", val_bpb=1.0), **changes)


@pytest.mark.parametrize(("now", "reproduced"), [(1.0, True), (1.042, True), (0.958, True), (1.043, False), (None, False)])
def test_reproduced_is_within_three_sigma_of_the_difference(now, reproduced):
    new = run_of(val_bpb=now, status="ok" if now else "crash", reason="boom", software={"torch": "2.12", "python": "3.12"})
    found = Verification(old=run_of(software={"torch": "2.11", "python": "3.12"}), new=new, sigma=0.01)
    assert found.reproduced == reproduced
    lines = verification_lines(found)
    assert "software: torch 2.11 -> 2.12" in lines
    assert lines[-1].startswith("reproduced: " if reproduced else "not reproduced: ")
    assert now is not None or lines[-1].endswith("the run ended as crash: boom")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    (folder / "a.jsonl").write_text("".join(f'{{"text": "{n} is a number, {n * n} is its square"}}\n' for n in range(4000)))
    contract = replace(contract_for("cpu", source=f"files:{folder}"), MAX_SEQ_LEN=32, EVAL_TOKENS=256, VOCAB_SIZE=300)
    return contract, prepare(contract, cache=tmp_path_factory.mktemp("cache"), say=lambda line: None)


def test_only_the_same_can_be_repeated(data):
    contract, prepared = data
    same = run_of(
        judge_sha256=judge_sha256(),
        tokenizer_sha256=prepared.tokenizer_sha256,
        val_sha256=prepared.val_sha256,
        data_fingerprint=prepared.data_fingerprint,
        score_fingerprint=prepared.score_fingerprint(contract),
    )
    check_same_as_recorded(same, "", prepared, contract)
    check_same_as_recorded(run_of(), "", prepared, contract)
    for change, says in (
        ({"train_sha256": "0"}, "train.py changed"),
        ({"judge_sha256": "0", "val_sha256": "0"}, "the judge's code and the validation rows changed"),
        ({"data_fingerprint": "0"}, "the training rows changed"),
        ({"score_fingerprint": "0"}, "the score fingerprint changed"),
    ):
        with pytest.raises(UserError, match=says):
            check_same_as_recorded(replace(same, **change), "", prepared, contract)


def test_a_record_without_a_score_and_another_platform_are_refused():
    values = {"id": "e", "branch": "b", "number": 1, "kind": "explore", "commit": "c", "parent_commit": "p", "title": ""}
    experiment = Experiment(**values, hypothesis="", researcher="", created="")
    for runs, says in (((), "has not run"), ((run_of(status="oom", val_bpb=None),), "ended as oom")):
        with pytest.raises(UserError, match=says):
            run_to_repeat(ExperimentRecord(experiment=experiment, runs=runs))
    branch = Branch(name="b", tag="b", loop=0, profile="cpu", contract_json="", score_fingerprint="", data_fingerprint="",
                    platform=platform_identity(CPU), baseline_commit="", created="")  # fmt: skip
    assert device_like(branch, (CPU,)) is CPU
    with pytest.raises(UserError, match=r"was measured on Some CPU, 2 threads, .*this is Other CPU, 2 threads"):
        device_like(branch, (replace(CPU, name="Other CPU"),))


def test_a_contract_of_another_version_is_refused() -> None:
    branch = Branch(name="b", tag="b", loop=0, profile="cpu", contract_json='{"OLD": 1}', score_fingerprint="",
                    data_fingerprint="", platform="", baseline_commit="", created="")  # fmt: skip
    with pytest.raises(UserError, match=r"b began with a version of the farm .*: use that version"):
        recorded_contract(branch)


def test_a_run_is_repeated_under_its_limit_of_memory():
    device = limited(gpu(), 24 * GIB)
    branch = Branch(name="b", tag="b", loop=0, profile="standard", contract_json="", score_fingerprint="", data_fingerprint="",
                    platform=platform_identity(device), baseline_commit="", created="")  # fmt: skip
    assert device_like(branch, (CPU, gpu()), gpu_memory_bytes=24 * GIB) == device
    with pytest.raises(UserError, match=r"was measured on NVIDIA H100 80GB HBM3, 24 GB, 700 W, .*this is"):
        device_like(branch, (gpu(),))


def verified(old, new, *, device="cpu"):
    values = [run_of(val_bpb=bpb, reported_steps=steps, device=device) for bpb, steps in (old, new)]
    return Verification(old=values[0], new=values[1], sigma=0.01)


@pytest.mark.parametrize(
    ("now", "device", "says", "comparable"),
    [
        ((1.1, 88), "cpu", ("slower machine", "12% fewer steps", "can't be compared"), False),
        ((0.9, 130), "cpu", ("faster machine", "30% more steps", "can't be compared"), False),
        ((1.1, 98), "cuda:0", ("slower machine", "2% fewer steps"), False),
        ((1.1, 97), "cpu", ("not reproduced",), True),
        ((0.9, 88), "cpu", ("not reproduced",), True),
        ((1.01, 88), "cpu", ("slower machine", "can't be compared"), False),
        ((0.99, 88), "cpu", ("slower machine", "can't be compared"), False),
        ((1.0385, 59), "cpu", ("slower machine", "41% fewer steps", "can't be compared"), False),
        ((1.1, None), "cpu", ("not reproduced",), True),
    ],
    ids=[
        "slower",
        "faster",
        "slower GPU",
        "about as fast",
        "better though slower",
        "slower within chance",
        "about the same though slower",
        "far slower within chance",
        "steps unknown",
    ],
)
def test_another_speed_is_not_called_a_score_that_is_not_reproduced(now, device, says, comparable):
    """Other work says nothing, whether the score is near or far, but for a score that moved far the other way."""
    found = verified((1.0, 100), now, device=device)
    assert found.comparable == comparable
    last = verification_lines(found)[-1]
    assert all(fact in last for fact in says)
    assert comparable or not last.startswith(("reproduced", "not reproduced"))


def test_a_repetition_that_was_lost_says_nothing():
    found = Verification(old=run_of(), new=run_of(status="lost", val_bpb=None, reason="the node went away"), sigma=0.01)
    assert not found.comparable and not found.reproduced
    last = verification_lines(found)[-1]
    assert "the node went away" in last and "not reproduced" not in last


def test_the_autopsy_of_the_farms_own_table_names_the_report(home, capsys, monkeypatch):
    monkeypatch.setenv("FARM_HOME", str(home))
    rows = "commit\tval_bpb\tmemory_gb\tstatus\tdescription\naaaaaaa\t3.0\t1.0\tkeep\tbaseline\nfffffff\t2.9\t1.0\tkeep\tmine\n"
    (home.parent / "results.tsv").write_text(rows)
    assert main(["autopsy", str(home.parent / "results.tsv")]) == 0
    assert "1 of these rows is this farm's own: " in capsys.readouterr().out
    (home.parent / "results.tsv").write_text(f"{rows}aaaaaaa\t3.1\t1.0\tdiscard\tby hand\n")
    assert main(["autopsy", str(home.parent / "results.tsv")]) == 0
    told = capsys.readouterr().out
    assert "1 of these rows is this farm's own: " in told and "1 more has the commit of one" in told
    (home.parent / "results.tsv").write_text(rows.replace("aaaaaaa", "1234567"))
    assert main(["autopsy", str(home.parent / "results.tsv")]) == 0
    assert "farm report" not in capsys.readouterr().out


def test_an_import_of_the_farms_own_table_goes_by_its_records_as_the_autopsy_does(home, capsys, monkeypatch):
    """A further run of a program is no idea, whatever its description says."""
    monkeypatch.setenv("FARM_HOME", str(home))
    with Store.open(home) as store:
        again = make_experiment(9, commit="e" * 40, program="again", title="other words")
        for number, experiment in enumerate((replace(again, id="mar8-0008", number=8, commit="d" * 40, title="words"), again)):
            store.add_experiment(experiment)
            store.add_run(experiment.id, make_run(f"{experiment.id}-1", 2.4 - number / 10))
            store.add_verdict(experiment.id, Verdict(decision="keep", reason="so"))
    rows = "".join(f"{name * 7}\t{score}\t1.0\tkeep\t{words}\n" for name, score, words in
                   (("a", 3.0, "baseline"), ("d", 2.4, "words"), ("e", 2.3, "other words")))  # fmt: skip
    (home.parent / "own.tsv").write_text(f"commit\tval_bpb\tmemory_gb\tstatus\tdescription\n{rows}")
    assert main(["import", str(home.parent / "own.tsv"), "--home", str(home)]) == 0
    with Store.open(home) as store:
        problems = dict(store.query("SELECT line, problem FROM foreign_results").rows)
    assert problems[3] is None and "known program" in problems[4]
    capsys.readouterr()
    assert main(["autopsy", str(home.parent / "own.tsv"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["known_programs"] == [4]


def test_status_says_whose_rows_a_switch_of_branches_has_left_in_results_tsv(home, capsys):
    checkout = home.parent
    subprocess.run(["git", "init", "-q", "-b", "autoresearch/apr1", str(checkout)], check=True)
    (checkout / "research").mkdir()
    (checkout / "research" / "train.py").touch()
    (checkout / "program.md").touch()
    with Store.open(home) as store:
        store.add_branch(make_branch("autoresearch/apr1", baseline_commit="f" * 40))
        baseline = make_experiment(0, branch="autoresearch/apr1", id="apr1-0000", commit="f" * 40)
        store.add_experiment(baseline)
        store.add_run(baseline.id, make_run("apr1-0000-1", 0.99))
        store.add_verdict(baseline.id, Verdict(decision="keep", reason="baseline"))
        for names, other in ((["autoresearch/mar8", "autoresearch/apr1"], True), (["autoresearch/apr1"], False)):
            (checkout / "results.tsv").unlink(missing_ok=True)
            write_results_tsv(checkout / "results.tsv", [record for name in names for record in store.records(name)])
            assert main(["status", "--home", str(home)]) == 0
            told = capsys.readouterr().out
            assert ("3 rows of other branches (3 of autoresearch/mar8)" in told) == other
    assert main(["status", "apr1", "--home", str(home)]) == 0
    told = capsys.readouterr().out
    assert "autoresearch/apr1: " in told and "autoresearch/mar8: " not in told
    assert main(["status", "mar8", "--json", "--home", str(home)]) == 0
    assert list(json.loads(capsys.readouterr().out)["branches"]) == ["autoresearch/mar8"]


def test_a_home_without_a_history_names_every_command_that_starts_one(tmp_path, capsys):
    assert main(["status", "--home", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert all(f"farm {command}" in said for command in ("demo", "run", "try"))
