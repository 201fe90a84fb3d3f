"""A judge that speaks the real one's protocol without torch. What it does is told by the text of train.py:

`ok`, `slow` (goes on until it is ended), `stubborn` (ignores SIGTERM and the closed pipe), `die` (exit status 3 with last
words), `garbage` (a result that can't be read), `silent` (says nothing), `environment` (its environment as the reason),
`files` (takes two seconds and leaves a log), `scored` (is scored for half a second), `oom` and `scored oom` (end so, at
once or after that), `scored die`, `unlucky` (out of memory where it is started ahead, just before it has heard that it is
asked for). A text with SCORED has a score that follows from its constants and the seed. `slow` and `stubborn` start a
grandchild and write its pid into the run folder; `traced FILE` and `stubborn traced FILE` write it into that file. A run
that was started ahead says so in its reason.
"""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path


def say(**message):
    print(json.dumps(message), flush=True)


def end_with_the_farm(child):
    """The real judge's promise: at the end of standard input it ends its tree."""
    sys.stdin.read()
    child.kill()
    os._exit(0)


def main():
    say(event="ready")
    while line := sys.stdin.readline():
        judge(json.loads(line))


def score_of(text, seed):
    """Lower by the gain of each constant that is 1, and some noise that the text and the seed decide."""
    gains = {"A": 0.05, "B": 0.04, "C": -0.05, "D": 0.03}
    gain = sum(gain for name, gain in gains.items() if f"\n{name} = 1\n" in text)
    return 2.0 - gain + random.Random(f"{seed} {text}").gauss(0.0, 0.001)


def judge(order):
    spec, place = order["spec"], order["placement"]
    what = Path(place["run_folder"], "train.py").read_text()
    trace = Path(place["run_folder"], "pids")
    if "traced" in what:
        what, _, path = what.rpartition(" ")
        trace, what = Path(path), "stubborn" if "stubborn" in what else "slow"
    result = {"run_id": spec["run_id"], "status": "ok", "reason": "ran", "seed": spec["seed"], "device": place["device"],
              "gpu_memory_bytes": place["gpu_memory_bytes"]}  # fmt: skip
    say(event="progress", phase="startup", seconds=0.0, step=None, loss=None, fraction=0.0)
    Path(place["run_folder"]).mkdir(parents=True, exist_ok=True)
    if order.get("ahead") and what not in ("oom", "die"):
        Path(place["run_folder"], "started").write_text(str(os.getpid()))
        if not (line := sys.stdin.readline()):
            sys.exit(0)
        assert json.loads(line) == {"go": True}
        if what == "unlucky":
            say(event="result", result=result | {"status": "oom"})
            return
        say(event="asked")
        result["reason"] = "started ahead"
    if "scored" in what:
        for _ in range(10):
            say(event="progress", phase="scoring", seconds=0.0, step=9, loss=1.5, fraction=1.0)
            time.sleep(0.05)
    if "oom" in what:
        say(event="result", result=result | {"status": "oom"})
        return
    if what in ("slow", "stubborn"):
        if what == "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
        trace.write_text(f"{os.getpid()} {child.pid}")
        if what == "slow":
            threading.Thread(target=end_with_the_farm, args=(child,), daemon=True).start()
        while True:
            say(event="progress", phase="training", seconds=1.0, step=1, loss=2.0, fraction=0.1)
            time.sleep(0.1)
    if what == "files":
        for _ in range(20):
            say(event="progress", phase="training", seconds=1.0, step=1, loss=2.0, fraction=0.1)
            time.sleep(0.1)
        Path(place["run_folder"], "run.log").write_text("a log\n")
    if what.endswith("die"):
        print("something broke\nlast words", file=sys.stderr)
        sys.exit(3)
    if what == "garbage":
        say(event="result", result={"status": "ok"})
        return
    if what == "silent":
        sys.stdin.read()
        return
    if what == "environment":
        result["reason"] = json.dumps(dict(os.environ))
    if "SCORED" in what:
        say(event="result", result=result | {"val_bpb": score_of(what, spec["seed"])})
        return
    print("some library's chatter", flush=True)
    say(event="progress", phase="scoring", seconds=2.0, step=9, loss=1.5, fraction=1.0)
    say(event="result", result=result | {"val_bpb": 1.25})


main()
