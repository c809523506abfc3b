"""What the README and docs/ tell people to open or to run is there: files, links, commands with their options, data, settings."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from deploys import knobs
from redkeep.cli import COMMANDS, _parser
from tests.unit.wanted import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Commands are the same with and without the path of the project's own environment.
LINES = [(page.name, line.replace(".venv/bin/", "")) for page in PAGES for line in page.read_text().splitlines()]
INLINE = re.compile(r"`([^`\n]+)`")


def commands(first: str) -> list[tuple[str, str]]:
    """Each command that begins with a word, in a block or between backticks, with its page; what a shell would not pass is cut off."""
    found = []
    for page, line in LINES:
        whole = [line.strip()] if line.strip().startswith(first + " ") else []
        for text in [*whole, *INLINE.findall(line)]:
            if text.startswith(first + " ") and "`" not in text:
                found.append((page, re.split(r"\s+#| [|&>;](?: |$)| && ", text)[0].strip()))
    return sorted(set(found))


@pytest.mark.parametrize(("page", "command"), commands("redkeep"))
def test_redkeep_takes_every_command(page: str, command: str) -> None:
    """The parser knows the sub-command and all options that a page names; a sub-command of one word may stand for its family."""
    words = ["100" if word == "N" else word for word in shlex.split(command)[1:]]
    assert words[0] in COMMANDS, page
    code: object = 0
    try:
        _parser(words).parse_args(words)
    except SystemExit as end:
        code = end.code
    assert code == 0 or len(words) == 1, f"{page}: {command}"


def test_the_package_is_installed_from_this_folder() -> None:
    """It is in no registry, where a stranger may own its name: what a page has pip install is a path here, or somebody else's."""
    found = [(page, word) for page, line in LINES for words in re.findall(r"pip install ([^`\n]+)", line) for word in shlex.split(words)]
    assert found
    for page, word in found:
        assert not word.startswith("redkeep"), f"{page}: {word}"
        if "/" in word:
            assert (ROOT / word.partition("[")[0]).is_dir(), f"{page}: {word}"


def test_code_names_only_pages_that_are_there() -> None:
    """A comment that sends its reader to a page sends him to one of this tree."""
    there = {page.name for page in ROOT.glob("*.md")} | {page.name for page in ROOT.glob("docs/**/*.md")}
    folders = ("app", "deploys", "group_data", "templates", "tests")
    code = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".j2")]
    named = {(path.name, page) for path in code for page in re.findall(r"\b([\w-]+\.md)\b", path.read_text())}
    assert {page for _, page in named} & there
    assert [each for each in sorted(named) if each[1] not in there] == []


@pytest.mark.parametrize(("page", "command"), commands("make"))
def test_make_has_every_target(page: str, command: str) -> None:
    """Every target that a page names is in the Makefile."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = [word for word in shlex.split(command)[1:] if re.fullmatch(r"[a-z-]+", word)]
    assert named, page
    assert set(named) <= targets, page


@pytest.mark.parametrize(("page", "command"), commands("pyinfra"))
def test_pyinfra_finds_every_verb(page: str, command: str) -> None:
    """The inventory and the verb are files, and each --data is a knob or an argument of a verb."""
    words = shlex.split(command)[1:]
    named = [word for word in words if word.endswith(".py") or word == "inventory"]
    assert named, page
    for name in named:
        assert (ROOT / name).exists(), page


def test_every_data_is_known() -> None:
    """What a page passes with --data is an argument of a verb or a knob."""
    fields = set(knobs.Knobs.__dataclass_fields__)
    for page, line in LINES:
        for name in re.findall(r"--data ([a-z_]+)=", line):
            assert name in fields | knobs._VERB_ARGUMENTS, page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    """Links inside the project, and pictures, are files."""
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (page.parent / target).exists(), target


def test_what_is_hardened_is_proved_where_the_table_says() -> None:
    """Each control of the README's table names files of the project; a test without a folder lies in that of the test before it."""
    section = (ROOT / "README.md").read_text().partition("## What is hardened")[2].partition("\n## ")[0]
    rows = [line.split("|")[1:-1] for line in section.splitlines() if line.startswith("| ") and "`" in line]
    assert len(rows) >= 10
    for _, _, file, proofs in rows:
        folder = ROOT
        for name in (*INLINE.findall(file), *INLINE.findall(proofs)):
            path = ROOT / name if "/" in name else folder / name
            folder = path.parent
            assert path.exists(), name


def test_every_test_that_a_page_names_is_there() -> None:
    """`pytest tests/...py -k name`: the file is there, and holds something of that name."""
    for page, line in LINES:
        for path, words in re.findall(r"(tests/[\w/]+\.py)(?:::\w+)?(?: -k (\w+))?", line):
            assert (ROOT / path).exists(), f"{page}: {path}"
            assert words in (ROOT / path).read_text(), f"{page}: {path} -k {words}"


def test_every_module_that_a_page_runs_is_there() -> None:
    """`python -m tests...` names a module of this tree."""
    for page, line in LINES:
        for name in re.findall(r"python -m (tests[\w.]+\w)", line):
            path = ROOT / name.replace(".", "/")
            assert path.with_suffix(".py").exists() or path.is_dir(), f"{page}: {name}"


def test_pages_are_found_from_the_readme() -> None:
    """No page of docs/ is an orphan: another page or the README leads there."""
    linked = {name for _, line in LINES for name in re.findall(r"(?:docs/)?([\w-]+\.md)", line)}
    assert {page.name for page in PAGES[1:]} - linked == set()
