"""The pages of docs/ that are made from the code are up to date, and say something of everything."""

import pytest

from cluster.command_parser import make_parser
from tests.docs_pages import DOCS, PAGES, commands_page, schema_page


@pytest.mark.parametrize("name", PAGES)
def test_a_page_that_is_made_from_the_code_is_current(name: str) -> None:
    assert (DOCS / name).read_text(encoding="utf-8") == PAGES[name](), "uv run python -m tests.docs_pages"


def test_every_table_view_and_column_says_what_it_holds() -> None:
    rows = [line.split(" | ") for line in schema_page().splitlines() if line.startswith("| `")]
    assert len(rows) > 200 and not [row for row in rows if "None" in row[-1] or len(row[-1].split()) < 3]
    assert "None (" not in schema_page()


def test_the_reference_has_every_command_and_option() -> None:
    page = commands_page()
    commands = next(action.choices for action in make_parser()._actions if isinstance(action.choices, dict))
    for name, parser in commands.items():
        (section,) = (part for part in page.split("\n### ") if part.startswith((f"farm {name} ", f"farm {name}\n")))
        options = {option for action in parser._actions for option in action.option_strings} - {"-h", "--help"}
        assert all(f"`{option}" in section or f", {option}" in section for option in options), name
    assert "| |" not in page.replace("| | |", ""), "an option without a word"
