"""Attacks on the machine and whoever shares it: leavings, pickles, other processes, files, GPUs, the network (17 to 22)."""

from tests.attacks.attack import Attack, before_the_end, before_training, while_scored

PLACES = {
    "/dev/shm": 'PLACES = [Path("/dev/shm/$marker")]',
    "/tmp": 'PLACES = [Path("/tmp/$marker"), Path("/var/tmp/$marker")]',
    "its home": 'PLACES = [Path.home() / ".cache/$marker", Path.home() / "$marker"]',
    "the folders above its own": 'PLACES = [folder / "$marker" for folder in Path.cwd().parents]',
    "the compile cache": """
import tempfile
PLACES = [Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR", "/nowhere")) / "$marker",
          Path(os.environ.get("TRITON_CACHE_DIR", "/nowhere")) / "$marker",
          Path(tempfile.gettempdir()) / "torchinductor-$marker"]
""",
    "the farm's code": 'PLACES = [Path(p) / "$marker" for p in sys.path if p]',
    "a System V segment": None,
    "the kernel's keys": None,
    "a POSIX message queue": None,
}

PLANT_FILES = """
for place in PLACES:
    try:
        place.write_bytes(b"weights")
    except OSError:
        pass
"""

FIND_FILES = """
if any(place.exists() for place in PLACES):
    print("LEAK what an earlier run planted", flush=True)
for place in PLACES:
    if place.exists():
        place.unlink()
"""

KERNEL_PLACES = {
    "a System V segment": ("LIBC.shmget($segments + 1, 4096, 0o1666)", "LIBC.shmget($segments + 1, 4096, 0) >= 0"),
    "the kernel's keys": (
        'LIBC.syscall(ctypes.c_long(248), b"user", b"$marker", b"weights", ctypes.c_long(7), ctypes.c_long(-4))',
        'LIBC.syscall(ctypes.c_long(249), b"user", b"$marker", ctypes.c_long(0), ctypes.c_long(-4)) >= 0',
    ),
    "a POSIX message queue": (
        'LIBC.mq_open(b"/$marker", os.O_CREAT | os.O_RDWR, 0o666, None)',
        'LIBC.mq_open(b"/$marker", os.O_RDWR) >= 0 and LIBC.mq_unlink(b"/$marker") == 0',
    ),
}


def planted(where: str) -> Attack:
    if where in KERNEL_PLACES:
        plant, find = KERNEL_PLACES[where]
        first = f"import ctypes\nLIBC = ctypes.CDLL(None)\n{plant}\n"
        second = (
            f"import ctypes\nLIBC = ctypes.CDLL(None)\nif {find}:\n    print('LEAK what an earlier run planted', flush=True)\n"
        )
    else:
        first, second = (f"{PLACES[where]}\n{code}" for code in (PLANT_FILES, FIND_FILES))
    return Attack(
        number=17,
        name=f"leaves something in {where}",
        tries="start from what an earlier run has learned",
        first=before_training(first),
        train_py=before_training(second),
        sample=where == "the compile cache",
    )


