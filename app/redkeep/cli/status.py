"""`redkeep status`: probe the live system and say whether every control holds; a table on a terminal, lines into a pipe."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from redkeep.monitoring.posture import Posture

DEFAULT_ENV_FILE: Final = Path("/etc/redkeep/cache.env")
MARKS: Final = {"ok": "ok", "weak": "WEAK", "unknown": "?", "not applicable": "-"}


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser of `redkeep`."""
    parser = subparsers.add_parser(
        "status",
        help="check the live system: does every control hold?",
        description="Check the live system. Exit code: 0 if every control holds, 1 if one is weak, 3 if one is unknown.",
    )
    parser.add_argument("--env-file", type=Path, default=DEFAULT_ENV_FILE, metavar="FILE",
                        help=f"settings to use (default: {DEFAULT_ENV_FILE})")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the posture and return the exit code. Raises ConfigurationError when the settings cannot be used."""
    if arguments.json:
        return _document(arguments.env_file)
    from redkeep.monitoring.monitor_settings import MonitorSettings
    from redkeep.monitoring.posture import assess
    from redkeep.target import read_target

    settings = MonitorSettings.of(arguments.env_file)
    posture = assess(read_target(arguments.env_file), users=settings.users, nodes=settings.nodes)
    if sys.stdout.isatty():
        from redkeep.cli.status_table import show

        show(posture)
    else:
        print(lines(posture))
    return posture.exit_code


def _document(env_file: Path) -> int:
    """What the API answers, from the same code; the posture is called `controls` here."""
    import asyncio
    import json
    import logging

    from redkeep.monitoring.posture import exit_code_of
    from redkeep.monitoring.status import get_security_status

    logging.getLogger("redkeep").addHandler(logging.NullHandler())  # what is found is in the document; nobody reads it twice
    status = asyncio.run(get_security_status(env_file))
    controls = status.pop("posture")
    print(json.dumps({**status, "controls": controls}, indent=2))
    return exit_code_of(status["state"])


def lines(posture: Posture) -> str:
    """For pipes and logs: an aligned line a control, the remedy under what does not hold, and the sum at the end."""
    width = max((len(control.name) for control in posture.controls), default=0)
    found = []
    for control in posture.controls:
        found.append(f"{MARKS[control.state]:<4}  {control.name:<{width}}  {control.evidence}")
        if control.remedy:
            found.append(f"{'':4}  {'':<{width}}  -> {control.remedy}")
    return "\n".join([*found, posture.summary])
