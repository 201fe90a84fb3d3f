"""Every command line of the farm in the documentation is one that the farm takes."""

import re
import shlex
from pathlib import Path

import pytest

from cluster.command_parser import make_parser

ROOT = Path(__file__).parent.parent
SKILLS = sorted((ROOT / "skills").glob("*/SKILL.md"))
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *SKILLS])

BLOCK = re.compile(r"^ *```[a-z]*\n(.*?)^ *```", re.M | re.S)
INLINE = re.compile(r"`([^`]+)`")
COMMAND = re.compile(r"(?:^|\s)(?:farm|python -m cluster\.cli) (?!COMMAND)([a-z].*)")


def command_lines(page: Path) -> list[str]:
    """What follows `farm` in the page's code, placeholders included."""
    text = page.read_text(encoding="utf-8")
    blocks = [line for block in BLOCK.findall(text) for line in block.replace("\\\n", " ").splitlines()]
    inline = [" ".join(code.split()) for code in INLINE.findall(BLOCK.sub("", text))]
    code = [line for line in blocks if re.match(r"\s*(uv run |srun |entrypoint: |python -m |farm )", line)] + [
        line for line in inline if re.match(r"(uv run )?farm ", line)
    ]
    return [found[1] for line in code if (found := COMMAND.search(line))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_line_parses(page: Path) -> None:
    for line in command_lines(page):
        words = shlex.split(line, comments=True)
        if words[0].endswith("--help"):
            continue
        try:
            make_parser().parse_args(words)
        except SystemExit as end:
            assert end.code == 0, f"{page.name}: farm {line}"


@pytest.mark.parametrize("page", ["program.md", "README.md"])
def test_the_options_that_a_run_by_hand_needs_are_named_and_exist(page: str) -> None:
    run_py, text = (ROOT / "research" / "run.py").read_text(encoding="utf-8"), (ROOT / page).read_text(encoding="utf-8")
    typed = re.findall(r"--[a-z-]+", " ".join(re.findall(r"research/train\.py ([^`>]*)>", text)))
    for option in ("--profile", "--budget", "--source", "--gpu-memory", *typed):
        assert f"`{option}`" in text and f'"{option}", ' in run_py


def test_command_lines_are_found() -> None:
    found = {line.split()[0] for page in PAGES for line in command_lines(page)}
    assert found >= {"demo", "run", "try", "sql", "submit", "fetch", "doctor", "stop", "report"}
    assert any("--engine ray" in line for line in command_lines(ROOT / "docs" / "operations.md"))


@pytest.mark.parametrize("skill", SKILLS, ids=lambda page: page.parent.name)
def test_a_skill_says_what_it_is_for_and_names_tools_that_exist(skill: Path) -> None:
    """Its frontmatter has the name of its folder and a description, and agents find it by AGENTS.md."""
    text = skill.read_text(encoding="utf-8")
    fields = dict(line.split(": ", 1) for line in text.split("---\n")[1].splitlines())
    assert fields["name"] == skill.parent.name and 100 < len(fields["description"]) <= 1024
    assert len(text.splitlines()) < 500
    assert str(skill.relative_to(ROOT)) in (ROOT / "AGENTS.md").read_text(encoding="utf-8")
    assert len(command_lines(skill)) > 15, "or the test of command lines has nothing to test"


def test_the_skill_of_the_farm_names_the_tools_of_its_mcp_server() -> None:
    from cluster.mcp_server.server import Tools

    (skill,) = (page for page in SKILLS if page.parent.name == "autoresearch-farm")
    named = re.findall(r"^\| `([a-z_]+)(?:\([a-z_, ]*\))?` \|", skill.read_text(encoding="utf-8"), re.M)
    assert named == [name for name in vars(Tools) if not name.startswith("_")]


def test_the_odds_are_those_that_the_benchmark_prints() -> None:
    from benchmarks.catching_odds import table

    assert table() in (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