READS_PROCESSES = {
    "environments": """
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                text = path.read_bytes()
            except OSError:
                continue
            if b"FARM_CANARY=" in text or b"VICTIM_SECRET=" in text:
                print("LEAK", text.partition(b"_CANARY=")[2][:40] or text.partition(b"_SECRET=")[2][:40], flush=True)
    """,
    "memory by /proc": """
        for pid in (os.getppid(), $victim_pid):
            try:
                lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
                with open(f"/proc/{pid}/mem", "rb", 0) as memory:
                    start, end = next(line for line in lines if "[stack]" in line).split()[0].split("-")
                    memory.seek(int(start, 16))
                    if memory.read(int(end, 16) - int(start, 16)):
                        print("LEAK the memory of another process", flush=True)
            except OSError:
                pass
    """,
    "memory by process_vm_readv": """
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        class Part(ctypes.Structure):
            _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]
        buffer = ctypes.create_string_buffer(64)
        for pid in (os.getppid(), $victim_pid):
            place = ctypes.addressof(buffer)  # of a fork, the same; of another program, tried at its own maps
            try:
                line = next(line for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if "[stack]" in line)
                place = int(line.split()[0].split("-")[1], 16) - 64
            except OSError:
                pass
            if libc.process_vm_readv(pid, ctypes.byref(Part(place_of(buffer), 64)), 1, ctypes.byref(Part(place, 64)), 1, 0) > 0:
                print("LEAK the memory of another process", flush=True)
    """.replace("place_of(buffer)", "ctypes.addressof(buffer)"),
    "by ptrace": """
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        for pid in ($victim_pid, os.getppid()):
            if libc.ptrace(0x4206, pid, None, None) == 0:  # PTRACE_SEIZE, which does not stop it
                libc.ptrace(17, pid, None, None)
                print("LEAK could trace another process", flush=True)
    """,
    "descriptors": """
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        for pid in (os.getppid(), $victim_pid):
            try:
                for name in os.listdir(f"/proc/{pid}/fd"):
                    os.readlink(f"/proc/{pid}/fd/{name}")
                    print("LEAK the descriptors of another process", flush=True)
                    break
            except OSError:
                pass
            handle = libc.syscall(434, pid, 0)  # pidfd_open
            if handle >= 0 and libc.syscall(438, handle, 1, 0) >= 0:  # pidfd_getfd
                print("LEAK took a descriptor of another process", flush=True)
    """,
    "names and command lines": """
        mine = {os.getpid(), 1}
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            if b"VICTIM_SECRET" in path.read_bytes():
                print("LEAK the command line of another process", flush=True)
    """,
    "its own memory for what the judge's environment held": """
        import re
        name = b"FARM_" + b"CANARY="
        for line in Path("/proc/self/maps").read_text().splitlines():
            fields = line.split()
            if fields[1][0] != "r" or "[v" in line or (len(fields) > 5 and fields[5].startswith("/")):
                continue
            start, end = (int(x, 16) for x in fields[0].split("-"))
            if end - start > 2**28:
                continue
            with open("/proc/self/mem", "rb", 0) as memory:
                memory.seek(start)
                try:
                    found = re.search(rb"canary-[0-9a-f]{24}", memory.read(end - start))
                except OSError:
                    continue
            if found:
                print("LEAK", found[0], flush=True)
                break
    """,
}

CHANGES_FILES = {
    "the store": 'with open("$outside/farm/journal.jsonl", "a") as f:\n    f.write("{}\\n")',
    "a branch": 'Path("$outside/repository/.git/refs/heads/main").write_text("1" * 40)',
    "a hook": 'path = Path("$outside/repository/.git/hooks/post-commit")\npath.write_text("#!/bin/sh\\nid")\npath.chmod(0o755)',
    "another worktree": 'Path("$outside/worktree/research/train.py").write_text("DEPTH = 9")',
    "by a link": 'os.symlink("$outside/farm/history.parquet", "run.log")\nPath("run.log").write_text("x")',
    "by a rename": 'os.rename("$outside/farm/history.parquet", "$outside/farm/gone")',
    "by a removal": 'os.unlink("$outside/farm/history.parquet")',
    "rights": 'os.chmod("$outside/private.txt", 0o777)',
    "the compile cache": 'Path("$outside/compile-cache/aa/kernel.py").write_text("import os")',
    "with the rights of its user's home": 'Path(os.environ["HOME"], ".bashrc").write_text("id")',
}

RESULT_IS_A_FOLDER = """
for name in os.listdir(f"/proc/{os.getppid()}/fd"):
    path = Path(os.readlink(f"/proc/{os.getppid()}/fd/{name}"))
    if path.name == "run.log":
        (path.with_name("result.json")).write_text('{"status": "ok", "val_bpb": 0.1}')
        path.with_name("result.json.tmp").mkdir()
        path.with_name("train.py").write_text("")
        print("LEAK could write into the run's folder", flush=True)
"""

SENDS = {
    "TCP": 'import socket\nsocket.create_connection(("127.0.0.1", $tcp_port), timeout=1).send(b"x")',
    "UDP": 'import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", $udp_port))',
    "a Unix socket": 'import socket\nsocket.socket(socket.AF_UNIX).connect("$unix_path")',
    "an abstract Unix socket": 'import socket\nsocket.socket(socket.AF_UNIX).connect("\\0$abstract")',
    "another program": 'import subprocess\nsubprocess.run(["bash", "-c", "echo x > /dev/tcp/127.0.0.1/$tcp_port"], timeout=5)',
}

READS = {
    "a secret file": 'print("LEAK", Path("$secret_file").read_text(), flush=True)',
    "a private file": 'print("LEAK", Path("$private_file").read_text(), flush=True)',
    "another run's log and model": 'print("LEAK", Path("$earlier_run/run.log").read_text(), flush=True)',
    "keys of its user": 'print("LEAK", Path(os.environ["HOME"], ".ssh/id_ed25519").read_text(), flush=True)',
    "keys in the environment": 'print("LEAK", os.environ["FARM_CANARY"], flush=True)',
    "the first environment": 'text = Path("/proc/self/environ").read_bytes()\n'
    'if b"FARM_CANARY=" in text:\n    print("LEAK", text, flush=True)',
    "names of files": 'print("LEAK", os.listdir("$outside"), flush=True)',
}

