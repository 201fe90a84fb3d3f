"""The dashboard beside a whole `farm run`: two loops, a Ctrl-C, and the same command again."""

import http.client
import os
import re
import signal
import threading
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from cluster.home import Home
from tests.cluster.dashboard.visitor import TOKEN, page_of, served
from tests.cluster.forked_farm import Cheaper
from tests.cluster.ray_samples import wait_for
from tests.cluster.tiny_checkout import Checkout

LOOPS = {"night-cpu0", "night-cpu0-2"}


@dataclass(frozen=True, kw_only=True)
class Visitor:
    """A browser that has followed the link, and listens to one stream of events."""

    host: str
    cookie: str
    heard: list[str] = field(default_factory=list)

    def read(self, path: str) -> str:
        """The text of a page or a part of one."""
        connection = http.client.HTTPConnection(self.host, timeout=60)
        connection.request("GET", path, headers={"Cookie": self.cookie})
        text = page_of(connection.getresponse().read().decode()).text
        connection.close()
        return text

    def listen(self, connection: http.client.HTTPConnection) -> None:
        """Hears the events of one connection until it is closed."""
        connection.request("GET", "/events", headers={"Cookie": self.cookie})
        for line in connection.getresponse():
            if line.startswith(b"event: "):
                self.heard.append(line[7:].decode().strip())

    def verdicts(self) -> set[tuple[str, int]]:
        """The loop and the number of each experiment among the last verdicts."""
        found = re.findall(r"(night\S*) #(\d+)", self.read("/fragments/last_verdicts"))
        return {(loop, int(number)) for loop, number in found}


def visit(address: str) -> Visitor:
    host = urlsplit(address).netloc
    connection = http.client.HTTPConnection(host, timeout=60)
    connection.request("GET", f"/?token={TOKEN}")
    cookie = (connection.getresponse().headers["set-cookie"] or "").partition(";")[0]
    connection.close()
    return Visitor(host=host, cookie=cookie)


def test_one_open_page_sees_the_verdicts_before_a_ctrl_c_and_after_the_resume(checkout: Checkout) -> None:
    quick = replace(checkout, cheaper=Cheaper(has_quick_judge=True, judge_seconds=0.2))
    command = ("run", "--tag", "night", "--loops", "2", "--devices", "cpu", "--researcher", "search")
    with served(Home(checkout.home)) as address:
        visitor = visit(address)
        connection = http.client.HTTPConnection(visitor.host)
        listening = threading.Thread(target=visitor.listen, args=(connection,), daemon=True)
        listening.start()
        assert "no farm running" in visitor.read("/fragments/farm_state")

        farm = quick.start(*command)
        wait_for("verdicts of both loops", lambda: {loop for loop, _ in visitor.verdicts()} == LOOPS)
        wait_for("events of the journal and of the farm", lambda: {"journal", "farm"} <= set(visitor.heard))
        wait_for("both loops", lambda: all(loop in visitor.read("/fragments/devices") for loop in LOOPS))
        os.kill(farm.pid, signal.SIGINT)
        output, _ = farm.communicate(timeout=120)
        assert farm.returncode == 0, output
        wait_for("end of the farm", lambda: "no farm running" in visitor.read("/fragments/farm_state"))

        before, heard = visitor.verdicts(), len(visitor.heard)
        farm = quick.start(*command)
        wait_for("later verdicts", lambda: {loop for loop, _ in visitor.verdicts() - before} == LOOPS)
        assert "journal" in visitor.heard[heard:], "by the same connection"
        os.kill(farm.pid, signal.SIGINT)
        output, _ = farm.communicate(timeout=120)
        assert farm.returncode == 0, output
        assert listening.is_alive(), "the stream never ended"
