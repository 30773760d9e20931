"""What the documents say and the code does are one thing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROTOCOL = (ROOT / "workunits" / "PROTOCOL.md").read_text()
CLAUSES = set(re.findall(r"^(\d+\.\d+) ", PROTOCOL, re.MULTILINE))
SECTIONS = set(re.findall(r"^## (\d+)\. ", PROTOCOL, re.MULTILINE))
SOURCES = sorted(
    path
    for package in ("workunits", "tesla_at_home", "server")
    for path in (ROOT / package).rglob("*.py")
)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_clause_that_code_cites_exists(path: Path) -> None:
    for cited in re.findall(r"PROTOCOL (\d+(?:\.\d+)?)", path.read_text()):
        assert cited in (CLAUSES if "." in cited else SECTIONS)


def test_clauses_are_numbered_without_gaps() -> None:
    assert [int(section) for section in sorted(SECTIONS, key=int)] == list(
        range(1, len(SECTIONS) + 1)
    )
    for section in SECTIONS:
        numbers = sorted(int(c.split(".")[1]) for c in CLAUSES if c.split(".")[0] == section)
        assert numbers == list(range(1, len(numbers) + 1))


TESTS_README = (ROOT / "tests" / "README.md").read_text()


def named_tests() -> set[tuple[str, str | None]]:
    """The files and tests that tests/README names; `::name` alone is of the file named before it."""
    named: set[tuple[str, str | None]] = set()
    for row in re.findall(r"^\|(.+)\|$", TESTS_README, re.MULTILINE):
        file = ""
        for path, test in re.findall(r"([\w/]+\.py)?(?:::(\w+))?", row):
            file = path or file
            if path or test:
                named.add((file, test or None))
    return named


@pytest.mark.parametrize(("file", "test"), sorted(named_tests(), key=str))
def test_every_test_that_the_readme_names_exists(file: str, test: str | None) -> None:
    source = (ROOT / "tests" / file).read_text()
    assert test is None or f"def {test}(" in source
