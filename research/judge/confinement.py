"""What the judge puts its children into: which sandbox each gets, with which view, identity and compiled code."""

import os
from collections.abc import Mapping
from pathlib import Path

from research.child import rehearsal
from research.data.prepared import PreparedData
from research.gpu_driver import gpu_bytes, gpu_minor, gpu_name_for_cuda
from research.gpu_memory import SHARE_VARIABLE, scorer_bytes, trainer_bytes
from research.kernels import attention_choice, compile_cache
from research.kernels.attention import CHOICE_VARIABLE
from research.result import Placement, RunSpec
from research.sandbox.layers import FIRST_IDENTITY, Sandbox, check_strict, probe
from research.sandbox.limits import Bounds
from research.sandbox.namespaces import COMPILED
from research.sandbox.visible import View, view_of_run

CHILDREN = ("trainer", "scorer-a", "scorer-b")
COMPILING = ("trainer", "scorer-a")
"""Whose compiled code later runs may have; scorer B compiles what A does."""


class Confinement:
    """The sandboxes of one run. Raises UserError where `strict` asks for more than there is."""

    def __init__(self, spec: RunSpec, placement: Placement, data: PreparedData, train_py: str, scratch: Path) -> None:
        self._scratch = scratch
        self._trusted = compile_cache.is_trusted(train_py)
        self._shared = compile_cache.shared_folder(data.folder.parents[1], placement.device)
        self.bounds = Bounds.of_host(placement.memory_bytes)
        self._view = run_view(placement, data, also_readable=self._shared)
        self.layers = None if spec.sandbox == "off" else probe(self._view)
        if self.layers is not None and spec.sandbox == "strict":
            check_strict(self.layers)
        self._on_gpu = placement.device.startswith("cuda")
        chosen = attention_choice.choose(spec.contract, placement.device, self._shared)
        self._attention = {} if chosen is None else {CHOICE_VARIABLE: chosen}
        self._gpu_memory = placement.gpu_memory_bytes
        without_limit = self._on_gpu and placement.gpu_memory_bytes is None
        self._rehearses = without_limit and rehearsal.is_worth_it(
            threads=placement.threads or os.cpu_count() or 1,
            gpu_bytes=gpu_bytes(),
            compiled=compile_cache.holds_a_run(self._shared),
        )
        scratch.chmod(0o711)

    @property
    def layer_names(self) -> tuple[str, ...]:
        """As they are recorded."""
        return self.layers.names() if self.layers is not None else ()

    @property
    def waiting_processes(self) -> int:
        """How many of a child's processes only wait for the one that works."""
        return 2 if self.layers is not None and self.layers.namespaces else 0

    def sandbox(self, name: str, folder: Path) -> Sandbox | None:
        """For the child `name`, whose working directory is `folder`; that becomes its own."""
        if self.layers is None or not self.layers.linux:
            return None
        compiled = self._writes_compiled(name)
        identity = FIRST_IDENTITY + len(CHILDREN) * os.getpid() + CHILDREN.index(name)
        if compiled is not None:
            compiled.mkdir(exist_ok=True)
        if self.layers.identity:
            for path in (folder, *folder.iterdir(), *([compiled] if compiled else [])):
                os.chown(path, identity, identity)
        return Sandbox(
            layers=self.layers,
            view=self._view,
            compiled=compiled,
            identity=identity,
            disk_bytes=self.bounds.disk_bytes,
        )

    def environment(self, name: str, folder: Path) -> Mapping[str, str]:
        """What the sandbox of a child adds to its environment: everything that it writes goes to its own folder."""
        share = share_of_gpu(name, self._gpu_memory)
        if self.layers is None:
            return {"TMPDIR": str(folder), **self._attention, **share}
        private = COMPILED if self.layers.namespaces else self._writes_compiled(name) or folder / "compiled"
        return {
            "TMPDIR": str(folder),
            "HOME": str(folder),
            "USER": "run",  # the identity has no name that torch could look up
            "XDG_CACHE_HOME": str(folder),
            **compile_cache.variables(private),
            compile_cache.SHARED_VARIABLE: str(self._shared),
            **self._attention,
            **share,
            **({rehearsal.VARIABLE: "1"} if name == CHILDREN[0] and self._rehearses else {}),
            **({"CUDA_VISIBLE_DEVICES": gpu_name_for_cuda()} if self._on_gpu else {}),
        }

    def keep_compiled(self) -> None:
        """After a run with a score: what a trusted train.py compiled is for later runs too."""
        written = [folder for name in COMPILING if (folder := self._writes_compiled(name)) is not None and folder.is_dir()]
        if written:
            compile_cache.add_run_to_shared(written, self._shared)

    def _writes_compiled(self, name: str) -> Path | None:
        """A folder outside the sandbox that a child with a trusted train.py compiles into."""
        keeps = self._trusted and name in COMPILING and self.layers is not None
        return self._scratch / f"compiled-{name}" if keeps else None


def share_of_gpu(name: str, limit: int | None) -> Mapping[str, str]:
    """What tells the child `name` how much of the GPU's memory it may take, in a run that has a limit in bytes."""
    if limit is None:
        return {}
    return {SHARE_VARIABLE: str(trainer_bytes(limit) if name == CHILDREN[0] else scorer_bytes(limit))}


def run_view(placement: Placement, data: PreparedData, *, also_readable: Path) -> View:
    """What a run that is executed at `placement` sees of this machine."""
    private = [data.folder, Path(placement.run_folder).parent, *map(Path, data.evaluation_paths)]
    minor = gpu_minor() if placement.device.startswith("cuda") else None
    return view_of_run(private=private, gpu_minor=minor, also_readable=[also_readable])
