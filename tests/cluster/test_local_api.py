"""Commands reach the running farm over HTTP, and nobody else does."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from agent.submissions import Submission
from cluster import local_api
from cluster.cli import main
from cluster.home import Home
from cluster.local_api import MAX_BODY_BYTES, FarmServer, Submitted, connect, silent_farm
from cluster.person_requests import Answer, Ask
from research.errors import FarmEnded, UserError
from results.foreign_import import Import
from results.query import Table
from tests.in_time import in_time


def wait_for(condition):
    deadline = time.monotonic() + 120.0
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


@pytest.fixture
def farm(tmp_path):
    home = Home(tmp_path).create()
    stops = []

    def query(sql, audience):
        if "disk" in sql:
            raise OSError(5, "Input/output error")
        if "ended" in sql:
            raise FarmEnded
        if "DROP" in sql:
            raise UserError("Only SELECT.")
        return Table(columns=("sql", "audience"), rows=((sql, audience),))

    def ask(asked):
        if asked.what == "drop":
            raise UserError("It is not in the head.")
        return Answer(recorded=f"{asked.what} of {asked.group}", is_taken_up=True)

    status = {"loops": [], "home": tmp_path}
    server = FarmServer(
        home,
        status=lambda: status,
        query=query,
        ask=ask,
        record_import=lambda event, replace: Import(name=event["name"], is_new=True, replaces=replace),
        submit=lambda fields: Submitted(id=fields["title"], is_taken_up=True),
        stop=lambda: stops.append(1),
    )
    server.start()
    yield home, stops
    server.close()


def ask(home, token, method="GET", path="/status", body="{}"):
    address = json.loads(home.server_json.read_text())
    connection = http.client.HTTPConnection("127.0.0.1", address["port"])
    connection.request(method, path, body, {"Authorization": f"Bearer {token or address['token']}"})
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def test_commands_reach_the_farm(farm):
    home, stops = farm
    client = connect(home)
    assert client.status()["loops"] == []
    assert client.sql("SELECT 1").rows == (("SELECT 1", "agent"),)
    assert client.sql("SELECT 1", audience="agent").rows == (("SELECT 1", "agent"),)
    assert client.record_import({"name": "theirs", "lines": ["x" * 2**20]}, replace=True).replaces
    with pytest.raises(UserError, match="stop it"):
        client.record_import({"name": "theirs", "lines": ["x" * MAX_BODY_BYTES]}, replace=True)
    submission = Submission(group="g", title="deeper", hypothesis="", train_py="x" * 200_000, base="b")
    assert client.submit(submission) == Submitted(id="deeper", is_taken_up=True)
    client.stop()
    wait_for(lambda: stops == [1])


def test_a_stop_is_answered_before_it_can_end_the_process(tmp_path):
    """Whatever the command that holds the home does then."""
    home, answered, seen = Home(tmp_path).create(), threading.Event(), []
    nothing = dict.fromkeys(("query", "ask", "record_import", "submit"), lambda *given: None)
    server = FarmServer(home, status=lambda: {"home": str(tmp_path)}, stop=lambda: seen.append(answered.wait(10.0)), **nothing)
    server.start()
    with contextlib.closing(server):
        connect(home).stop()
        answered.set()
        wait_for(lambda: seen)
    assert seen == [True]


HOLDER = """
import fcntl, json, os, signal, socket, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN if sys.argv[2] == "ignores" else signal.default_int_handler)
lock = open(sys.argv[1], "w")
fcntl.flock(lock, fcntl.LOCK_EX)
lock.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": ""}))
lock.flush()
print("held", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(("ctrl_c", "ended_by"), [("hears", signal.SIGINT), ("ignores", signal.SIGTERM)])
def test_whatever_holds_the_home_and_does_not_answer_is_interrupted(tmp_path, capsys, monkeypatch, ctrl_c, ended_by):
    """As by Ctrl-C, or politely where a shell lets it ignore that."""
    monkeypatch.setattr(local_api, "STARTING_SECONDS", 0.2)
    home = Home(tmp_path).create()
    command = [sys.executable, "-S", "-c", HOLDER, str(home.lock_file), ctrl_c]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        assert main(["stop", "--home", str(tmp_path)]) == 0
        assert str(holder.pid) in capsys.readouterr().out
        assert holder.wait(20.0) == -ended_by
    assert main(["stop", "--home", str(tmp_path)]) == 2
    assert "No farm is running" in capsys.readouterr().err


def test_what_the_user_can_mend_comes_back_in_words(farm):
    with pytest.raises(UserError, match="Only SELECT"):
        connect(farm[0]).sql("DROP TABLE runs")


def test_a_farm_that_ends_meanwhile_is_told_from_a_wrong_query(farm):
    """With its last answer or without one: the history can then be read without it."""
    client = connect(farm[0])
    with pytest.raises(FarmEnded):
        client.sql("ended")
    with subprocess.Popen(["true"]) as dead, socket.create_server(("127.0.0.1", 0)) as silent:
        dead.wait()
        silent.listen()
        gone = replace(client, pid=dead.pid, port=silent.getsockname()[1])
        threading.Thread(target=lambda: silent.accept()[0].close(), daemon=True).start()
        with pytest.raises(FarmEnded):
            gone.sql("SELECT 1")


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/status"), ("POST", "/sql"), ("POST", "/request"), ("POST", "/submit"), ("POST", "/stop")]
)
def test_a_wrong_token_is_refused(farm, method, path):
    home, stops = farm
    for token in ("wrong", "é"):
        code, answer = ask(home, token, method, path, '{"sql": "SELECT 1"}')
        assert (code, answer) == (401, {"error": "wrong token"})
    assert stops == []


