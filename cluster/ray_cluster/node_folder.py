"""A node worker's folder for its runs. The next worker on the node removes what a killed one left."""

from pathlib import Path

from research.locked_folder import LockedFolder

PREFIX = "autoresearch-node-"


class NodeFolder(LockedFolder):
    """A new folder, locked while the process that created it is alive."""

    def __init__(self, parent: Path | None = None) -> None:
        super().__init__(PREFIX, parent)
