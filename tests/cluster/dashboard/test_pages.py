"""Every page shows what is on record, of a farm that runs and of one that has ended, and every text as text."""

import json
import re
from pathlib import Path
from urllib.parse import quote

import pytest
from starlette.testclient import TestClient

from cluster.home import Home
from results.experiment import Verdict
from results.history import read_history
from results.store import Store
from tests.cluster.dashboard.night import GROUP, OTHER, record_night
from tests.cluster.dashboard.visitor import HOSTILE, PAGES, page_of, visitor
from tests.cluster.ray_samples import wait_for
from tests.results.result_samples import make_run

PARTS = (
    "/fragments/headlines",
    "/fragments/devices",
    "/fragments/last_verdicts",
    "/fragments/experiment_rows",
    "/fragments/farm_state",
)
QUERY = "SELECT id, title, hypothesis, researcher FROM history"
GIVEN = ("/experiments/mar8-0007", f"/sql?q={quote(QUERY)}",
         *(f"{path}{quote(HOSTILE)}" for path in ("/sql?q=", "/experiments?text=", "/experiments/", "/")))  # fmt: skip
"""Addresses of which a part is a text from elsewhere."""


def test_the_overview_says_what_was_gained_and_whether_to_believe_it(client: TestClient) -> None:
    text = page_of(client.get("/").text).text
    for fact in ("1.0421", "1.0140", "+0.0281", "+0.0262", "+0.0301", "90%", "5 of 18 experiments", "5 fresh seeds", "$1.32"):
        assert fact in text
    assert "paused: mar8-gpu1" in text and "try a smaller vocabulary" in text and "no farm running" in text
    [done] = re.findall(r"Kept\s+\d+\s+of (\d+) experiments?;", text)
    assert re.findall(r"1\.0140\s+(\d+) experiments", text) == [done], "the picture counts as all else does: without baselines"


def test_the_last_verdicts_are_words(client: TestClient) -> None:
    text = page_of(client.get("/fragments/last_verdicts").text).text
    assert "learned residual scales" in text and "it probably helps by more than its price" in text
    assert "keep: effect" not in text, "the decision stands beside it"


def test_an_experiment_has_its_diff_runs_and_log(client: TestClient, night: Home) -> None:
    html = client.get("/experiments/mar8-0001").text
    text = page_of(html).text
    for fact in (
        "normalise queries and keys before RoPE",
        "less noise.",
        "mar8-0001-r0",
        "step 01705",
        "+3",
        "seccomp",
        "audit",
    ):
        assert fact in text
    with Store.open(night.folder) as store:
        [(price,)] = store.query("SELECT price FROM estimates WHERE id = 'mar8-0001'").rows
    assert f"price {price:+.5f}" in text, "the price that decides, as farm show has it"
    rows = [attributes["class"] for attributes in page_of(html).named("tr") if "class" in attributes]
    assert rows.count("added") == 3 and rows.count("removed") == 1


def test_an_experiment_is_found_by_the_beginning_of_its_commit(client: TestClient, night: Home) -> None:
    record = read_history(night.journal)[0].records[1]
    assert record.experiment.title in page_of(client.get(f"/experiments/{record.experiment.commit[:12]}").text).text


def test_a_diff_that_no_repository_has_says_so(client: TestClient) -> None:
    assert "no git repository here" in page_of(client.get("/experiments/mar8-0001?against=baseline").text).text


@pytest.mark.parametrize(
    ("address", "titles"),
    [
        ("status=kept&researcher=claude&sort=number&down=0", ["normalise queries", "decay the learning rate"]),
        ("status=failed&sort=title&down=0", ["a shape that", "depth 8 to 12", "train on the evaluation"]),
        ("status=unfinished", ["QK gain per head"]),
        ("text=ROTARY", ["longer rotary base"]),
        (
            "slot=Attention.forward&status=kept&sort=val_bpb&down=0&branch=autoresearch/mar8",
            ["learned residual", "relu squared", "norm"],
        ),
        ("slot=Attention", []),
        ("text=%27%3B+DROP+TABLE+runs+--", []),
    ],
)
def test_the_list_is_filtered_and_sorted_by_its_address(client: TestClient, address: str, titles: list[str]) -> None:
    page = page_of(client.get(f"/fragments/experiment_rows?{address}").text)
    found = [text for tag, text in page.texts if tag == "a" and len(text) > 9]
    assert len(found) == len(titles) and all(map(str.startswith, found, titles))


