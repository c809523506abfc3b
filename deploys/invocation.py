"""How pyinfra was called: what deploy code needs of the command line and pyinfra does not pass on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import click


@dataclass(frozen=True)
class Invocation:
    """``inventory`` is the inventory's file name without its ending, links followed; empty when it is no file. ``apart`` says that
    hosts do not wait for each other at each step (--serial, --no-wait)."""

    inventory: str = ""
    dry: bool = False
    apart: bool = False


@cache
def invocation() -> Invocation:
    """The command line of this run. config.py asks first: click's context is only there before the hosts' greenlets."""
    context = click.get_current_context(silent=True)
    if context is None:
        return Invocation()
    given = str(context.params.get("inventory", ""))
    return Invocation(
        inventory=Path(given).resolve().stem if given and Path(given).is_file() else "",
        dry=bool(context.params.get("dry")),
        apart=bool(context.params.get("serial") or context.params.get("no_wait")),
    )
