"""Attacks on the training text: where a run could read it before its clock starts (27)."""

from research.sandbox.visible import UNUSED_PACKAGES
from tests.attacks.attack import Attack, before_training

READS = f"""
import sysconfig

PACKAGES = Path(sysconfig.get_paths()["purelib"])
names = {UNUSED_PACKAGES!r}
signs = ["duckdb/_relation.py", "git/cmd.py", "huggingface_hub/hf_api.py", "pyarrow/pandas_compat.py", "ray/actor.py"]

def read(how, path):
    try:
        text = path.read_bytes()
    except OSError:
        return
    if len(text) > 100:
        print("LEAK", how, path, flush=True)
        raise SystemExit
"""

FINDS_TEXT = {
    "where it is installed": """
    for place in {PACKAGES, *(Path(entry) for entry in sys.path if entry)}:
        for name in names:
            for path in [place / name / "__init__.py", *(place / name).glob("**/*.py"), *(place / name).glob("**/*.pyc")]:
                read("the text", path)
    """,
    "by a walk of all that it sees": """
    for folder, folders, files in os.walk("/"):
        if folder == "/":
            folders.remove("proc")
        for file in files:
            if f"{Path(folder).name}/{file}" in signs:
                read("a copy", Path(folder, file))
            if file.endswith((".whl", ".zip", ".tar.gz")) and file.partition("-")[0].lower() in names:
                read("an archive", Path(folder, file))
    """,
    "through links and other paths": """
    roots = ["/proc/self/root", f"/proc/{os.getppid()}/root", "/proc/1/root", "/proc/self/cwd/../../../.."]
    for place in [root + entry for root in roots for entry in sys.path if entry]:
        for name in names:
            read("the text", Path(place, name, "__init__.py"))
    """,
    "by an import": """
    import importlib
    import importlib.resources
    import importlib.util
    import pkgutil
    import subprocess

    for name in names:
        code = f"import {name}, sys; sys.exit({name}.__doc__ is not None or len(dir({name})) > 20)"
        done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
        found = importlib.util.find_spec(name)  # an empty folder is found, too, and has no origin
        if (found and found.origin) or (done.returncode and "Error" not in done.stderr):
            print("LEAK the package", name, flush=True)
        for attempt_to_read in (
            lambda: importlib.resources.files(name).joinpath("__init__.py").read_text(),
            lambda: pkgutil.get_data(name, "__init__.py"),
        ):
            try:
                if attempt_to_read():
                    print("LEAK the source of", name, flush=True)
            except Exception as error:
                print("attempt failed:", repr(error)[:100])
    """,
    "in the memory of the process that it was forked from": """
    import gc

    def holds(text, first, rest):  # in two parts, so that it doesn't find itself
        at = text.find(rest)
        while at >= 0 and text[at - 1 : at] != first:
            at = text.find(rest, at + 1)
        return at >= 0

    signs = [(b"@", b"ray.remote\\n"), (b"f", b"rom pyarrow.lib import"), (b"i", b"mport duckdb.")]

    if [module for name, module in sys.modules.items() if module is not None and name.partition(".")[0] in names]:
        print("LEAK a module", flush=True)
    if [thing for thing in gc.get_objects() if type(thing).__name__ == "memmap"]:
        print("LEAK rows", flush=True)
    with open("/proc/self/mem", "rb", 0) as memory:
        for line in Path("/proc/self/maps").read_text().splitlines():
            if line.endswith(".rows") or "memfd:rows" in line:
                print("LEAK rows", flush=True)
            if " rw-p " in line and not line.endswith("[vvar]"):
                start, end = (int(part, 16) for part in line.split()[0].split("-"))
                memory.seek(start)
                text = memory.read(end - start)
                if any(holds(text, first, rest) for first, rest in signs):
                    print("LEAK text in memory", flush=True)
    """,
}

CORPUS_ATTACKS: list[Attack] = [
    Attack(
        number=27,
        name=f"looks for the training text {how}",
        tries="train on it before the clock starts",
        train_py=before_training(READS + code.replace("\n    ", "\n")),
        sample=how == "where it is installed",  # the tests' own fork server may have imported what their farms need
    )
    for how, code in FINDS_TEXT.items()
]
