"""The command line as people use it: help, one line for what they can mend, and the history while nothing runs."""

import argparse
import contextlib
import io
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.cli import handler, main
from cluster.command_parser import make_parser
from cluster.commands.read_home import read_history
from cluster.home import Home, find_home
from cluster.parser_parts import BRANCH_WORDS
from research.errors import UserError
from research.files import research_folder
from results.experiment import Verdict
from results.store import Store
from tests.cluster.farm_samples import make_history

TRAIN = "research/train.py"

GROUPS = {
    "start": ("demo", "doctor", "prepare", "profile"),
    "research": ("run", "try", "abandon", "stop"),
    "steer it while it runs": ("suggest", "pause", "resume"),
    "on a cluster": ("submit", "fetch"),
    "look": ("status", "dashboard", "report", "show", "sql", "audit", "verify", "autopsy", "import"),
    "use what was found": ("diff", "apply", "sample", "transfer"),
    "for agents outside the farm": ("mcp",),
    "housekeeping": ("list", "clean"),
}
COMMANDS = [command for commands in GROUPS.values() for command in commands]
NEEDED = {
    "autopsy": ["results.tsv"],
    "import": ["results.tsv"],
    "pause": ["mar8"],
    "resume": ["mar8"],
    "show": ["1"],
    "verify": ["1"],
}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home with a short history, and a current folder that is no checkout."""
    monkeypatch.chdir(tmp_path)
    make_history(tmp_path / "home")
    return tmp_path / "home"


def git(folder, *arguments):
    identity = ["-c", "user.name=T", "-c", "user.email=t@localhost"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout with two versions of train.py, the older one checked out, and a history that kept the newer."""
    folder = tmp_path / "checkout"
    (folder / "research").mkdir(parents=True)
    (folder / "program.md").write_text("policy\n")
    (folder / ".gitignore").write_text("results/\n")
    commits = []
    git(tmp_path, "init", "--quiet", str(folder))
    for text in ("DEPTH = 4\n", "DEPTH = 5\n"):
        (folder / TRAIN).write_text(text)
        git(folder, "add", "-A")
        git(folder, "commit", "--quiet", "-m", text.strip())
        commits.append(git(folder, "rev-parse", "HEAD"))
    git(folder, "checkout", "--quiet", commits[0])
    make_history(folder / "results" / "data", commits=(commits[0], commits[1], "c" * 40))
    monkeypatch.delenv("FARM_HOME", raising=False)
    monkeypatch.chdir(folder)
    return folder


def test_help_is_there_at_once():
    before = os.times()
    shown = subprocess.run([sys.executable, "-m", "cluster.cli", "--help"], capture_output=True, text=True, check=True)
    used = os.times()
    assert used.children_user + used.children_system - before.children_user - before.children_system < 1.0  # of a core
    assert all(f"  {command} " in shown.stdout for command in COMMANDS)


def test_farm_alone_says_what_to_do_first(capsys):
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert all(f"farm {command}" in shown for command in ("demo", "doctor", "run"))


def test_a_query_on_standard_input_that_is_no_text_is_one_line(home, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"SELECT '\xe9'"), encoding="utf-8"))
    assert main(["sql", "-", "--home", str(home)]) == 2
    error = capsys.readouterr().err
    assert "byte 9" in error and error.count("\n") == 1


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [["--help"], ["sql", "SELECT 1"], ["status"]])
def test_an_output_that_cannot_be_written_is_one_line(home, arguments, unbuffered, monkeypatch):
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    command = [sys.executable, "-m", "cluster.cli", *arguments, *(["--home", str(home)] if arguments[0] != "--help" else [])]
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1) and "No space left" in ended.stderr
    assert "standard output" in ended.stderr and "--home" not in ended.stderr
    ended = subprocess.run(command, stderr=subprocess.PIPE, text=True, preexec_fn=lambda: os.close(1), check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize(("words", "instead"), [(["help"], ["--help"]), (["help", "status"], ["status", "--help"])])
def test_help_is_a_command_as_well(words, instead, capsys):
    printed = []
    for given in (words, instead):
        with pytest.raises(SystemExit) as end:
            main(given)
        assert end.value.code == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] and printed[0]


def test_help_lists_the_commands_by_their_groups():
    sections = {text.partition(":\n")[0]: text for text in make_parser().format_help().split("\n\n")}
    for title, commands in GROUPS.items():
        assert tuple(line.split()[0] for line in sections[title].splitlines()[1:]) == commands


