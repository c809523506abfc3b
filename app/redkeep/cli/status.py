"""`redkeep status`: probe the live system and say whether every control holds."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from redkeep.monitoring.posture import Posture

DEFAULT_ENV_FILE: Final = Path("/etc/redkeep/cache.env")
_MARKS: Final = {"ok": "ok", "weak": "WEAK", "unknown": "?", "not applicable": "-"}
_COLOURS: Final = {"ok": "32", "weak": "1;31", "unknown": "33", "not applicable": "2"}


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser of `redkeep`."""
    parser = subparsers.add_parser(
        "status",
        help="probe the live system: does every control hold?",
        description="Probe the live system. Exit code: 0 every control holds, 1 something is weak, 3 cannot tell.",
    )
    parser.add_argument("--env-file", type=Path, default=DEFAULT_ENV_FILE, metavar="FILE",
                        help=f"settings to use (default: {DEFAULT_ENV_FILE})")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the posture and return the exit code. Raises ConfigurationError when the settings cannot be used."""
    from redkeep.monitoring.posture import assess
    from redkeep.target import read_target

    posture = assess(read_target(arguments.env_file))
    if arguments.json:
        import json

        controls = [control._asdict() for control in posture.controls]
        print(json.dumps({"state": posture.state, "summary": posture.summary, "controls": controls}, indent=2))
    else:
        print(table(posture, colour=sys.stdout.isatty()))
    return posture.exit_code


def table(posture: Posture, *, colour: bool) -> str:
    """An aligned line a control, the remedy under what does not hold, and the sum at the end."""
    width = max((len(control.name) for control in posture.controls), default=0)
    lines = []
    for control in posture.controls:
        mark = f"{_MARKS[control.state]:<4}"
        mark = f"\x1b[{_COLOURS[control.state]}m{mark}\x1b[0m" if colour else mark
        lines.append(f"{mark}  {control.name:<{width}}  {control.evidence}")
        if control.remedy:
            lines.append(f"{'':4}  {'':<{width}}  -> {control.remedy}")
    return "\n".join([*lines, posture.summary])