@pytest.mark.parametrize(
    ("token", "length", "code"), [("wrong", MAX_BODY_BYTES, b"401"), (None, -1, b"413"), (None, "x", b"413")]
)
def test_nothing_is_read_for_a_caller_without_the_token_or_of_unknown_length(farm, token, length, code):
    """The answer comes before any byte of the body is sent."""
    address = json.loads(farm[0].server_json.read_text())
    head = f"POST /sql HTTP/1.1\r\nAuthorization: Bearer {token or address['token']}\r\nContent-Length: {length}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", address["port"]), timeout=5) as connection:
        connection.sendall(head.encode())
        assert connection.recv(100).split()[1] == code


def test_who_sends_much_without_the_token_can_read_the_answer(farm):
    assert ask(farm[0], "wrong", "POST", "/import", "x" * 2**22)[0] == 401


@pytest.mark.parametrize("body", ["not json", "[]", "{}"])
def test_a_bad_request_is_answered(farm, body):
    assert ask(farm[0], None, "POST", "/sql", body)[0] == 400
    assert ask(farm[0], None, "GET", "/nowhere")[0] == 404


def test_who_says_nothing_of_themselves_is_an_agent(farm):
    assert ask(farm[0], None, "POST", "/sql", '{"sql": "x"}')[1]["rows"] == [["x", "agent"]]


def test_a_copy_of_the_home_reaches_no_farm(farm, tmp_path_factory):
    copy = tmp_path_factory.mktemp("copy") / "home"
    shutil.copytree(farm[0].folder, copy)
    assert connect(Home(copy)) is None and silent_farm(Home(copy)) == ""
    link = copy.with_name("link")
    link.symlink_to(farm[0].folder)
    assert connect(Home(link)) is not None


def test_a_paused_farm_is_named_at_once_with_what_wakes_it(tmp_path):
    home = Home(tmp_path)
    code = "import sys; from pathlib import Path; from cluster.home import Home\n"
    code += "with Home(Path(sys.argv[1])).lock(): print(1, flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        home.server_json.write_text(json.dumps({"pid": process.pid, "port": 1, "token": "x"}))
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        began = time.monotonic()
        assert connect(home) is None and f"kill -CONT {process.pid}" in silent_farm(home)
        assert in_time(began, 5)
        process.send_signal(signal.SIGCONT)
        process.stdin.close()


def test_a_request_that_fails_ends_itself_alone(farm, capfd):
    client = connect(farm[0])
    with pytest.raises(UserError, match="Input/output error"):
        client.sql("disk")
    for sent in (b"POST /sql HTTP/1.1\r\nContent-Length: 9\r\n\r\n{", b"POST /sql HTTP/1.1\r\nContent-Length: x\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", client.port)) as caller:
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, as of a killed caller
            caller.sendall(sent)
    assert client.sql("SELECT 1").rows == (("SELECT 1", "agent"),)
    time.sleep(0.1)
    assert "Traceback" not in capfd.readouterr().err


def test_only_the_user_can_read_the_token(farm):
    assert stat.S_IMODE(farm[0].server_json.stat().st_mode) == 0o600


def test_no_farm_no_client(tmp_path):
    home = Home(tmp_path)
    assert connect(home) is None
    home.server_json.write_text('{"pid": 4194304, "port": 1, "token": "x"}')
    assert connect(home) is None
    home.server_json.write_text('{"pid": 1, "port": 1, "token": "x"}')  # that pid lives, but is no farm
    assert connect(home) is None


def test_what_a_person_asks_reaches_the_farm_and_its_answer_comes_back(farm):
    client = connect(farm[0])
    assert client.ask(Ask(what="combine", group="g")) == Answer(recorded="combine of g", is_taken_up=True)
    with pytest.raises(UserError, match="not in the head"):
        client.ask(Ask(what="drop", group="g", idea="mar8-0001"))
    for body in ('{"what": "combine"}', '{"group": "g", "else": 1}'):
        assert ask(farm[0], None, "POST", "/request", body)[0] == 400