@pytest.mark.parametrize("command", ["--help", "status"])
def test_only_what_is_needed_is_imported(command, home):
    """Heavy packages, and the other groups' modules: each costs more time than the whole start may take."""
    program = f"""
import sys
from cluster.cli import main
try:
    main(["{command}"] + ["--home", r"{home}"] * ({command!r} == "status"))
except SystemExit:
    pass
heavy = {{"torch", "numpy", "duckdb", "ray", "git", "anthropic", "rich", "asyncio", "psutil", "cluster.driver"}}
print(sorted(heavy & set(sys.modules)))
print(sorted(name for name in sys.modules if name.startswith("cluster.commands.")))
"""
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.splitlines()
    assert shown[-2] == "[]"
    assert "cluster.commands.research" not in shown[-1] and ("cluster.commands.look" in shown[-1]) == (command == "status")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_function_and_help(command):
    assert callable(handler(make_parser().parse_args([command, *NEEDED.get(command, [])])))
    with pytest.raises(SystemExit) as end:
        make_parser().parse_args([command, "--help"])
    assert end.value.code == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "--nights", "2"], "run doesn't take --nights 2 (see "),
        (["run", "--experimnets", "2"], "run doesn't take --experimnets 2, did you mean --experiments? (see "),
        (["show", "1", "--jsno"], "doesn't take --jsno (see "),
        (["run", "--tag", "a/../b"], "'a/../b'"),
        (["run", "--devices", "7"], "--devices 7"),
        (["run", "--devices", "gpu"], "--devices must be GPU numbers"),
        (["run", "--researcher", "oracle"], "'oracle'"),
        (["run", "--researcher", "command:"], "command: needs a command line after the colon"),
        (["run", "--researcher", "command"], "command: needs a command line after the colon"),
        (["run", "--researcher", "scripted:"], "scripted: needs a file after the colon"),
        (["baseline"], "measures the baseline the first time"),
        (["show", "zz"], "No experiment is called 'zz'"),
        (["show", "9"], "No experiment is called '9'"),
        (["show", "mar8"], "could be any of 3"),
        (["report", "apr1"], "No branch or tag is called 'apr1': there is mar8"),
        (["diff", "apr1"], "No branch or tag is called 'apr1'"),
        (["sql", "DROP TABLE runs"], "SELECT"),
        (["stop"], "No farm is running"),
        (["sample"], "No model is saved yet"),
        (["sample", "1"], "No model of mar8-0001 was saved"),
        (["apply"], "no checkout here"),
        (["profile", "--write"], "no checkout here"),
        (["run", "--tag", ".."], "'..' is not a valid tag"),
        (["run", "--tag", "a b"], "'a b' is not a valid tag"),
        (["run", "--tag", "x.lock"], "'x.lock' is not a valid tag"),
        (["run", "--tag", "HEAD~1"], "'HEAD~1' is not a valid tag"),
        (["run", "--tag", "x" * 200], "is not a valid tag"),
        (["try", "--tag", "\N{SNOWMAN}"], "is not a valid tag"),
        (["run", "--devices", "0,0"], "--devices 0,0 names a GPU twice"),
        (["run", "--devices", ""], "--devices must be GPU numbers"),
        (["run", "--devices", "-1"], "--devices must be GPU numbers"),
        (["run", "--devices", "0,,1"], "--devices must be GPU numbers"),
        (["run", "--devices", "99999999999999999999"], "doesn't have"),
        (["run", "--model", "claude-opus-5-5"], "--model is for --researcher claude"),
        (["run", "--researcher", "command:agent", "--model", "m"], "--model is for --researcher claude"),
        (["run", "--max-cost", "3"], "--max-cost is for --researcher claude"),
        (["run", "--effort", "high"], "--effort is for --researcher claude, "),
        (["run", "--researcher", "gemini", "--effort", "high"], "gemini has no option for it"),
        (["run", "--researcher", "claude:1,pi:1", "--model", "m"], "--model would be for claude and pi"),
        (["run", "--researcher", "claude:1,search"], "'search' isn't in the mix's form"),
        (["submit", "--researcher", "claude:1,claude:2"], "names claude twice"),
        (["run", "--agent-writes", "/tmp"], "--agent-writes is for --researcher command"),
        (["run", "--devices", "cpu", "--researcher", "command:true", "--agent-writes", "/non/existent"], "/non/existent"),
        (["run", "--engine", "local", "--address", "10.0.0.1:6379"], "--engine local uses no cluster"),
        (["run", "--engine", "ray", "--address", "1.2.3.4:99999"], "a port from 1 to 65535"),
        (["run", "--engine", "ray", "--address", "ray://head"], "HOST:PORT"),
        (["run", "--address", "ray://127.0.0.1:1"], "No Ray cluster answers at ray://127.0.0.1:1"),
        (["run", "--devices", "cpu", "--source", "nothing"], "No source is called 'nothing'"),
        (["submit", "--source", "files:"], "files: needs a folder or a file after the colon"),
        (["prepare", "--source", "files:", "--devices", "cpu"], "files: needs a folder or a file after the colon"),
        (["run", "--devices", "cpu", "--profile", "cpu", "--source", "files:/non/existent"], "/non/existent does not exist"),
        (["run", "--num-shards", "5", "--source", "stdlib"], "leave it out"),
        (["try", "--num-shards", "5", "--devices", "cpu", "--profile", "cpu"], "leave it out"),
        (["confirm", "--num-shards", "5"], "has no shards: leave it out"),
        (["verify", "1", "--num-shards", "5"], "has no shards: leave it out"),
        (["transfer", "--num-shards", "5"], "has no shards: leave it out"),
        (["try", "--again", "--tag", "nope", "--devices", "cpu"], "Tag nope has no experiment yet"),
        (["sql", "SELECT"], "Parser Error"),
        (["sql", "SELECT 1; SELECT 2"], "2 statements"),
        (["sql", "-- nothing"], "0 statements"),
        (["sql", "SELECT \udce9"], "no text"),
        (["sql", "SELECT 1", "--audit", "--jsn"], "doesn't take --jsn"),
        (["report", "\udcff"], "no text"),
        (["run", "--tag", "x" * 5_000], f"'{'x' * 79}…' is not a valid tag"),
        (["doctor", "x" * 5_000], f"doctor doesn't take {'x' * 79}… "),
        (["status", "mar8", "extra"], "status doesn't take extra"),
        (["status", "nope"], "No branch or tag is called 'nope': there is mar8"),
        (["profile", "small", "--profile", "cpu"], "two profiles"),
        (["run", "--devices", "cpu", "--gpu-memory", "8"], "--gpu-memory limits runs on CUDA GPUs only"),
        (["profile", "--devices", "cpu", "--gpu-memory", "8"], "these are on cpu"),
    ],
)
def test_what_the_user_can_mend_is_one_line(home, capsys, arguments, says):
    needs_no_home = arguments[0] == "profile"
    assert main([*arguments, *([] if needs_no_home else ["--home", str(home)])]) == 2
    printed, error = capsys.readouterr()
    assert arguments[0] != "run" or not printed, "no plan before a mistake"
    assert error.startswith("farm: ")
    assert error.count("\n") == 1
    assert says in error