def test_nonsense_in_an_address_is_as_usual(client: TestClient) -> None:
    for address in ("sort=1;--&page=-3&down=x", "status=<script>&page=99999999999", "page=%ff&sort="):
        assert client.get(f"/experiments?{address}").status_code == 200


def test_a_page_behind_the_last_one_is_the_last(client: TestClient) -> None:
    assert "25 of 25" in page_of(client.get("/experiments?page=700").text).text


def test_what_was_under_way_when_the_farm_ended_is_interrupted(client: TestClient) -> None:
    text = page_of(client.get("/experiments?status=unfinished").text).text
    assert "interrupted" in text and "cuda:0" not in text


def test_the_chart_has_every_verdict_and_the_heads(client: TestClient) -> None:
    wait_for("estimates", lambda: "near-miss" in client.get("/progress.json").text)  # they are computed meanwhile
    (group,) = json.loads(client.get("/progress.json").text)["groups"]
    kinds = [point[2] for point in group["points"]]
    assert (kinds.count("kept"), kinds.count("crash"), kinds.count("invalid"), kinds.count("measured")) == (7, 2, 1, 4)
    assert kinds.count("near-miss") >= 1 and len(group["steps"]) == 6 and group["steps"][-1][1] == pytest.approx(1.0140)


def test_near_misses_are_those_of_the_estimates(client: TestClient) -> None:
    wait_for("estimates", lambda: "Only one of each" in client.get("/near-misses").text)
    text = page_of(client.get("/near-misses").text).text
    assert "softcap the logits" in text and "wave of 4 near-misses" in text
    assert "clashes" in text and "\N{MINUS SIGN}3.2 sigma" in text, "what was combined"
    assert "Attention.forward, MATRIX_LR" in text.replace(" ,", ","), "what can't be together"


def test_the_lineage_has_each_head_with_what_came_into_it(client: TestClient) -> None:
    text = page_of(client.get("/lineage").text).text
    assert "the head now" in text and text.index("learned residual") < text.index("Muon for matrices") < text.index(
        "the baseline"
    )


def test_costs_are_by_researcher_and_device(client: TestClient) -> None:
    text = page_of(client.get("/cost").text).text
    assert "118,800" in text and "some-model" in text and "cuda:1" in text and "for each 0.001" in text


def test_integrity_has_the_evidence(client: TestClient) -> None:
    text = page_of(client.get("/integrity").text).text
    assert "0.31 nats per token" in text and "landlock" in text and "the baseline again" in text and "no alarm" in text
    assert "standard deviations from what all runs expected" in text, "as the report has it"


def test_the_console_answers_links_and_explains(client: TestClient) -> None:
    page = page_of(client.get(f"/sql?q={quote(QUERY)}").text)
    assert {"href": "/experiments/mar8-0001"} in page.named("a") and "25 rows" in page.text
    refused = page_of(client.get(f"/sql?q={quote('DELETE FROM runs')}").text).text
    assert "DELETE" in refused and "Only reading" in refused
    assert "Exactly one SELECT" in page_of(client.get("/sql?q=SELECT+1;SELECT+2").text).text
    assert "audit_bpb" in page.text, "the schema stands beside it"


def test_every_saved_query_runs(client: TestClient) -> None:
    links = [one["href"] for one in page_of(client.get("/sql").text).named("a") if one["href"].startswith("/sql?q=")]
    assert len(links) >= 5
    for link in links:
        page = page_of(client.get(link).text)
        assert not [one for one in page.tags if one[1].get("role") == "alert"] and "row" in page.text


