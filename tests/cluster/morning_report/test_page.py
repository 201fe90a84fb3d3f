"""The report as one HTML file: everything that is known, as text, without a script or another file."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.cli import main
from cluster.home import Home
from cluster.morning_report import group_report
from cluster.morning_report.group_report import failures
from cluster.morning_report.page import report_html
from results.history import read_history
from tests.agent.samples import make_record
from tests.cluster.dashboard.visitor import HOSTILE, Page, page_of


def page_for(home: Home) -> tuple[str, Page]:
    html = report_html(home, read_history(home.journal))
    return html, page_of(html)


@pytest.fixture(scope="module")
def report(night: Home) -> tuple[str, Page]:
    return page_for(night)


def test_the_report_says_what_was_gained_what_is_kept_what_failed_and_what_to_do(report: tuple[str, Page]) -> None:
    text = report[1].text
    gain = ("1.0421", "1.0140", "+0.0281", "+0.0262", "+0.0301", "90%", "5 fresh seeds", "sigma between seeds 0.0006")
    kept = ("5 of 18 experiments", "Muon for matrices", "normalise queries", "less noise.")
    failed = ("3 failed", "lower DEVICE_BATCH", "mat1 and mat2", "0.31 nats per token")
    rest = ("sliding windows of 512", "$1.32", "118,800", "standard deviations", "farm resume")
    for fact in (*gain, *kept, *failed, *rest):
        assert fact in text, fact


def test_each_keep_has_its_diff_coloured_and_the_best_are_open(report: tuple[str, Page]) -> None:
    html, page = report
    assert len(page.named("details")) == 6 and sum("open" in one for one in page.named("details")) == 3
    rows = [one.get("class") for one in page.named("tr")]
    assert rows.count("added") == 18 and rows.count("removed") == 6
    assert re.search(r'<span class="k\w*">def</span>', html), "Pygments has coloured it"


def test_the_report_needs_nothing_but_itself(report: tuple[str, Page]) -> None:
    html, page = report
    assert not {"script", "link", "img", "iframe"} & {name for name, _ in page.tags}
    assert not [one for _, one in page.tags if set(one) & {"src", "srcset"} or one.get("href", "#")[0] != "#"]
    style = re.search("<style>(.*?)</style>", html, re.S)
    assert style and "url(" not in style[1] and "@import" not in style[1] and "prefers-color-scheme: dark" in style[1]
    (policy,) = [one["content"] for one in page.named("meta") if one.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")


def test_whatever_was_written_is_shown_as_text(hostile_night: Home) -> None:
    html, page = page_for(hostile_night)
    assert "<script" not in html and "\u202e" not in html and "{{7*7}}" in page.text and "alert(1)" in page.text
    assert HOSTILE not in html


def test_a_home_without_a_score_has_a_report_and_no_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from results.store import Store
    from tests.results.result_samples import make_branch

    home = tmp_path / "home"
    with Store.open(home) as store:
        store.add_branch(make_branch())
    assert main(["report", "--home", str(home), "--html", str(tmp_path / "r.html")]) == 0
    assert "no score yet" in (tmp_path / "r.html").read_text()
    assert main(["report", "--home", str(home), "--card", str(tmp_path / "c.png")]) == 2
    assert "Nothing has a score yet" in capsys.readouterr().err


def test_the_command_writes_both_files_and_keeps_what_is_not_its_own(
    night: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    html, card = tmp_path / "report.html", tmp_path / "card.png"
    html.write_text("a person's page")
    words = ["report", "mar8", "--home", str(night.folder), "--html", str(html), "--card", str(card)]
    assert main(words) == 0
    told = capsys.readouterr().out
    assert str(html) in told and str(card) in told and "report.html.1" in told
    assert (tmp_path / "report.html.1").read_text() == "a person's page" and card.read_bytes().startswith(b"\x89PNG")
    assert main(words[:-2]) == 0
    assert "report.html.2" not in capsys.readouterr().out and not (tmp_path / "report.html.2").exists()


def test_a_place_that_cannot_be_written_is_one_line(night: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    for place, says in ((str(tmp_path), "folder"), (str(tmp_path / "file" / "r.html"), "can't be written")):
        assert main(["report", "--home", str(night.folder), "--html", place]) == 2
        told = capsys.readouterr().err
        assert says in told and "--html" in told and told.count("\n") == 1
    for words in (("--card", "c.jpg"), ("--card", "c"), ("--card", str(tmp_path / "none" / "c.png"))):
        assert main(["report", "--home", str(night.folder), *words]) == 2
        told = capsys.readouterr().err
        assert "--card" in told and told.count("\n") == 1 and not (tmp_path / "none").exists()


def test_a_failure_has_the_reason_of_the_run_that_failed_where_a_later_one_was_lost() -> None:
    crashed = make_record(1, decision="crash", val_bpb=None, reason="RuntimeError: size 3", gain=None)
    (run,) = crashed.runs
    lost = replace(run, run_id="again", status="lost", reason="the node is gone")
    (failure,) = failures([replace(crashed, runs=(run, lost))])
    assert failure.reason == run.reason != lost.reason and len(failure.records) == 1


def test_failures_that_are_not_shown_are_counted(night: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_report, "MOST_FAILURES", 1)
    assert "and 2 more, for rarer" in page_for(night)[1].text