EMPTY = [
    *(["run", option, ""] for option in ("--tag", "--model", "--researcher", "--source", "--home", "--cache", "--address")),
    ["run", "--agent-writes", ""],
    *(["try", option, " "] for option in ("--tag", "-m", "--home", "--cache", "--source")),
    ["abandon", ""],
    *(["submit", option, ""] for option in ("--tag", "--address", "--home", "--cache")),
    *(
        [command, ""]
        for command in ("status", "report", "audit", "diff", "apply", "sample", "show", "verify", "sql", "transfer", "import")
    ),
    *([command, "--home="] for command in ("status", "stop", "fetch", "doctor", "demo", "prepare")),
]
"""What a shell makes of a variable that is not set: it must not silently mean the default."""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "--experiments", "0"], "farm run: --experiments must be a whole number from 1 to 1,000,000, not '0'"),
        (["run", "--experiments", "1.5"], "--experiments must be a whole number from 1 to 1,000,000, not '1.5'"),
        (["run", "--hours", "soon"], "--hours must be a number from 0.001 to 8,784, not 'soon'"),
        (["run", "--budget", "-1"], "--budget must be a number from 0.5 to 604,800, not '-1'"),
        (["run", "--rule", "lucky"], "--rule: invalid choice: 'lucky' (choose from "),
        (["run", "--budget"], "--budget: expected one argument"),
        (["run", "--max-cost", "$5"], "--max-cost must be a number from 0.01 to 1,000,000, not '$5'"),
        (["run", "--gpu-memory", "24GB"], "--gpu-memory must be a number from 0.001 to 100,000, not '24GB'"),
        (["run", "--profile", "huge"], "--profile: invalid choice: 'huge'"),
        (["run", "--recipe", "secret"], "--recipe: invalid choice: 'secret'"),
        (["run", "--engine", "slurm"], "--engine: invalid choice: 'slurm'"),
        (["run", "--sandbox", "none"], "--sandbox: invalid choice: 'none'"),
        (["try", "--sandbox", ""], "--sandbox: invalid choice: ''"),
        (["transfer", "--budget", "1e9"], "from 0.5 to 604,800, not '1e9'"),
        (["transfer", "--depth", "10000"], "from 1 to 64, not '10000'"),
        (["autopsy", "results.tsv", "--sigma", "2"], "from 1e-06 to 1, not '2'"),
        (["verify"], "farm verify: the following arguments are required: id"),
        (["sql", "--format", "xml"], "--format: invalid choice: 'xml'"),
        (["--tag", "x"], "farm: "),
        (["run run"], "unknown command 'run run'"),
        (["run", "--tag", "-x"], "--tag: expected one argument"),
        *((words, "must not be empty") for words in EMPTY),
        (["show"], "farm show: the following arguments are required: id"),
        (["-v"], "farm: no command is given beside -v"),
        (["--" + "x" * 5_000], f"beside --{'x' * 77}… (see "),
        (["x" * 5_000], f"unknown command '{'x' * 79}…' (see "),
        (["run", "--rule=" + "é" * 5_000], f"--rule: invalid choice: '{'é' * 79}…"),
        (["rum"], "farm: unknown command 'rum', did you mean run? (see "),
        (["stat"], "farm: unknown command 'stat', did you mean status? (see "),
        (["repport"], "did you mean report?"),
        (["STATUS"], "did you mean status?"),
        (["help", "staus"], "did you mean status?"),
        (["ls"], "did you mean list?"),
        (["zzz"], "farm: unknown command 'zzz' (see "),
    ],
)
def test_a_wrong_command_line_is_explained_in_one_line(arguments, says, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1 and error.endswith("--help)\n")


COMMAND_PARSERS = make_parser().commands


def takes_a_branch(parser):
    return any(action.dest in BRANCH_WORDS and not (action.option_strings or action.choices) for action in parser._actions)


WITH_A_BRANCH = [name for name, parser in COMMAND_PARSERS.items() if takes_a_branch(parser)]


def test_a_branch_that_is_given_as_an_option_is_told_how(capsys):
    assert {"status", "report", "diff", "apply", "confirm", "audit", "clean", "stop"} <= set(WITH_A_BRANCH)
    for command in WITH_A_BRANCH:
        for given in (["--tag", "mar8"], ["--tag=mar8"], ["--branch", "mar8"]):
            if command not in ("pause", "resume", "import") or len(given) == 2:
                assert main([command, *given]) == 2
                assert f"farm {command} mar8 (see " in capsys.readouterr().err


def takes_numbers(option):
    for number in ("1", "2"):  # two is the least number of seeds, and one the largest noise
        with contextlib.suppress(argparse.ArgumentTypeError):
            return callable(option.type) and isinstance(option.type(number), int | float)
    return False


NUMERIC = [
    (command, option) for command, parser in COMMAND_PARSERS.items() for option in parser._actions if takes_numbers(option)
]


@pytest.mark.parametrize("absurd", ["nan", "inf", "-inf", "-1", "1e12", "9" * 30, "1e999", "0x10", "five", ""])
def test_no_option_takes_an_absurd_number(absurd):
    assert {option.dest for _, option in NUMERIC} >= {"budget", "hours", "seeds", "depth", "loops", "experiments", "sigma"}
    for _, option in NUMERIC:
        with pytest.raises(argparse.ArgumentTypeError, match=r"must be a .*number from .* to "):
            option.type(absurd)


def test_an_empty_home_says_how_to_begin(tmp_path, capsys):
    for command in (["status"], ["report"], ["show", "1"], ["sql", "SELECT 1"]):
        assert main([*command, "--home", str(tmp_path / "none")]) == 2
        assert f"farm demo --home {tmp_path / 'none'}" in capsys.readouterr().err


def test_status_says_where_each_branch_stands(home, capsys):
    assert main(["status", "--home", str(home)]) == 0
    shown = capsys.readouterr().out
    assert "autoresearch/mar8: 2 experiments, 1 kept" in shown
    assert "val_bpb 2.9900 -> 2.5100 expected: gain +0.4800 [+0.4400, +0.5200]" in shown
    assert main(["status", "--json", "--home", str(home)]) == 0
    status = json.loads(capsys.readouterr().out)
    assert status["running"] is None
    branch = status["branches"]["autoresearch/mar8"]
    assert f"val_bpb {branch['baseline']:.4f} -> {branch['best']:.4f} expected: gain {branch['gain']:+.4f}" in shown


def test_status_and_report_count_alike(home, capsys):
    """The baseline is no experiment, and neither is one that the infrastructure lost."""
    with Store.open(home) as store:
        lost = replace(store.record("mar8-0002").experiment, id="mar8-0003", number=3, commit="d" * 40)
        store.add_experiment(lost)
        store.add_verdict(lost.id, Verdict(decision="lost", reason="the power failed"))
    for command in ("status", "report"):
        assert main([command, "--home", str(home)]) == 0
        assert "2 experiments" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["1", "mar8-0001", "bbbbb"])
