"""pytest fixtures: a lab for the session, bare hosts for a test; an engine is installed when absent, never skipped."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.lab.hosts import Host, Spec
from tests.lab.lab import Lab


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """An empty lab, destroyed at the end of the session."""
    with Lab() as made:
        yield made


@pytest.fixture
def bare_hosts(lab: Lab) -> Callable[..., list[Host]]:
    """Function that gives bare hosts for specifications: those already there are reset, the others started.

    `bare_hosts(Spec("r1"), Spec("r2", "trixie"))`; a host of that name but of another kind is replaced.
    """

    def give(*specs: Spec) -> list[Host]:
        lab.ensure(specs)
        return [lab[spec.name] for spec in specs]

    return give
