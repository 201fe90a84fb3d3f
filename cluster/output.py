"""Standard output of commands that go on when nobody reads it any more."""

import contextlib
import sys

from cluster.home import Home, home_option
from research.command_hints import to_type
from research.errors import UserError
from research.streams import drop_output


class LastingOutput:
    """Prints lines on standard output. When it breaks (`farm run | head`, a full disk, a closed terminal), that is said once on
    standard error and noted in the home's log, and further lines are dropped.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._lost = False

    def line(self, text: str) -> None:
        """Prints one line at once."""
        if self._lost:
            return
        try:
            print(text, flush=True)
        except OSError as error:
            self._lost = True
            drop_output()
            with contextlib.suppress(UserError):
                self._home.log_event("output_lost", reason=error.strerror)
            status, stop = (to_type(f"farm {name}{home_option(self._home)}") for name in ("status", "stop"))
            lost = f"farm: standard output can't be written any more ({error.strerror}), but the farm goes on"
            try:
                print(f"{lost}: {status} shows what it does, {stop} ends it", file=sys.stderr, flush=True)
            except OSError:  # the terminal is gone, too
                sys.stderr = sys.stdout
