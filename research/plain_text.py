"""A train.py written anew from its syntax tree: one text for one program, however it is laid out. Standard library only.

Every version of Python writes it alike, and no text that can be parsed can't be written: what is counted of two texts is
counted by one rule. F-strings are where ast.unparse differs, or fails, so they are written here.
"""

import ast
from functools import lru_cache

from research.executed_text import remove_bare_strings
from research.valid_train_py import parse


@lru_cache(maxsize=64)
def plain_text(train_py: str) -> str:
    """The program in Python's own layout, without comments and docstrings; it may not run. Raises SyntaxError."""
    tree = parse(train_py)
    remove_bare_strings(tree)
    return ast.unparse(_PlainStrings().visit(tree))


class _PlainStrings(ast.NodeTransformer):
    """Puts names in the place of f-strings, which read as they do."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.Name:
        return ast.Name(id=f"f'{self._inner(node)}'", ctx=ast.Load())

    def _inner(self, node: ast.JoinedStr) -> str:
        return "".join(self._part(part) for part in node.values)

    def _part(self, part: ast.expr) -> str:
        if not isinstance(part, ast.FormattedValue):
            return repr(part.value)[1:-1].replace("{", "{{").replace("}", "}}") if isinstance(part, ast.Constant) else ""
        value = ast.unparse(self.visit(part.value))
        conversion = f"!{chr(part.conversion)}" if part.conversion >= 0 else ""
        spec = self._inner(part.format_spec) if isinstance(part.format_spec, ast.JoinedStr) else ""
        return "{" + value + conversion + (f":{spec}" if spec else "") + "}"
