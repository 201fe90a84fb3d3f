"""What runs leave behind in the kernel's caches of files, where a later run could find it, and how it is erased."""

from pathlib import Path

from research.data.prepared import PreparedData
from research.judge.confinement import run_view
from research.kernels import compile_cache
from research.result import Placement
from research.sandbox.page_cache import READS, PageCache, drop_names


class Traces:
    """The traces of the runs at one placement."""

    def __init__(self, placement: Placement) -> None:
        data = PreparedData.load(Path(placement.data_folder))
        shared = compile_cache.shared_folder(data.folder.parents[1], placement.device)
        reads = READS if placement.device.startswith("cuda") else 0
        self._cache = PageCache(run_view(placement, data, also_readable=shared), reads=reads)

    def erase(self) -> None:
        """Has the kernel forget which names were looked up, where it lets us, and know all files that runs see alike.

        The first call lists those files, which takes seconds, and on a GPU reads them, which takes more: on a CPU, where scores
        are for trying things out, marks of what was read stay. Later calls take half a second.
        """
        drop_names()
        self._cache.warm()
