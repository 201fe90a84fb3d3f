"""`farm`: the command line. A group's commands are the functions of one module: `status`, in the group `look`, is the function
`status` in cluster/commands/look.py.

Only the module of the command that was given is imported, so that help and short commands start at once.
"""

import argparse
import builtins
import contextlib
import importlib
import keyword
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from cluster.background import exit_without_waiting, is_left_behind
from cluster.command_parser import make_parser
from cluster.first_steps import first_steps
from cluster.parser_parts import with_short_words
from cluster.proxies import LOOPBACK, reach_directly
from research.command_hints import to_type
from research.errors import UserError
from research.formatting import is_text, shortened
from research.streams import drop_output, installation_refusal, output_refusal, prepare_streams, refusal

LONGEST_ECHO = 400
"""Characters of a word of the command line that a command's error repeats; a path can be longer than what the parser's do."""

LONGEST_ERROR = 2_000
"""Characters of a command's error."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns the exit status: 0 done, 1 done with a bad outcome, 2 a mistake that one line explains."""
    prepare_streams()
    reach_directly(*LOOPBACK)
    status = _status_of(sys.argv[1:] if arguments is None else list(arguments))
    exit_without_waiting(status)
    return status


def _status_of(given: Sequence[str]) -> int:
    """Runs a command, and explains in one line whatever ends it early."""
    try:
        status = run_command(given)
        sys.stdout.flush()
        return status
    except UserError as error:
        print(f"farm: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        again = " while it prepared: the same command prepares again what is not complete" if is_left_behind() else ""
        print(f"farm: stopped{again}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `farm sql ... | head`
        drop_output()
        return 1
    except OSError as error:
        refused = output_refusal() or refusal(error, checkout=_checkout_here())
        if refused is None:
            raise
        with contextlib.suppress(OSError):
            print(f"farm: {refused}", file=sys.stderr)
        drop_output()  # what could not be written there can't be at the exit either
        return 2
    except Exception as error:
        if (told := installation_refusal(error)) is None:
            raise
        print(f"farm: {told}", file=sys.stderr)
        return 2


def _checkout_here() -> Path | None:
    """The checkout around the current folder, if there is one."""
    from cluster.home import find_checkout

    try:
        return find_checkout()
    except OSError:  # the folder is gone
        return None


def run_command(given: Sequence[str]) -> int:
    """Runs the command that a command line names; without one, says what to do first. Raises UserError."""
    if not given:
        print(first_steps(), end="")
        return 0
    if given[0] == "help":
        given = [*given[1:2], "--help"]
    for word in given:
        if not is_text(word):
            raise UserError(f"{word!r} holds bytes that are no text in this terminal's encoding: use other characters.")
    if given[0] == "--version":
        from importlib.metadata import version

        print(f"autoresearch-farm {version('autoresearch-farm')}")
        return 0
    parser = make_parser()
    command = next((word for word in given if word in parser.commands), None)
    if command is not None and given[0].startswith("-") and given[0] not in ("-h", "--help"):
        parser.error(f"options follow the command, as in {to_type(f'farm {command} --home FOLDER')}")
    try:
        options, unknown = parser.parse_known_args(given)
    except UserError as error:  # a type of an option refuses its value
        raise UserError(with_short_words(str(error), given)) from None
    if options.command is None:
        parser.error(f"no command is given beside {' '.join(given)}")
    if unknown:
        usage = to_type(f"farm {options.command} --help")
        instead = parser.commands[options.command].instead_of(unknown, options)
        raise UserError(with_short_words(f"{options.command} doesn't take {' '.join(unknown)}{instead} (see {usage})", given))
    try:
        return handler(options)(options)
    except UserError as error:
        told = with_short_words(str(error), (word for word in given if len(word) > LONGEST_ECHO))
        raise UserError(shortened(told, LONGEST_ERROR)) from error


def handler(options: argparse.Namespace) -> Callable[[argparse.Namespace], int]:
    """The function of the command that was given. It takes the options and returns the exit status."""
    is_taken = keyword.iskeyword(options.command) or options.command in dir(builtins)
    name = f"{options.command}_" if is_taken else options.command
    function: Callable[[argparse.Namespace], int] = getattr(importlib.import_module(options.module), name)
    return function


if __name__ == "__main__":
    sys.exit(main())
