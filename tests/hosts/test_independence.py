"""These checks share no code with what they check."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from .machine import Machine

ALLOWED = {"pytest", "testinfra"}


def _imported(source: str) -> set[str]:
    """Top-level names of everything a module imports that is neither its own package nor the standard library's."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(str(node.module).partition(".")[0])
    return names - set(sys.stdlib_module_names)


@pytest.mark.parametrize("path", sorted(Path(__file__).parent.glob("*.py")), ids=lambda path: path.stem)
def test_nothing_of_the_bundle_is_imported(path: Path) -> None:
    """A check imports pytest, testinfra, the standard library and its own folder; not redkeep, deploys or pyinfra."""
    assert _imported(path.read_text()) <= ALLOWED


def test_every_host_answers(any_host: Machine, trouble: str) -> None:
    """Every host of the inventory lets the operator in as root; otherwise nothing about it is proven."""
    assert trouble == ""
