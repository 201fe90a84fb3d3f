"""A judge for the train.py of tiny_checkout.py, without torch: the score follows from its learning rate and the run's seed.

It speaks the real one's protocol, takes the budget's time, or as many seconds as it is given if those are fewer, and leaves a
log. What doesn't compile crashes. For tests of what a farm does with results; how they come about is tested with the real
judge.
"""

import json
import random
import re
import select
import sys
from pathlib import Path

GOOD_LR = 0.01
"""A learning rate from here on learns."""


def say(**message: object) -> None:
    print(json.dumps(message), flush=True)


def main() -> None:
    say(event="ready")
    while line := sys.stdin.readline():
        order = json.loads(line)
        if order.get("ahead"):
            if not sys.stdin.readline():
                return
            say(event="asked")
        judge(order["spec"], order["placement"])


def judge(spec: dict, placement: dict) -> None:
    folder = Path(placement["run_folder"])
    text = (folder / "train.py").read_text()
    result = {"run_id": spec["run_id"], "seed": spec["seed"], "device": placement["device"], "status": "crash",
              "gpu_memory_bytes": placement["gpu_memory_bytes"]}  # fmt: skip
    try:
        compile(text, "train.py", "exec")
    except SyntaxError as error:
        say(event="result", result=result | {"reason": f"SyntaxError: {error}"})
        return
    log = folder / "run.log"
    log.write_text("step 00000 | loss 9.0\n")
    say(event="progress", phase="training", seconds=0.0, step=0, loss=9.0, fraction=0.0)
    budget = spec["contract"]["TIME_BUDGET"]
    if select.select([sys.stdin], [], [], min([budget, *map(float, sys.argv[1:])]))[0]:  # its end: so does the farm's
        sys.exit(0)
    rate = float(re.findall(r"^LR = (\S+)", text, re.MULTILINE)[0])
    noise = random.Random(f"{spec['seed']} {rate}").gauss(0.0, 0.001)
    scored = {"status": "ok", "reason": "", "val_bpb": 3.0 - 0.5 * (rate >= GOOD_LR) + noise, "num_params": 1000,
              "training_seconds": budget, "reported_steps": 30}  # fmt: skip
    say(event="result", result=result | scored)


if __name__ == "__main__":
    main()
