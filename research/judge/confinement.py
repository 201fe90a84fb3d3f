"""The confinement of a run's children: the sandbox of each, with its view, identity and compiled code."""

import os
from collections.abc import Mapping
from pathlib import Path

from research.child import rehearsal
from research.data.installed_text import installed_text
from research.data.prepared import PreparedData
from research.gpu_driver import gpu_bytes, gpu_minor, gpu_name_for_cuda
from research.judge.processes import CHILDREN, SCORERS, TRAINER
from research.kernels import attention_choice, compile_cache
from research.kernels.attention import CHOICE_VARIABLE
from research.result import Placement, RunSpec
from research.sandbox.layers import FIRST_IDENTITY, Sandbox, check_strict, probe
from research.sandbox.root_folder import COMPILED
from research.sandbox.visible import View, view_of_run

COMPILING = (TRAINER, SCORERS[0])
"""Children whose compiled code later runs can use; scorer B compiles the same as A."""

COMPILED_FOLDER = "compiled"
"""The folder of a child's own folder that it compiles into, so that it counts for the limit of disk space."""


class Confinement:
    """The sandboxes of one run."""

    def __init__(self, spec: RunSpec, placement: Placement, data: PreparedData, train_py: str, scratch: Path, *,
                 disk_bytes: int) -> None:  # fmt: skip
        """`scratch` holds the children's folders; each child writes at most `disk_bytes`.

        Raises UserError if the sandbox must be `strict` and a layer is missing.
        """
        self._scratch = scratch
        self._trusted = compile_cache.is_trusted(train_py)
        self._shared = compile_cache.shared_folder(data.folder.parents[1], placement.device)
        self._disk_bytes = disk_bytes
        self._view = run_view(placement, data, also_readable=self._shared)
        self.layers = None if spec.sandbox == "off" else probe(self._view)
        if self.layers is not None and spec.sandbox == "strict":
            check_strict(self.layers)
        self._on_gpu = placement.device.startswith("cuda")
        chosen = attention_choice.choose(spec.contract, placement.device, self._shared)
        self._attention = {} if chosen is None else {CHOICE_VARIABLE: chosen}
        without_limit = self._on_gpu and placement.gpu_memory_bytes is None
        self.rehearses = without_limit and rehearsal.is_worth_it(
            threads=placement.threads or os.cpu_count() or 1,
            gpu_bytes=gpu_bytes(),
            compiled=compile_cache.holds_a_run(self._shared),
        )
        scratch.chmod(0o711)

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Names of the layers in force, as a result records them."""
        return self.layers.names() if self.layers is not None else ()

    @property
    def waiting_processes(self) -> int:
        """Processes of each child that only wait for the one that works."""
        return 2 if self.layers is not None and self.layers.namespaces else 0

    def sandbox(self, name: str, folder: Path) -> Sandbox | None:
        """The sandbox of the child `name`; its working directory `folder` now belongs to its identity. None: no sandbox."""
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
            disk_bytes=self._disk_bytes,
        )

    def environment(self, name: str, folder: Path) -> Mapping[str, str]:
        """Environment variables of the child `name`: they keep what it writes in `folder`, and name the attention kernel."""
        if self.layers is None:
            return {"TMPDIR": str(folder), **self._attention}
        private = COMPILED if self.layers.namespaces else folder / COMPILED_FOLDER
        return {
            "TMPDIR": str(folder),
            "HOME": str(folder),
            "USER": "run",  # the identity has no name that torch could look up
            "XDG_CACHE_HOME": str(folder),
            **compile_cache.variables(private),
            compile_cache.SHARED_VARIABLE: str(self._shared),
            **self._attention,
            **({"CUDA_VISIBLE_DEVICES": gpu_name_for_cuda()} if self._on_gpu else {}),
        }

    def keep_compiled(self) -> None:
        """Adds what a trusted train.py compiled to the shared cache; call it after a run with a score."""
        written = [folder for name in COMPILING if (folder := self._writes_compiled(name)) is not None and folder.is_dir()]
        if written:
            compile_cache.add_run_to_shared(written, self._shared)

    def _writes_compiled(self, name: str) -> Path | None:
        """The folder outside the sandbox that the child `name` compiles into; None if its train.py is not trusted."""
        keeps = self._trusted and name in COMPILING and self.layers is not None
        return self._scratch / name / COMPILED_FOLDER if keeps else None


def run_view(placement: Placement, data: PreparedData, *, also_readable: Path) -> View:
    """The paths of this machine that a run at `placement` sees."""
    private = [data.folder, Path(placement.run_folder).parent, *map(Path, data.hidden_paths)]
    minor = gpu_minor() if placement.device.startswith("cuda") else None
    return view_of_run(private=private, gpu_minor=minor, also_readable=[also_readable], unread=installed_text(data.source))