def test_an_experiment_by_number_id_or_commit(home, capsys, name):
    assert main(["show", name, "--home", str(home)]) == 0
    assert "idea 1" in capsys.readouterr().out


def test_a_failed_experiment_is_shown_with_its_decision_once(home, capsys):
    from research.result import RunResult
    from results.experiment import Experiment
    from results.store import Store
    from results.verdict import NoisePrior, baseline_verdict

    run = RunResult(run_id="mar8-0003-1", status="crash", reason="train.py does not parse", seed=1, device="cpu")
    experiment = Experiment(id="mar8-0003", branch="autoresearch/mar8", number=3, kind="manual", commit="d" * 40,
                            parent_commit="b" * 40, title="a typo", hypothesis="", researcher="you",
                            created="2026-03-08T21:00:00Z")  # fmt: skip
    with Store.open(home) as store:
        store.add_experiment(experiment)
        store.add_run("mar8-0003", run)
        store.add_verdict("mar8-0003", baseline_verdict([run], NoisePrior(sigma=0.02)))
    assert main(["show", "3", "--home", str(home)]) == 0
    assert "  crash: train.py does not parse\n" in capsys.readouterr().out


def test_the_report_counts_experiments(home, capsys):
    assert main(["report", "--home", str(home)]) == 0
    shown = capsys.readouterr().out
    assert "2 experiments: 1 kept, 1 discarded" in shown
    assert f"farm sql --home {home}" in shown


