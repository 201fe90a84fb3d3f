"""Where runs are executed: devices, engines, workers, the driver, and the commands of `farm`."""

from pathlib import Path

from cluster.own_packages import require_own_packages

require_own_packages(Path(__file__).parent.parent)  # before anything imports one of them, and fails with a traceback