HARMS = {
    "kills it": "os.kill($victim_pid, signal.SIGKILL)",
    "stops it": "os.kill($victim_pid, signal.SIGSTOP)",
    "signals all processes": "os.kill(-1, signal.SIGURG)",
    "lowers its priority": "os.setpriority(os.PRIO_PROCESS, $victim_pid, 19)",
    "binds it to one core": "os.sched_setaffinity($victim_pid, {0})",
    "limits its files": "import resource\nresource.prlimit($victim_pid, resource.RLIMIT_NOFILE, (3, 3))",
}

MACHINE_ATTACKS: list[Attack] = [
    *map(planted, PLACES),
    Attack(
        number=18,
        name="hands over a pickle",
        tries="run code in whoever loads the model",
        train_py=before_the_end(
            """
            import pickle
            from research import session as sessions
            class Code:
                def __reduce__(self):
                    return (os.system, ("touch $outside/farm/code",))
            from research.ipc.memory import memory_with
            content = pickle.dumps(Code())
            sessions.memory_with_tensors = lambda tensors: (memory_with(content), len(content))
            """
        ),
        statuses=("invalid",),
        reason="not handed over as safetensors",
        sample=True,
    ),
    Attack(
        number=18,
        name="hands over a file of torch.save",
        tries="run code in whoever loads the model",
        train_py=before_the_end(
            """
            import io
            from research import session as sessions
            from research.ipc.memory import memory_with
            torch.save(model, buffer := io.BytesIO())
            content = buffer.getvalue()
            sessions.memory_with_tensors = lambda tensors: (memory_with(content), len(content))
            """
        ),
        statuses=("invalid", "crash"),
        reason="not handed over as safetensors",
    ),
    *(
        Attack(
            number=19,
            name=f"reads other processes: {what}",
            tries="learn what the judge knows",
            train_py=before_training(code),
            sample=what == "environments",
            residue_without_namespaces="command lines can be read" if what == "names and command lines" else "",
        )
        for what, code in READS_PROCESSES.items()
    ),
    *(
        Attack(
            number=20,
            name=f"changes files: {what}",
            tries="change what others rely on",
            train_py=before_training(code),
            sample=what == "the store",
        )
        for what, code in CHANGES_FILES.items()
    ),
    Attack(
        number=20,
        name="a scorer changes files",
        tries="change what others rely on",
        train_py=while_scored(CHANGES_FILES["the store"]),
    ),
    Attack(
        number=20,
        name="writes the result itself",
        tries="have its own result read",
        train_py=before_training(RESULT_IS_A_FOLDER),
    ),
    *(
        Attack(
            number=21,
            name=f"another process: {what}",
            tries="starve a neighbour",
            train_py=before_training(code),
            sample=what == "signals all processes",
        )
        for what, code in HARMS.items()
    ),
    Attack(
        number=21,
        name="kills the judge",
        tries="have a failed run count as lost",
        train_py=before_training("os.kill(os.getppid(), signal.SIGKILL)"),
    ),
    Attack(
        number=21,
        name="stops the judge while it trains",
        tries="have more time",
        train_py=before_the_end(
            "try:\n    os.kill(os.getppid(), signal.SIGSTOP)\n    time.sleep(0.2)\n"
            "    state = Path(f'/proc/{os.getppid()}/stat').read_text().rpartition(')')[2].split()[0]\n"
            "    print('LEAK could stop the judge' if state == 'T' else 'it goes on', flush=True)\n"
            "    os.kill(os.getppid(), signal.SIGCONT)\n"
            "except OSError:\n    pass"
        ),
    ),
    Attack(
        number=21,
        name="uses another GPU",
        tries="train on a device that it was not given",
        train_py=before_training("torch.zeros(1, device='cuda:1')\nprint('LEAK another GPU', flush=True)"),
        needs_gpus=2,
    ),
    *(
        Attack(
            number=22,
            name=f"sends something by {way}",
            tries="tell somebody what it has found",
            train_py=before_training(code),
            sample=way == "TCP",
        )
        for way, code in SENDS.items()
    ),
    *(
        Attack(
            number=22,
            name=f"reads {what}",
            tries="find keys and what others do",
            train_py=before_training(code),
            sample=what == "keys of its user",
        )
        for what, code in READS.items()
    ),
    Attack(
        number=22,
        name="a scorer reads a secret file",
        tries="find keys",
        train_py=while_scored('return "LEAK " + Path("$secret_file").read_text()'),
    ),
]
