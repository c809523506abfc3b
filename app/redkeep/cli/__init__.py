"""The command line: `redkeep secrets`, `redkeep keys`, `redkeep migrate-data`, `redkeep certs`, `redkeep status`, `redkeep bench`,
`redkeep watch`, `redkeep alerts`, `redkeep serve`, `redkeep dashboard`, `redkeep quickstart`.

A sub-command is a module with `register(subparsers)`, which adds its parser and sets `func`, a callable from
the parsed arguments to an exit code. Only the module that is asked for is imported.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import sys
from collections.abc import Sequence
from typing import TextIO

from redkeep import __version__
from redkeep.errors import RedkeepError

COMMANDS = {
    "secrets": ("redkeep.cli.secrets", "create, show and encrypt the operator's secrets"),
    "keys": ("redkeep.cli.keys", "generate, list, add, promote and retire encryption keys"),
    "migrate-data": ("redkeep.cli.migrate_data", "encrypt existing entries with the current key, under hashed names"),
    "certs": ("redkeep.cli.certs", "list, inspect, renew and export certificates"),
    "status": ("redkeep.cli.status", "check the running system: are we safe?"),
    "watch": ("redkeep.cli.watch", "show security events as they happen"),
    "alerts": ("redkeep.cli.alerts", "test the alert channels"),
    "serve": ("redkeep.cli.serve", "serve the API of the security status"),
    "dashboard": ("redkeep.cli.dashboard", "serve the dashboard, a web page fed by the API"),
    "quickstart": ("redkeep.cli.quickstart", "create the files for a hardened Redis on this machine"),
    "bench": ("redkeep.cli.bench", "measure the cache on this machine"),
}
"""Each sub-command with its module and the line that `--help` shows."""

EXIT_REFUSED = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 2 when Redkeep refuses, with one sentence on stderr."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    sys.stdout = sys.stdout or _nowhere()  # closed by whoever started us: the exit code is what he wants
    sys.stderr = sys.stderr or _nowhere()
    try:
        parsed = _parser(arguments).parse_args(arguments)
        code: int = parsed.func(parsed)
        sys.stdout.flush()
        return code
    except RedkeepError as error:
        print(f"redkeep: {error}", file=sys.stderr)
        return EXIT_REFUSED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _drop_output()
        return EXIT_BROKEN_PIPE
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _drop_output()
        print("redkeep: no space left for the output, which is incomplete; free some, then run again", file=sys.stderr)
        return EXIT_REFUSED


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")  # until the process ends


def _drop_output() -> None:
    """Python flushes stdout once more at exit (documentation of signal, "Note on SIGPIPE")."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="redkeep", description="An encrypted cache in front of a hardened Redis."
    )
    parser.add_argument("--version", action="version", version=f"redkeep {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    asked = next((argument for argument in arguments if not argument.startswith("-")), None)
    for name, (module, summary) in COMMANDS.items():
        if name == asked:
            importlib.import_module(module).register(subparsers)
        else:
            subparsers.add_parser(name, help=summary)
    return parser
