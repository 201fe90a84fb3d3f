"""Commands that run without the privilege to read and write what permissions forbid, even where the tests run as root."""

import os
import shutil

import pytest


def unprivileged(*command: str) -> list[str]:
    """The command, for which a folder of mode 0555 is read-only, and another user's private files are out of reach."""
    if os.geteuid() != 0:
        return list(command)
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("root without setpriv (util-linux)")
    return [setpriv, "--bounding-set", "-dac_override,-dac_read_search", "--inh-caps", "-all", *command]
