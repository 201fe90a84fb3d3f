"""The parts of the command line's parser: one that reports a mistake in one line, groups of commands, types of options, and the
way back from parsed options to words."""

import argparse
import difflib
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from agent.repo.branch_names import check_name
from research.command_hints import to_type
from research.formatting import one_line, shortened

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

LONGEST_WORD = 80
"""Characters of an argument that a message repeats."""

LONGEST_IDEA = 200
"""Characters of the words of an idea that a person gives; a longer text is cut."""


def with_short_words(message: str, words: Iterable[str]) -> str:
    """A message in which words of the command line that are longer than LONGEST_WORD are cut, as they are or quoted."""
    values = [part for word in words for part in (word, word.partition("=")[2])]
    for shown in [form for value in values for form in (value, repr(value)[1:-1])]:
        if len(shown) > LONGEST_WORD:
            message = message.replace(shown, shortened(shown, LONGEST_WORD))
    return message


BRANCH_WORDS, BRANCH_OPTIONS = ("branch", "tag", "name", "tags"), ("--tag", "--branch", "--tags", "--branches")
"""Names of arguments that are a branch or tag, and the options that people give instead, since `farm run` has one."""

OTHER_NAMES = {"ls": "list", "log": "show", "history": "sql", "start": "run", "kill": "stop", "rm": "clean", "check": "doctor"}
"""What other programs call a command of this one."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The known word that another one is most like, as the end of a message; empty if it is like none."""
    names = list(known)
    given = word.lower()
    starts = [name for name in names if len(given) > 2 and name.startswith(given)]
    like = starts or difflib.get_close_matches(given, names, n=1) or [name for name in names if OTHER_NAMES.get(given) == name]
    return f", did you mean {' or '.join(like[:3])}?" if like else ""


class OneLineParser(argparse.ArgumentParser):
    """A parser that reports a mistake in one line, as the commands do."""

    _words: tuple[str, ...] = ()
    """What is being parsed."""

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Like the base class's; keeps the words for `error`."""
        self._words = tuple(args or ())
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        text = with_short_words(message, self._words).removeprefix("argument ").replace(": must ", " must ", 1)
        if text.startswith("COMMAND: invalid choice"):  # the list of all commands is in the help
            text = text.partition(" (")[0].replace("COMMAND: invalid choice:", "unknown command")
            text += did_you_mean(next((word for word in self._words if not word.startswith("-")), ""), self.commands)
        self.exit(2, f"{self.prog}: {text} (see {to_type(f'{self.prog} --help')})\n")

    @property
    def commands(self) -> dict[str, "OneLineParser"]:
        """The parsers of the commands, by name; empty for the parser of one command."""
        return next((action.choices for action in self._actions if isinstance(action.choices, dict)), {})

    def instead_of(self, words: Sequence[str], options: argparse.Namespace) -> str:
        """What to type instead of `words`, which this command doesn't take, beside `options`; empty if nothing is like them.

        Where a branch or tag is a plain word, it is one as well for who gives it as an option.
        """
        option, _, value = words[0].partition("=")
        word = next(
            (
                action.dest
                for action in self._actions
                if not (action.option_strings or action.choices) and action.dest in BRANCH_WORDS
            ),
            None,
        )
        if word is not None and option in BRANCH_OPTIONS:
            taken = getattr(options, word)
            name = value or (taken[0] if isinstance(taken, list) and taken else taken) or "TAG"
            return f": it is given without an option, as in {to_type(f'{self.prog} {name}')}"
        known = [name for action in self._actions for name in action.option_strings]
        return did_you_mean(option, known) if option.startswith("-") else ""

    def print_help(self, file: "SupportsWrite[str] | None" = None) -> None:
        """Prints the help; unlike the base class, raises OSError if it can't be written."""
        (file or sys.stdout).write(self.format_help())
        sys.stdout.flush()


@dataclass(frozen=True, kw_only=True)
class CommandGroup:
    """The commands of one group. Their functions are in one module."""

    module: str
    title: str
    parsers: "argparse._SubParsersAction[OneLineParser]"
    helps: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, help: str) -> argparse.ArgumentParser:
        """Adds a command."""
        self.helps[name] = help
        parser = self.parsers.add_parser(name, description=f"{help[0].upper()}{help[1:]}.")
        parser.set_defaults(module=self.module)
        return parser

    def listing(self) -> str:
        """The group in the help text."""
        return "\n".join([f"{self.title}:", *(f"  {name:<10}{help}" for name, help in self.helps.items())])


def some_text(text: str) -> str:
    """A type for argparse: text that is not empty, since an empty shell variable must not silently mean the default."""
    if not text.strip():
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def idea_words(text: str) -> str:
    """A type for argparse: the words of an idea on one line, which becomes the subject of a commit."""
    return one_line(some_text(text), LONGEST_IDEA)


def tag_name(text: str) -> str:
    """A type for argparse: a tag, with which branches can be named. Raises UserError."""
    check_name(some_text(text), "tag")
    return text


def words_for(options: argparse.Namespace, *, without: Collection[str]) -> list[str]:
    """The words of a command line that give these options; those in `without`, and those that say nothing, are left out."""
    words = []
    for name, value in vars(options).items():
        if name in without or value is None or value is False or str(value) == "":
            continue
        option = "--" + name.replace("_", "-")
        for one in value if isinstance(value, list) else [value]:
            if one is True:
                words.append(option)
            else:
                words += [f"{option}={one}"] if str(one).startswith("-") else [option, str(one)]
    return words
