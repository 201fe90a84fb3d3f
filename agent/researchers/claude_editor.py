"""The text editor tool for one file that exists only in memory: train.py."""

import io
from collections.abc import Mapping

from research.formatting import one_line
from research.valid_train_py import MAX_BYTES, problem_with


class EditRefused(Exception):
    """A command that can't be carried out. The text goes back to the model."""


class Editor:
    """Handles the commands of the `text_editor_20250728` tool: view, str_replace, insert, create."""

    def __init__(self, train_py: str) -> None:
        self.text = self._first = train_py

    @property
    def has_changed(self) -> bool:
        """Whether the text is another one than at first."""
        return self.text != self._first

    def apply(self, command: Mapping[str, object]) -> str:
        """Carries out one command and returns its result as text. Raises EditRefused, which leaves the file unchanged."""
        path = _text(command, "path")
        if path.rsplit("/", 1)[-1] != "train.py":
            raise EditRefused(f"There is no file {one_line(path, 60)}: the only one is train.py.")
        match command.get("command"):
            case "view":
                return self._view(command.get("view_range"))
            case "str_replace":
                return self._replace(_text(command, "old_str"), _text(command, "new_str", default=""))
            case "insert":
                return self._insert(command.get("insert_line"), _text(command, "insert_text"))
            case "create":
                return self._set(_text(command, "file_text"))
            case other:
                raise EditRefused(f"Unknown command {one_line(str(other), 60)!r}: use view, str_replace, insert or create.")

    def _view(self, view_range: object) -> str:
        lines = self.text.split("\n")
        first, last = 1, len(lines)
        if view_range is not None:
            match view_range:
                case [int(start), int(end)]:
                    first, last = max(1, start), len(lines) if end == -1 else min(end, len(lines))
                case _:
                    raise EditRefused("view_range must be [first line, last line].")
        return "\n".join(f"{number}: {lines[number - 1]}" for number in range(first, last + 1))

    def _replace(self, old: str, new: str) -> str:
        found = self.text.count(old) if old else 0
        if found != 1:
            raise EditRefused(f"old_str occurs {found} times and must occur exactly once: include more of the lines around it.")
        return self._set(self.text.replace(old, new))

    def _insert(self, line: object, text: str) -> str:
        lines = list(io.StringIO(self.text, newline="\n"))  # lines as view numbers them: a form feed doesn't end one
        if not isinstance(line, int) or not 0 <= line <= len(lines):
            raise EditRefused(f"insert_line must be between 0 and {len(lines)}.")
        if line == len(lines) and lines and not lines[-1].endswith("\n"):
            lines[-1] += "\n"
        return self._set("".join([*lines[:line], text if text.endswith("\n") else text + "\n", *lines[line:]]))

    def _set(self, text: str) -> str:
        """Replaces the file, even with text that doesn't parse, since an edit may take several steps; submit refuses it."""
        text = text.replace("\r\n", "\n")
        if len(text) > MAX_BYTES:
            raise EditRefused(f"train.py would have {len(text):,} characters: the limit is {MAX_BYTES:,}.")
        self.text = text
        problem = problem_with(text)
        return "Done." if problem is None else f"Done, but {problem}."


def _text(command: Mapping[str, object], name: str, *, default: str | None = None) -> str:
    value = command.get(name, default)
    if not isinstance(value, str):
        raise EditRefused(f"{name} must be a string.")
    return value
