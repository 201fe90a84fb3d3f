"""Only who came by the link is answered, on this machine, and without --control nothing is changed."""

import pytest
from starlette.testclient import TestClient

from cluster.dashboard.application import cookie_of
from cluster.home import Home
from tests.cluster.dashboard.visitor import PAGES, TOKEN, visitor

FIXED = ("/static/farm.css", "/progress.json", "/events", "/nowhere", "/fragments/headlines")


@pytest.mark.parametrize("path", [*PAGES, *FIXED])
def test_without_the_token_nothing_is_shown(stranger: TestClient, path: str) -> None:
    for address in (path, f"{path}?token=wrong", f"{path}?token=", f"{path}?token=%ff"):
        answer = stranger.get(address)
        assert answer.status_code == 401 and "farm dashboard" in answer.text and "set-cookie" not in answer.headers


@pytest.mark.parametrize("cookie", ["", "wrong", TOKEN[:-1], f"{TOKEN}t"])
def test_a_wrong_cookie_is_none(stranger: TestClient, night: Home, cookie: str) -> None:
    for name in (cookie_of(night), "farm"):
        assert stranger.get("/", headers={"cookie": f"{name}={cookie}"}).status_code == 401


def test_the_link_leaves_a_cookie_and_an_address_without_the_token(stranger: TestClient, night: Home) -> None:
    answer = stranger.get(f"/experiments?status=kept&token={TOKEN}&page=2")
    assert answer.status_code == 303 and answer.headers["location"] == "/experiments?status=kept&page=2"
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"{cookie_of(night)}={TOKEN};") and "HttpOnly" in cookie and "SameSite=Strict" in cookie
    assert stranger.get("/experiments").status_code == 200


@pytest.mark.parametrize("path", ["//evil.example", "/\\evil.example", "//evil.example/%0d%0aSet-Cookie:x"])
def test_the_link_leads_to_no_other_host(stranger: TestClient, path: str) -> None:
    answer = stranger.get(f"http://127.0.0.1:8765{path}?token={TOKEN}")
    location = answer.headers["location"]
    assert answer.status_code == 303 and location.startswith("/") and not location.startswith(("//", "/\\"))
    assert "\n" not in location


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "0.0.0.0:8765", "", "[", "10.0.0.1"]
)
def test_another_host_is_refused_with_token_and_all(client: TestClient, host: str) -> None:
    for path in ("/", f"/?token={TOKEN}", "/static/farm.css"):
        assert client.get(path, headers={"host": host}, follow_redirects=False).status_code == 421


@pytest.mark.parametrize("host", ["localhost:8765", "127.0.0.1:9999", "[::1]:8765", "LOCALHOST"])
def test_a_tunnel_to_this_machine_is_answered(client: TestClient, host: str) -> None:
    cookies = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    assert client.get("/", headers={"host": host, "cookie": cookies}).status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1:8765", "http://127.0.0.1:1", ""])
def test_a_page_of_another_origin_is_refused(client: TestClient, origin: str) -> None:
    assert client.get("/", headers={"origin": origin}).status_code == 403
    assert client.get("/events", headers={"origin": origin}).status_code == 403


def test_its_own_origin_is_answered(client: TestClient) -> None:
    assert client.get("/", headers={"origin": "http://127.0.0.1:8765"}).status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_without_control_nothing_can_be_changed(client: TestClient, night: Home, method: str) -> None:
    before = night.journal.read_bytes()
    form = {"what": "resume", "branch": "autoresearch/mar8-gpu1", "group": "autoresearch/mar8"}
    for headers in ({}, {"origin": "http://127.0.0.1:8765"}):
        assert client.request(method, "/control", data=form, headers=headers).status_code == 405
    assert night.journal.read_bytes() == before


def test_with_control_a_form_of_another_site_changes_nothing(night: Home) -> None:
    before = night.journal.read_bytes()
    form = {"what": "resume", "branch": "autoresearch/mar8-gpu1", "group": "autoresearch/mar8"}
    with visitor(night, allows_changes=True) as client:
        for headers in ({}, {"origin": "http://evil.example"}, {"origin": "null"}):
            assert client.post("/control", data=form, headers=headers).status_code == 403
    assert night.journal.read_bytes() == before


@pytest.mark.parametrize("path", [*PAGES, "/nowhere", "/static/farm.css", "/fragments/devices", "/progress.json"])
def test_every_answer_has_a_strict_policy(client: TestClient, path: str) -> None:
    answer = client.get(path)
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'" and policy["script-src"] == policy["style-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'" and "unsafe" not in str(policy)
    assert answer.headers["x-content-type-options"] == "nosniff" and "no-" in answer.headers["cache-control"]


def test_a_browser_keeps_scripts_and_no_page(client: TestClient) -> None:
    first = client.get("/static/progress.js")
    assert first.headers["cache-control"] == "no-cache"
    assert client.get("/static/progress.js", headers={"if-none-match": first.headers["etag"]}).status_code == 304
    assert client.get("/").headers["cache-control"] == client.get("/progress.json").headers["cache-control"] == "no-store"


def test_who_is_refused_gets_the_policy_too(stranger: TestClient) -> None:
    assert "default-src 'none'" in stranger.get("/").headers["content-security-policy"]


BEARER = {"authorization": f"Bearer {TOKEN}"}


def test_a_program_with_the_token_asks_as_it_asks_a_farm(stranger: TestClient) -> None:
    query = {"sql": "SELECT count(*) AS n FROM history WHERE decision = 'keep'"}
    found = stranger.post("/sql", json=query, headers=BEARER)
    assert found.status_code == 200 and found.json() == {"columns": ["n"], "rows": [[7]], "truncated": False}
    assert stranger.get("/status", headers=BEARER).json()["error"].startswith("No farm is running")
    assert stranger.get("/experiments", headers=BEARER).status_code == 200
    refused = stranger.post("/sql", json={"sql": "DROP TABLE runs"}, headers=BEARER)
    assert refused.status_code == 400 and "SELECT" in refused.json()["error"]
    assert stranger.post("/sql", content=b"[]", headers=BEARER).status_code == 400
    audit = {"sql": "SELECT count(*) FROM audit"}
    assert stranger.post("/sql", json=audit, headers=BEARER).status_code == 400, "an agent sees no audit scores"
    assert stranger.post("/sql", json={**audit, "audience": "person"}, headers=BEARER).status_code == 200


def test_a_program_changes_nothing_and_no_page_is_taken_for_one(stranger: TestClient, client: TestClient) -> None:
    query = {"sql": "SELECT 1"}
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": ""}):
        assert stranger.post("/sql", json=query, headers=headers).status_code == 405
        assert stranger.get("/status", headers=headers).status_code == 401
    assert stranger.post("/control", json={}, headers=BEARER).status_code == 405
    assert client.post("/sql", json=query, headers={"origin": "http://127.0.0.1:8765"}).status_code == 405, "a page's cookie"
    assert stranger.post("/sql", json=query, headers={**BEARER, "origin": "http://evil.example"}).status_code == 403
    assert stranger.post("/sql", json=query, headers={**BEARER, "host": "evil.example"}).status_code == 421
