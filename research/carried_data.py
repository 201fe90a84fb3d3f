"""How much data a train.py may carry in its text, so that it can't hold the rows that it is scored on. Standard library only.

All limits but one are on what a run executes, so without comments and docstrings. Literals are where data is put; names,
layout and the rest of the code are where it is hidden. The limit on compressed code holds for every hiding place: whatever a
text carries can't be longer than the text compressed without loss.
"""

import ast
import zlib
from collections.abc import Iterator, Sequence

from research.contract import Contract
from research.executed_text import without_comments
from research.formatting import counted
from research.plain_text import plain_text
from research.valid_train_py import nodes_to_read

BYTES_PER_TOKEN = 3
"""Bytes of text in a token, at least: 3.3 under the `cpu` profile, more where the vocabulary is larger."""

SHARE_OF_EVALUATION = 100
"""Literals may have one byte for so many bytes of evaluation text, between the two limits that follow."""

LEAST_LITERAL_BYTES = 4_500
"""Bytes of literals that any train.py may have: the shipped one has 1,100."""

MOST_LITERAL_BYTES = 8_000
"""Bytes of literals that no train.py may exceed."""

MAX_NAME_BYTES = 10_000
"""Bytes of all names of a train.py, each counted once: the shipped one has 2,300."""

MAX_CODE_BYTES = 100_000
"""Bytes of code without comments and docstrings: the shipped train.py has 15,400."""

MAX_COMPRESSED_BYTES = 20_000
"""Bytes of that code compressed by zlib: the shipped train.py has 4,800."""

MAX_TEXT_BYTES = 30_000
"""Bytes of the whole text compressed, comments included, which a run may find in the memory of the process that it was forked
from: the shipped train.py has 7,100."""

MAX_LAYOUT_BYTES = 1_500
"""Compressed bytes that white space, line breaks and brackets may add to the program: the shipped train.py's add 70."""


def evaluation_bytes(contract: Contract) -> int:
    """Bytes of the text that a run is scored on, at least."""
    return contract.EVAL_TOKENS * BYTES_PER_TOKEN


def literal_limit(evaluation: int) -> int:
    """Bytes of literals that a train.py may have, by the bytes of text that it is scored on."""
    return max(LEAST_LITERAL_BYTES, min(MOST_LITERAL_BYTES, evaluation // SHARE_OF_EVALUATION))


def carried_data_problem(train_py: str, evaluation: int) -> str | None:
    """One line that says that a train.py carries too much, by the bytes of text that it is scored on; None if it doesn't.

    Raises SyntaxError if it can't be parsed.
    """
    code = without_comments(train_py)
    nodes = nodes_to_read(code)
    limits = (
        (_literal_bytes(nodes), literal_limit(evaluation), "in strings and numbers", "compute values instead of listing them"),
        (_name_bytes(nodes), MAX_NAME_BYTES, "in names", "use fewer or shorter ones"),
        (len(code.encode()), MAX_CODE_BYTES, "of code without comments", "shorten it"),
        (_compressed(code), MAX_COMPRESSED_BYTES, "of code once compressed", "shorten it"),
        (_compressed(train_py), MAX_TEXT_BYTES, "of text once compressed", "shorten its comments"),
        (
            _compressed(code) - _compressed(plain_text(code)),
            MAX_LAYOUT_BYTES,
            "in its layout once compressed",
            "use plain spaces",
        ),
    )
    for found, limit, where, cure in limits:
        if found > limit:
            return f"train.py has {counted(found, 'byte')} {where}: the limit is {limit:,}; {cure}"
    return None


def _compressed(text: str) -> int:
    return len(zlib.compress(text.encode(), 9))


def _literal_bytes(nodes: Sequence[ast.AST]) -> int:
    """Bytes of strings, bytes and numbers; None, True and False count as names do, by the size of the code."""
    return sum(_size(node.value) for node in nodes if isinstance(node, ast.Constant))


def _size(value: object) -> int:
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, bytes):
        return len(value)
    is_number = isinstance(value, int | float | complex) and not isinstance(value, bool)
    return len(repr(value)) if is_number else 0


def _name_bytes(nodes: Sequence[ast.AST]) -> int:
    """Bytes of the distinct names: of variables, functions, classes, parameters, attributes, keywords and modules."""
    return sum(len(name.encode()) for name in {name for node in nodes for name in _names(node)})


def _names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Constant):
        return
    for field in node._fields:
        value = getattr(node, field, None)
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            yield from (name for name in value if isinstance(name, str))