def test_sql_as_a_table_as_json_and_from_standard_input(home, capsys, monkeypatch):
    assert main(["sql", "--json", "SELECT count(*) AS n FROM history", "--home", str(home)]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == [[3]]
    monkeypatch.setattr("sys.stdin", io.StringIO("SELECT title FROM history WHERE number = 2"))
    assert main(["sql", "-", "--home", str(home)]) == 0
    assert "idea 2" in capsys.readouterr().out


def test_diff_shows_what_was_gained(checkout, capsys):
    assert main(["diff"]) == 0
    shown = capsys.readouterr().out
    assert "-DEPTH = 4" in shown
    assert "+DEPTH = 5" in shown


def test_a_branch_without_a_score_that_is_checked_out_is_named_where_another_is_shown(checkout, capsys):
    with Store(checkout / "results" / "data") as store:
        known = store.branches()[0]
        store.add_branch(replace(known, name="autoresearch/new", tag="new", group="autoresearch/new"))
    git(checkout, "checkout", "--quiet", "-b", "autoresearch/new")
    assert main(["diff"]) == 0
    shown = capsys.readouterr()
    assert "+DEPTH = 5" in shown.out and "autoresearch/new" in shown.err and known.name in shown.err
    assert main(["diff", known.tag]) == 0 and not capsys.readouterr().err


def test_apply_takes_the_best_and_never_the_users_edits(checkout, capsys):
    (checkout / TRAIN).write_text("DEPTH = 4  # mine\n")
    assert main(["apply"]) == 2
    assert "--force" in capsys.readouterr().err
    assert (checkout / TRAIN).read_text() == "DEPTH = 4  # mine\n"
    assert main(["apply", "mar8", "--force"]) == 0
    assert (checkout / TRAIN).read_text() == "DEPTH = 5\n"
    assert main(["apply"]) == 0  # it is there already


def test_profile_is_written_into_train_py(checkout, capsys):
    (checkout / TRAIN).write_text('PROFILE = "standard"\nDEPTH = 8\nDEVICE_BATCH_SIZE = 128\n' + OTHERS)
    assert main(["profile", "cpu", "--write", "--devices", "cpu"]) == 0
    text = (checkout / TRAIN).read_text()
    assert 'PROFILE = "cpu"' in text
    assert "DEPTH = 2" in text


OTHERS = 'ASPECT_RATIO = 64\nHEAD_DIM = 128\nWINDOW_PATTERN = "SSSL"\nTOTAL_BATCH_SIZE = 2**19\n'


def test_a_reader_that_goes_away_is_no_bug(home):
    program = [sys.executable, "-m", "cluster.cli", "sql", "SELECT range FROM range(1000)", "--home", str(home)]
    read, write = os.pipe()
    os.close(read)
    ended = subprocess.run(program, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert "Traceback" not in ended.stderr


def test_the_history_can_be_read_while_a_farm_holds_the_home(home, capsys):
    with Home(home).lock(), Store.open(home):
        assert main(["report", "--home", str(home)]) == 0
        assert main(["show", "1", "--home", str(home)]) == 0
    assert "idea 1" in capsys.readouterr().out


def test_the_version_and_an_option_before_the_command(capsys):
    assert main(["--version"]) == 0 and re.fullmatch(r"autoresearch-farm \d+\.\d+\S*\n", capsys.readouterr().out)
    with pytest.raises(SystemExit):
        main(["--home", "/x", "status"])
    assert "options follow the command" in capsys.readouterr().err


def test_an_error_repeats_no_word_without_end(home, capsys):
    for command in (["show", "x" * 100_000], ["report", "x" * 100_000], ["sql", f"SELECT {'x' * 100_000}"]):
        assert main([*command, "--home", str(home)]) == 2
        assert len(capsys.readouterr().err) < 2500


def test_the_words_of_an_idea_are_one_line_that_is_cut():
    message = make_parser().parse_args(["try", "-m", "deeper\n\tand wider " + "x" * 5000]).message
    assert message.startswith("deeper and wider x") and len(message) == 200


def test_a_folder_without_files_is_refused_before_the_costs_are_said(home, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    command = ["run", "--devices", "cpu", "--profile", "cpu", "--source", f"files:{tmp_path / 'empty'}", "--tag", "new"]
    assert main([*command, "--home", str(home), "--cache", str(tmp_path / "cache")]) == 2
    printed, error = capsys.readouterr()
    assert "the folder is empty" in error and not printed


def test_what_is_no_folder_is_no_home():
    with pytest.raises(UserError, match="/dev/null is no folder"):
        find_home("/dev/null")


def test_an_empty_field_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["prepare", "--source", "files:.", "--text-field", ""])
    assert "--text-field must not be empty" in capsys.readouterr().err


def test_the_leaderboard_has_the_tag(home, capsys):
    assert main(["sql", "SELECT DISTINCT tag FROM leaderboard", "--home", str(home), "--json"]) == 0
    assert "mar8" in capsys.readouterr().out


def test_a_command_without_a_name_means_the_branch_that_is_checked_out(checkout, tmp_path, monkeypatch):
    home = Home(checkout / "results" / "data")
    with Store.open(home.folder) as store:
        store.add_branch(
            replace(store.branch("autoresearch/mar8"), name="autoresearch/other", tag="other", created="2027-01-01T00:00:00Z")
        )
    assert [one.branch.tag for one in read_history(home)] == ["mar8", "other"]
    git(checkout, "switch", "--quiet", "--create", "autoresearch/mar8")
    assert [one.branch.tag for one in read_history(home)] == ["other", "mar8"]
    monkeypatch.chdir(tmp_path)
    assert [one.branch.tag for one in read_history(home)] == ["mar8", "other"]


def test_what_was_interrupted_is_in_the_status_as_json(home, capsys):
    with Store.open(home) as store:
        begun = replace(store.record("mar8-0002").experiment, id="mar8-0003", number=3, title="cut off")
        store.add_experiment(begun)
    assert main(["status", "--json", "--home", str(home)]) == 0
    told = json.loads(capsys.readouterr().out)["interrupted"]
    assert told == [{"id": "mar8-0003", "branch": "autoresearch/mar8", "title": "cut off"}]


def test_every_command_that_a_text_names_exists() -> None:
    """Hints and docstrings of all packages: `farm X`, or what is made typeable."""
    known = {*make_parser().commands, "help"}
    for package in ("research", "results", "agent", "cluster"):
        for file in (research_folder().parent / package).rglob("*.py"):
            named = re.findall(r"""(?:`|to_type\(f?["'])farm ([a-z]+)""", file.read_text())
            assert set(named) <= known, file
