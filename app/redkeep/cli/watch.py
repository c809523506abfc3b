"""`redkeep watch`: the security events of the servers as they happen, a line each."""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from redkeep.cli.status import DEFAULT_ENV_FILE
from redkeep.dashboard.words import kind
from redkeep.errors import ConfigurationError

if TYPE_CHECKING:
    from redkeep.monitoring.events import SecurityEvent

_MARKS: Final = {"info": "      ", "warning": "warn  ", "error": "ERROR "}


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser of `redkeep`."""
    parser = subparsers.add_parser(
        "watch",
        help="show security events as they happen",
        description="Show the servers' security events as they happen: refused logins and commands of any client, servers "
        "that go down and come back, controls that change. Sends no alerts and keeps no state.",
    )
    parser.add_argument("--env-file", type=Path, default=DEFAULT_ENV_FILE, metavar="FILE",
                        help=f"settings to use (default: {DEFAULT_ENV_FILE})")
    parser.add_argument("--seconds", type=float, default=None, metavar="N", help="stop after N seconds (default: at Ctrl-C)")
    parser.add_argument("--json", action="store_true", help="print each event as one line of JSON")
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Print events until the time is over. Raises ConfigurationError for a time that is none, and without a password to watch with."""
    import asyncio

    if arguments.seconds is not None and not arguments.seconds > 0:
        raise ConfigurationError("--seconds must be more than 0; leave it out to watch until Ctrl-C")
    logging.getLogger("redkeep").addHandler(logging.NullHandler())  # what happens is printed here; nobody reads it twice
    asyncio.run(_watch(arguments.env_file, arguments.seconds, _document if arguments.json else line))
    return 0


async def _watch(env_file: Path, seconds: float | None, shown: Callable[[SecurityEvent], str]) -> None:
    import asyncio

    from redkeep.monitoring.alert_settings import AlertSettings
    from redkeep.monitoring.service import MonitoringService

    service = MonitoringService(env_file=env_file, state_file=None, alerts=AlertSettings())
    if not service.watches:
        raise ConfigurationError(f"REDIS_MONITOR_PASSWORD is not set in {env_file}; the operator has it: `redkeep secrets show --reveal monitor`")
    service.monitor.subscribe(lambda event: print(shown(event), flush=True))
    await service.start()
    try:
        end = None if seconds is None else time.monotonic() + seconds
        while end is None or time.monotonic() < end:
            await asyncio.sleep(0.2)
    finally:
        await service.close()


def line(event: SecurityEvent) -> str:
    """One line: when, how bad, what, who, and the details; names are harmless already."""
    who = f"  user={event.username}" if event.username is not None else ""
    times = f"  x{event.count}" if event.count > 1 else ""
    details = "".join(f"  {name}={value}" for name, value in event.details.items() if value not in (None, ""))
    unsent = event.type == "alert" and not event.details.get("channels")
    what = "alert due, watch sends none" if unsent else kind(event.as_dict())
    return f"{event.timestamp.astimezone():%H:%M:%S}  {_MARKS[event.severity]}{what}{times}{who}{details}"


def _document(event: SecurityEvent) -> str:
    return json.dumps(event.as_dict())
