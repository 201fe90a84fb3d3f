"""The guard at the top of train.py, by which a run by hand goes to the judge before anything else of the file is executed."""

import ast

from research.remembered_texts import Remembered
from research.valid_train_py import parse, tree_to_read

GUARD = """
if __name__ == "__main__":
    from research.run import run_train_py

    raise SystemExit(run_train_py(__file__))
"""

GUARD_MISSING = (
    "train.py has to begin with its docstring and the guard that hands a run by hand to the judge, as the head's does: what "
    "stands before it would be executed outside of every sandbox"
)
"""The reason of an edit that moves or changes the guard."""


@Remembered
def begins_with_guard(train_py: str) -> bool:
    """Whether the first statement after the docstring is the guard. Raises SyntaxError."""
    statements = tree_to_read(train_py).body
    has_docstring = bool(statements) and isinstance(statements[0], ast.Expr) and isinstance(statements[0].value, ast.Constant)
    after = statements[1:] if has_docstring else statements
    return bool(after) and ast.dump(after[0]) == ast.dump(parse(GUARD).body[0])
