"""The command that resumes a branch, for hints that people paste."""

import json

from cluster.home import Home, home_option
from research.command_hints import to_type
from results.experiment import Branch

STARTED_WITH = "started_with"
"""The kind of the logged event that says with which options a tag was last worked on."""


def log_options(home: Home, tag: str, words: str, *, command: str = "run") -> None:
    """Logs the options of a command that works on a tag, as `resuming` gives them again."""
    home.log_event(STARTED_WITH, tag=tag, options=words, command=command)


def resuming(home: Home, branch: Branch) -> str:
    """The command that resumes a branch: on its terms, and with the options that its tag was last worked on with."""
    from cluster.loop_plans import TERM_OPTIONS, term_options  # heavy, and only this function needs it

    terms = term_options(json.loads(branch.contract_json), TERM_OPTIONS)
    started = home.last_event(STARTED_WITH, tag=branch.tag)
    words = [f"farm {started.get('command', 'run')}", f"--tag {branch.tag}", terms, str(started.get("options", ""))]
    return to_type(" ".join(filter(None, words)) + home_option(home))
