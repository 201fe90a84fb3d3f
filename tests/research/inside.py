"""Runs a piece of Python inside a sandbox, in a process that has not imported torch: what it prints comes back."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ENTER = """
import json, os, sys, tempfile
from pathlib import Path
from dataclasses import replace
from research.sandbox.layers import FIRST_IDENTITY, Sandbox, enter, probe
from research.sandbox.visible import view_of_run

denied, private, unread, missing, code = json.loads(sys.argv[1])
if denied:
    from tests.research.denied import deny
    deny(denied)
view = view_of_run(private=map(Path, private), gpu_minor=None, unread=map(Path, unread))
layers = replace(probe(view), **{name: False for name in missing})
print(json.dumps({"layers": layers.names(), "problems": dict(layers.problems)}), flush=True)
folder = Path(tempfile.mkdtemp(prefix="inside-"))
(folder / "train.py").write_text("x = 1")
if layers.identity:
    os.chown(folder, FIRST_IDENTITY + 7, FIRST_IDENTITY + 7)
here, channel = os.pipe()
pid = os.fork()
if pid == 0:
    os.setsid()
    os.chdir(folder)
    enter(Sandbox(layers=layers, view=view, identity=FIRST_IDENTITY + 7, disk_bytes=2**24), folder, channel=channel)

    def attempt(action):
        try:
            answer = action()
        except OSError as error:
            return f"errno {error.errno}"
        return answer if isinstance(answer, (int, str, list)) else "done"

    print(json.dumps(eval("(" + code + ")")), flush=True)
    os._exit(0)
status = os.waitpid(pid, 0)[1]
import shutil
shutil.rmtree(folder)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def inside(
    code: str,
    *,
    denied: Sequence[str] = (),
    private: Sequence[Path] = (),
    unread: Sequence[Path] = (),
    missing: Sequence[str] = (),
) -> tuple[dict, object]:
    """Layers and problems as the probe found them, and the value of the expression `code` in a sandbox.

    In `code`, `attempt(f)` is what f() gives, or `errno N`. `denied` calls of the system fail from the start, as on a host that
    lacks something; `missing` layers are left out.
    """
    paths = [[str(path) for path in given] for given in (private, unread)]
    arguments = json.dumps([list(denied), *paths, list(missing), code])
    done = subprocess.run([sys.executable, "-c", ENTER, arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    first, last = done.stdout.strip().splitlines()
    return json.loads(first), json.loads(last)