@pytest.mark.parametrize("path", [*PAGES, *PARTS, *GIVEN])
def test_every_text_is_text(hostile_client: TestClient, path: str) -> None:
    answer = hostile_client.get(path)
    page = page_of(answer.text)
    assert answer.status_code in (200, 404) and answer.headers["content-type"].startswith("text/html")
    assert all(set(one) >= {"src"} and one["src"].startswith("/static/") for one in page.named("script"))
    assert not [text for tag, text in page.texts if tag == "script" and text.strip()]
    for _, attributes in page.tags:
        assert not [
            name for name in attributes if name.startswith("on") or name == "style" or not name.replace("-", "").isalpha()
        ]
        assert attributes.get("href", "/").startswith(("/", "?", "#")) and not attributes.get("href", "/").startswith("//")
    assert "\u202e" not in answer.text and "49" not in [text for _, text in page.texts]


def test_hostile_texts_are_shown_in_full(hostile_client: TestClient) -> None:
    for path in ("/", "/experiments", "/experiments/mar8-0001", "/near-misses", "/lineage", "/integrity", "/cost"):
        assert "<script>alert(1)</script>\"'&{{7*7}}" in page_of(hostile_client.get(path).text).text, path


def test_the_points_of_the_chart_are_no_page(hostile_client: TestClient) -> None:
    assert hostile_client.get("/progress.json").headers["content-type"] == "application/json"


@pytest.mark.parametrize("path", [path for path in PAGES if "mar8" not in path])
def test_a_home_without_anything_has_pages(empty: TestClient, path: str) -> None:
    assert empty.get(path).status_code == 200


def test_a_home_without_anything_says_how_to_begin(empty: TestClient) -> None:
    assert "farm demo" in page_of(empty.get("/").text).text


def test_what_is_recorded_meanwhile_is_shown_and_nothing_holds_the_home(tmp_path: Path) -> None:
    home = Home(tmp_path)
    record_night(home.folder)
    with visitor(home) as client:
        assert "QK gain per head" not in page_of(client.get("/fragments/last_verdicts").text).text
        with home.lock(), Store.open(home.folder) as store:
            id = client.get("/experiments?status=unfinished").text.split("/experiments/mar8-")[1][:4]
            store.add_run(f"mar8-{id}", make_run("another", 1.0139))
            store.add_verdict(f"mar8-{id}", Verdict(decision="keep", reason="it helps"))
            assert "QK gain per head" in page_of(client.get("/fragments/last_verdicts").text).text
            assert "6 of 19 experiments" in page_of(client.get("/").text).text


def test_with_control_a_person_steers_as_by_the_commands(tmp_path: Path) -> None:
    home = Home(tmp_path)
    record_night(home.folder)
    own = {"origin": "http://127.0.0.1:8765"}
    with visitor(home, allows_changes=True) as client:
        form = {"what": "suggest", "group": GROUP, "text": "try <b>QK-norm</b>"}
        inputs = page_of(client.get("/experiments/mar8-0001").text).named("input")
        assert {"confirm", "mar8-0001"} <= {one["value"] for one in inputs}
        assert not page_of(client.get("/experiments/mar8-0000").text).named("form"), "a baseline"
        assert "Suggestion 2" in page_of(client.post("/control", data=form, headers=own).text).text
        assert (
            "is resumed" in client.post("/control", data={"what": "resume", "branch": OTHER, "group": GROUP}, headers=own).text
        )
        for wrong in ({"what": "drop", "group": GROUP}, {"what": "pause", "branch": "x", "group": "no group"}, {}):
            assert client.post("/control", data=wrong, headers=own).status_code == 400
        text = page_of(client.get("/").text).text
        assert "suggested: try <b>QK-norm</b>" in text and "paused" not in text


def test_a_farm_that_does_not_answer_is_not_taken_for_none(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with home.lock(), visitor(home) as client:
        page = page_of(client.get("/").text).text
        assert "farm doesn't answer" in page and "no farm running" not in page and "No farm is running" not in page
        assert "doesn't answer yet" in page_of(client.get("/fragments/devices").text).text
        assert "doesn't answer yet" in client.get("/status").text
